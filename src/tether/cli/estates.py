"""``tether reap``, ``forget`` and ``prune``: what dead owners left, what can't be reached, and what has long ended."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import suppress

from tether.cli import text
from tether.cli.arguments import Parser, seconds
from tether.cli.look import look
from tether.cli.records import Records, state_dir
from tether.errors import Busy
from tether.ledger import logs, place
from tether.model import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tether.cli.records import Entry

__all__ = ["forget", "prune", "reap"]


def reap(argv: Sequence[str]) -> int:
    """End what owners left that are dead, whatever killed them."""
    parser = Parser(
        "reap",
        "End what owners left that are dead, whatever killed them. Exits with 1 if something could not be ended.",
    )
    parser.flag("-n", "--dry-run", does="only say what would be done: engines and hosts are asked, nothing is changed")
    parser.flag("--all", does="also what was kept for the next owner", into="everything")
    parser.flag("--force", does="also what is elsewhere, so that its owner can't be judged from here")
    parser.add_argument(
        "--engine",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="instead, what a container engine (the one in use) has of dead owners whose state directory has gone",
    )
    parser.add_argument(
        "--context",
        nargs="?",
        const="",
        metavar="CONTEXT",
        help="the same of a Kubernetes cluster (that of the kubeconfig's current context)",
    )
    parser.flag("--install", does="print a systemd unit and timer, and a cron line")
    parser.json()
    given = parser.read(argv)
    if given.install:
        _print_install()
        return 0
    far = {"container": given.engine, "kubernetes": given.context}
    for kind, where in far.items():
        if where is not None:
            return _reap_at(parser, kind, where, given)
    from dataclasses import asdict

    from tether.estate import settle
    from tether.estate.foresee import foresee

    records = Records()
    also = [owner.id for owner in records.reading.owners()] if given.force else []
    if given.dry_run:
        outcomes = foresee(records.reading, records.state_dir, kept_too=given.everything, also=also)
    else:
        ledger = records.open_ledger()
        outcomes = settle.sweep(ledger, records.state_dir, patient=True, kept_too=given.everything, also=also)
    if given.as_json:
        text.print_json([asdict(outcome) for outcome in outcomes])
    elif outcomes:
        rows = [[each.owner, each.name, each.kind, each.what, each.detail] for each in outcomes]
        text.print_table(["OWNER", "NAME", "KIND", "WHAT", "DETAIL"], rows, elastic={4: 20, 0: 8, 1: 8})
    else:
        text.say("nothing to settle: no owner has died and left something")
    return 1 if any(outcome.what == "failed" for outcome in outcomes) else 0


def _reap_at(parser: Parser, kind: str, where: str, given: Any) -> int:
    if given.everything or given.force:
        parser.error(
            "--engine and --context go by marks alone, and end nothing that may live: --all and --force are not for them"
        )
    if given.engine is not None and given.context is not None:
        parser.error("--engine and --context are looked at one at a time")
    from tether.cli.orphans import reap_at

    text.in_own_words()
    return reap_at(kind, where or None, dry_run=given.dry_run, as_json=given.as_json)


def _print_install() -> None:
    """Print how to have it done regularly, for the state directory in force. Nothing is imported from where it happens to run."""
    folder = str(state_dir())
    # -P: without the working directory, which may have a tether.py of its own, on the path of modules.
    command = [sys.executable, "-P", "-m", "tether", "reap"]
    unit = _INSTALL.format(
        variable=_in_unit(f"{place.VARIABLE}={folder}"),
        command=" ".join(_in_unit(word, dollar=True) for word in command),
        # A percent sign is a line end to cron.
        line=f"{place.VARIABLE}={shlex.quote(folder)} {shlex.join(command)}".replace("%", "\\%"),
    )
    text.say(unit.rstrip("\n"))


def _in_unit(word: str, *, dollar: bool = False) -> str:
    """Return a word as a unit file has it. Source: systemd.syntax(7), systemd.service(5)."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")
    if dollar:
        word = word.replace("$", "$$")
    return (
        f'"{word}"' if not word.replace("/", "").replace("-", "").replace(".", "").replace("_", "").isalnum() else word
    )


