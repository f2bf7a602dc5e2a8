"""``tether events``: what happened, who did it, and how that is known."""

from __future__ import annotations

import json
import time

from tether.cli import text
from tether.cli.arguments import Parser, count, moment
from tether.cli.records import Records, is_pattern, meaning
from tether.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tether.ledger.rows import EventRow, OwnerRow

__all__ = ["event_info", "events", "line_of"]

_PAUSE_S = 0.2
_LAST = 50


def events(argv: Sequence[str]) -> int:
    """Show what happened: who ended what, why, and how that is known."""
    parser = Parser(
        "events",
        "Show what happened: who ended what, why, and the proof, in square brackets. NAME/ is an owner with all that is its.",
    )
    parser.names()
    parser.flag("-f", "--follow", does="go on until interrupted")
    parser.add_argument(
        "-n", "--tail", type=count, metavar="N", help=f"how many to begin with ({_LAST}; all with --since)"
    )
    parser.add_argument(
        "--since", type=moment, default=0.0, metavar="T", help="not before: 10m, 2026-11-25T04:00, 04:00"
    )
    parser.json()
    given = parser.read(argv)
    last = given.tail if given.tail is not None else (None if given.since else _LAST)
    records = Records()
    of = _wanted(given.names, records) if given.names else None
    rows = records.reading.events(since=given.since, last=last, of=of)
    _print(rows, as_json=given.as_json)
    seq = max((row.seq for row in rows), default=0) or max(
        (row.seq for row in records.reading.events(last=1)), default=0
    )
    while given.follow:
        text.flush()
        time.sleep(_PAUSE_S)
        records.refresh()
        of = _wanted(given.names, records) if given.names else None
        rows = records.reading.events(after=seq, of=of)
        _print(rows, as_json=given.as_json)
        seq = max((row.seq for row in rows), default=seq)
    return 0


def _wanted(names: Sequence[str], records: Records) -> tuple[list[str], list[str]]:
    """Return the ids of the resources, of every life that is on record, and of the owners that the names mean."""
    tags: list[str] = []
    ids: list[str] = []
    for name in names:
        entries = records.entries(ended=True) if is_pattern(name) else records.candidates(name, last=-1)
        meant = [entry.row.id for entry in meaning(name, entries)]
        whole = [owner.id for owner in _owners(name, records)]
        if not meant and not whole:
            raise NotFound(
                f"there is no resource {name!r} in {records.state_dir}. See 'tether ps --all' and 'tether events'"
            )
        tags += meant
        ids += whole
    return tags, ids


def _owners(name: str, records: Records) -> list[OwnerRow]:
    """The owners that ``NAME/`` means."""
    from fnmatch import fnmatchcase

    owners = records.reading.owners(ended=True) if name.endswith("/") else []
    return [owner for owner in owners if fnmatchcase(owner.name, name[:-1])]


def event_info(row: EventRow) -> dict[str, Any]:
    """Return an event ready for JSON."""
    return {
        "seq": row.seq,
        "at": row.at,
        "owner": row.owner,
        "resource": row.resource,
        "name": row.name,
        "what": row.what,
        "detail": row.detail,
    }


def line_of(row: EventRow) -> str:
    """Return an event as a line."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.at))
    return f"{when}  {text.clean(row.name):<16}  {text.clean(row.what):<12}  {text.clean(row.detail)}".rstrip()


def _print(rows: list[EventRow], *, as_json: bool) -> None:
    for row in rows:
        text.say(json.dumps(event_info(row)) if as_json else line_of(row))
