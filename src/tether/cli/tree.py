"""``tether tree``: owners, their resources, and who is below whom."""

from __future__ import annotations

import sys

from tether.cli import text
from tether.cli.arguments import Parser
from tether.cli.look import Seen, look
from tether.cli.records import Records
from tether.estate.standing import Standing
from tether.linux import proc
from tether.linux import tree as trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ["command_of", "roots", "tree"]

_ASCII = {"├── ": "|-- ", "└── ": "`-- ", "│   ": "|   "}


def tree(argv: Sequence[str]) -> int:
    """Show owners, their resources, and the processes of each."""
    parser = Parser("tree", "Show owners, their resources, and the processes of each, who is below whom.")
    parser.names()
    parser.flag("-w", "--wide", does="cut no line")
    parser.json()
    given = parser.read(argv)
    records = Records()
    entries = records.named(given.names) if given.names else records.entries()
    seen = look(entries, records, details=given.as_json)
    if given.as_json:
        text.print_json([{**each.info(), "processes": roots(each)} for each in seen])
        return 0
    owners: dict[str, list[Seen]] = {}
    if not given.names:
        owners = {owner.id: [] for owner in records.reading.owners() if records.standing(owner) is not Standing.DEAD}
    for each in seen:
        owners.setdefault(each.entry.owner.id, []).append(each)
    limit = text.columns() if sys.stdout.isatty() and not given.wide else sys.maxsize
    drawing = _Drawing(limit)
    for owner_id, resources in owners.items():
        owner = resources[0].entry.owner if resources else records.reading.owner(owner_id)
        if owner is not None:
            life = {Standing.DEAD: ", dead", Standing.ELSEWHERE: ", elsewhere"}.get(records.standing(owner), "")
            drawing.line("", f"{owner.name} (pid {owner.identity.pid}{life})")
        drawing.children("", [(_title(each), roots(each)) for each in resources])
    if not owners:
        text.say(f"nothing runs in {text.clean(records.state_dir)}")
    return 0


def _title(seen: Seen) -> str:
    parts = [seen.row.name, seen.row.kind, seen.state, seen.row.url or "", f"({seen.reason})" if seen.reason else ""]
    return "  ".join(part for part in parts if part)


class _Drawing:
    """Lines, each behind what joins it to the one above it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._draws = text.can_draw()

    def line(self, before: str, said: str) -> None:
        text.say(text.cut(before + text.clean(said), self._limit))

    def children(self, before: str, titled: list[tuple[str, list[dict[str, Any]]]]) -> None:
        for number, (title, below) in enumerate(titled):
            is_last = number == len(titled) - 1
            self.line(before + self._part("└── " if is_last else "├── "), title)
            inner = before + (" " * 4 if is_last else self._part("│   "))
            self.children(inner, [(f"{each['pid']} {each['command']}", each["children"]) for each in below])

    def _part(self, part: str) -> str:
        return part if self._draws else _ASCII[part]


def command_of(pid: int) -> str:
    """Return the command line of a process; its name in brackets where it has none."""
    try:
        words = proc.read(f"/proc/{pid}/cmdline").rstrip(b"\0").replace(b"\0", b" ").decode(errors="surrogateescape")
    except OSError:
        words = ""
    stat = proc.read_stat(pid)
    return words or (f"[{stat.name.decode(errors='surrogateescape')}]" if stat else "(ended)")


def _below(pid: int) -> dict[str, Any]:
    return {
        "pid": pid,
        "command": command_of(pid),
        "children": [_below(child) for child in trees.children(pid) if trees.is_running(child)],
    }


def roots(seen: Seen) -> list[dict[str, Any]]:
    """Return the processes of a resource that are nobody's child within it, each with what is below it."""
    pids = set(seen.status.pids)
    parents = {pid: stat.ppid for pid in pids if (stat := proc.read_stat(pid)) is not None}
    return [_below(pid) for pid in seen.status.pids if parents.get(pid) not in pids]