def forget(argv: Sequence[str]) -> int:
    """Give up a resource of a dead owner that can't be reached any more."""
    parser = Parser(
        "forget",
        "Give up a resource of a dead owner that can't be reached any more: it is not ended, only no longer on record as live. "
        "Says what is given up. What can be reached is not forgotten: 'tether reap' ends it.",
    )
    parser.add_argument("name", metavar="NAME", help="its name, OWNER/NAME, or the beginning of its id")
    given = parser.read(argv)
    records = Records()
    (entry,) = records.named([given.name], one_each=True)[:1]
    row = entry.row
    if row.state.is_final:
        text.say(f"{row.name}: ended already, {text.age(row.changed)} ago ({row.state.value})")
        return 0
    if entry.is_elsewhere:
        raise Busy(
            f"resource {row.name} is elsewhere: its owner {entry.owner.name} is {entry.whereabouts}; forget it there"
        )
    if entry.owner_lives:
        raise Busy(
            f"resource {row.name} has a living owner, pid {entry.owner.identity.pid}; stop it there, or 'tether kill {row.id}'"
        )
    (seen,) = look([entry], records, details=True)
    if seen.status.state not in (State.LOST, State.GONE):
        raise Busy(f"resource {row.name} can be reached; 'tether reap' ends it")
    where = ", ".join(f"{key} {value}" for key, value in seen.details.items() if value is not None) or "where it was"
    error = row.reason or seen.status.reason
    said = f"given up by 'tether forget': if it still runs, nobody ends it ({where}); last error: {error}"
    records.open_ledger().write(
        row.id, row.fence, State.FAILED, [("forgotten", said)], reason=said, exit_code=row.exit_code
    )
    text.say(f"{row.name} ({row.kind}, id {row.id}): {text.clean(said)}")
    return 0


def prune(argv: Sequence[str]) -> int:
    """Remove records and logs of what has ended."""
    parser = Parser("prune", "Remove records and logs of what has ended. Nothing that lives is touched.")
    parser.add_argument("--older", type=seconds, default=0.0, metavar="S", help="only what ended before: 7d, 12h (all)")
    parser.flag("-n", "--dry-run", does="only say what would be removed")
    given = parser.read(argv)
    before = time.time() - given.older
    records = Records()
    old = [entry for entry in records.entries(ended=True) if entry.row.state.is_final and entry.row.changed < before]
    freed = sum(_bytes(entry, records) for entry in old)
    if given.dry_run:
        for entry in old:
            text.say(f"would remove {entry.full_name} ({entry.row.state.value} {text.age(entry.row.changed)} ago)")
    elif old:
        from tether.ledger.prune import prune as remove

        remove(records.open_ledger(), records.state_dir, given.older)
    verb = "would be removed" if given.dry_run else "removed"
    text.say(f"{len(old)} record{'' if len(old) == 1 else 's'} and {text.size(freed)} of logs {verb}")
    return 0


def _bytes(entry: Entry, records: Records) -> int:
    freed = 0
    for path in logs.files(records.state_dir, entry.row.id):
        with suppress(OSError):
            freed += path.stat().st_size
    return freed


_INSTALL = """\
# ~/.config/systemd/user/tether-reap.service
[Unit]
Description=End what dead tether owners left

[Service]
Type=oneshot
Environment={variable}
ExecStart={command}

# ~/.config/systemd/user/tether-reap.timer
[Unit]
Description=End what dead tether owners left, at boot and every five minutes

[Timer]
OnStartupSec=30
OnUnitActiveSec=5min

[Install]
WantedBy=timers.target

# Then: systemctl --user daemon-reload && systemctl --user enable --now tether-reap.timer
#
# Or, for cron, a line for 'crontab -e':
# */5 * * * * {line} >/dev/null
"""
