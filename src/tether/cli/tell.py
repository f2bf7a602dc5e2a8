"""``tether inspect`` and ``where``: all that is known of a resource, and where its things are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tether.cli import text
from tether.cli.arguments import Parser
from tether.cli.events import event_info
from tether.cli.look import look
from tether.cli.outputs import log_file
from tether.cli.records import Records
from tether.ledger import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tether.cli.look import Seen

__all__ = ["inspect", "where"]

_EVENTS = 20


def inspect(argv: Sequence[str]) -> int:
    """Print all that is known of resources, as JSON."""
    parser = Parser(
        "inspect", "Print all that is known of resources, as a JSON list. No secrets: they are on no record."
    )
    parser.names("+")
    given = parser.read(argv)
    records = Records()
    seen = look(records.named(given.names), records, details=True)
    text.print_json([_all_of(each, records) for each in seen])
    return 0


def _all_of(seen: Seen, records: Records) -> dict[str, Any]:
    from tether.cli.tree import roots

    row, owner = seen.row, seen.entry.owner
    log = log_file(row, records)
    return {
        **seen.info(),
        "keep_for": row.keep_for,
        "fence": row.fence,
        "log": None if log is None else str(log),
        "handle": None if row.handle is None else dict(row.handle.data),
        "processes": roots(seen),
        "owner_began": owner.began,
        "owner_ended": owner.ended,
        "events": [event_info(event) for event in records.reading.events(last=_EVENTS, of=([row.id], []))],
    }


def where(argv: Sequence[str]) -> int:
    """Say where things are."""
    parser = Parser(
        "where",
        "Say where the state directory is and what decided that; with names, where each resource's log is, where it answers, "
        "and its main process.",
    )
    parser.names()
    parser.json()
    given = parser.read(argv)
    records = Records()
    if not given.names:
        _print(_here(records), given.as_json)
        return 0
    found = []
    for each in look(records.named(given.names), records):
        log = log_file(each.row, records)
        found.append(
            {
                "name": each.entry.full_name,
                "id": each.row.id,
                "log": None if log is None else str(log),
                "url": each.row.url,
                "pid": each.status.pids[0] if each.status.pids else None,
            }
        )
    if given.as_json:
        text.print_json(found)
        return 0
    for one in found:
        name = one.pop("name")
        text.print_table(
            ["RESOURCE", str(name)],
            [[key, "-" if value is None else str(value)] for key, value in one.items()],
            wide=True,
        )
    return 0


def _here(records: Records) -> dict[str, Any]:
    from tether import __version__

    folder, ledger = records.state_dir, records.reading.path
    return {
        "state_directory": str(folder),
        "chosen_by": place.VARIABLE if os.environ.get(place.VARIABLE) else "default",
        "ledger": str(ledger),
        "ledger_bytes": ledger.stat().st_size if ledger.exists() else None,
        "logs": str(folder / "logs"),
        "tether": str(Path(__file__).parents[1]),
        "version": __version__,
        "python": sys.executable,
    }


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        text.print_json(found)
        return
    width = max(map(len, found))
    for key, value in found.items():
        text.say(f"{key.replace('_', ' ').ljust(width)}  {'not made yet' if value is None else text.clean(value)}")
