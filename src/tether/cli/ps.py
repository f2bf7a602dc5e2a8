"""``tether ps`` and ``stats``: what there is, and what it uses."""

from __future__ import annotations

import sys
import time

from tether.cli import text
from tether.cli.arguments import Parser, seconds
from tether.cli.look import Seen, ask_all, is_far, look
from tether.cli.records import Records, meaning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from tether.cli.records import Entry

__all__ = ["ps", "stats"]

_EVERY_S = 2.0
_SAMPLE_S = 1.0
_FILTERS = ("name", "owner", "kind", "state", "id")
_COLOURS = {
    "ready": "green",
    "starting": "yellow",
    "pending": "yellow",
    "stopping": "yellow",
    "failed": "red",
    "lost": "red",
    "unhealthy": "red",
    "backoff": "yellow",
}


def ps(argv: Sequence[str]) -> int:
    """List the resources on record, as they are now."""
    parser = Parser(
        "ps",
        "List the resources on record, as they are now: how long in which state and why, their processes with the resident "
        "memory and the CPU time of these, and where they answer.",
        "Filters: name=, owner=, kind=, state=, id=; each may have a pattern (name=web*). Of one key any may fit, of several "
        "keys each must.",
    )
    parser.names()
    parser.flag("-a", "--all", does="also what has ended", into="everything")
    parser.flag("-w", "--wide", does="all columns, nothing cut")
    parser.flag("-q", "--quiet", does="ids only")
    parser.add_argument("-f", "--filter", action="append", default=[], metavar="KEY=VALUE", help="only what fits")
    parser.add_argument(
        "--watch", nargs="?", type=seconds, const=_EVERY_S, metavar="S", help="again every S seconds (2), until Ctrl-C"
    )
    parser.json()
    given = parser.read(argv)
    wanted = _filters(given.filter, parser)
    records = Records()

    def show() -> None:
        seen = _seen(records, given, wanted)
        if given.as_json:
            text.print_json([each.info() for each in seen])
        elif given.quiet:
            for each in seen:
                text.say(each.row.id)
        else:
            narrowed = bool(given.names or wanted)
            _print(seen, records, wide=given.wide, everything=given.everything, narrowed=narrowed)

    if given.watch is None:
        show()
    else:
        _again(show, records, given.watch)
    return 0


def _filters(given: list[str], parser: Parser) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals or key not in _FILTERS:
            parser.error(f"there is no filter {each!r}; write KEY=VALUE with one of {', '.join(_FILTERS)}")
        wanted.setdefault(key, []).append(value)
    return wanted


def _seen(records: Records, given: Any, wanted: dict[str, list[str]]) -> list[Seen]:
    from fnmatch import fnmatchcase

    entries = records.entries(ended=given.everything)
    if given.names:
        meant = {entry.row.id for name in given.names for entry in meaning(name, entries)}
        entries = [entry for entry in entries if entry.row.id in meant]

    def fits(values: dict[str, str]) -> bool:
        return all(any(fnmatchcase(values[key], value) for value in wanted[key]) for key in values if key in wanted)

    entries = [
        entry
        for entry in entries
        if fits({"name": entry.row.name, "owner": entry.owner.name, "kind": entry.row.kind, "id": entry.row.id})
    ]
    if given.quiet and "state" not in wanted:
        # An id is on record: nobody has to be asked for it.
        return [Seen(entry, _on_record(entry), {}) for entry in entries]
    return [each for each in look(entries, records, details=given.as_json) if fits({"state": each.state})]


def _on_record(entry: Entry) -> Any:
    from tether.model import Status

    return Status(entry.row.state)


def _again(show: Callable[[], None], records: Records, every_s: float) -> None:
    """Show it until interrupted; on a terminal in its place."""
    on_terminal = sys.stdout.isatty()
    while True:
        if on_terminal:
            text.say("\x1b[H\x1b[2J" + time.strftime("%H:%M:%S") + f"  every {every_s:g} s, Ctrl-C ends\n")
        show()
        if not on_terminal:
            text.say()
        text.flush()
        time.sleep(max(0.1, every_s))
        records.refresh()


def _cpu(cpu_s: float | None) -> str:
    if cpu_s is None:
        return "-"
    return f"{cpu_s:.1f}s" if cpu_s < 60 else text.span(cpu_s)


def _print(seen: list[Seen], records: Records, *, wide: bool, everything: bool, narrowed: bool) -> None:
    if not seen:
        what = "nothing of what was asked for" if narrowed else "nothing"
        text.say(f"{what} {'on record' if everything else 'runs'} in {text.clean(records.state_dir)}")
        return
    if wide:
        _print_wide(seen)
        return
    heads = ["OWNER", "NAME", "STATE", "AGE", "PROCS", "MEM", "CPU", "URL, REASON"]
    rows = [
        [
            each.entry.owner.name,
            each.row.name,
            each.state,
            text.age(_since(each)),
            str(len(each.status.pids)) if each.status.pids else "-",
            text.size(each.memory_bytes),
            _cpu(each.cpu_s),
            "  ".join(part for part in (each.row.url, each.reason, each.weakness) if part) or "-",
        ]
        for each in seen
    ]
    text.print_table(heads, rows, elastic={7: 24, 0: 8, 1: 8}, colours=_coloured(seen, 2))


def _since(seen: Seen) -> float:
    # A plugin's row is written anew whenever more of its processes are seen.
    return seen.row.began if seen.row.kind == "plugin" else seen.row.changed


def _coloured(seen: list[Seen], column: int) -> dict[tuple[int, int], str]:
    colours = {}
    for number, each in enumerate(seen):
        orphaned = not each.row.state.is_final and not each.entry.owner_lives
        colours[number, column] = "red" if orphaned else _COLOURS.get(each.state, "dim")
    return colours


def _print_wide(seen: list[Seen]) -> None:
    heads = [
        "OWNER",
        "NAME",
        "KIND",
        "STATE",
        "AGE",
        "STARTED",
        "PID",
        "PROCS",
        "MEM",
        "CPU",
        "URL",
        "ON DEATH",
        "ID",
        "REASON",
    ]
    rows = [
        [
            each.entry.owner.name,
            each.row.name,
            each.row.kind,
            each.state,
            text.age(_since(each)),
            time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(each.row.began)),
            str(each.status.pids[0]) if each.status.pids else "-",
            str(len(each.status.pids)) if each.status.pids else "-",
            text.size(each.memory_bytes),
            _cpu(each.cpu_s),
            each.row.url or "-",
            each.row.on_death,
            each.row.id,
            "; ".join(part for part in (each.reason, each.weakness) if part),
        ]
        for each in seen
    ]
    text.print_table(heads, rows, colours=_coloured(seen, 3), wide=True)


# -- stats -------------------------------------------------------------------------------------------------------------


def stats(argv: Sequence[str]) -> int:
    """Show what resources use now."""
    parser = Parser(
        "stats",
        "Show what resources use now: CPU in percent of one core over a second, resident memory, processes. "
        "An engine or host is asked about what is its own.",
    )
    parser.names()
    parser.add_argument(
        "--watch", nargs="?", type=seconds, const=_EVERY_S, metavar="S", help="again every S seconds (2), until Ctrl-C"
    )
    parser.json()
    given = parser.read(argv)
    records = Records()

    def show() -> None:
        entries = records.named(given.names) if given.names else records.entries()
        used = _used([entry for entry in entries if not entry.row.state.is_final], records)
        if given.as_json:
            text.print_json(used)
            return
        rows = [
            [
                each["owner"],
                each["name"],
                "-" if each["cpu_percent"] is None else f"{each['cpu_percent']:.1f}%",
                text.size(each["memory_bytes"]),
                "-" if each["processes"] is None else str(each["processes"]),
            ]
            for each in used
        ]
        text.print_table(["OWNER", "NAME", "CPU", "MEM", "PROCS"], rows, elastic={0: 8, 1: 8})

    if given.watch is None:
        show()
    else:
        _again(show, records, given.watch)
    return 0


def _used(entries: list[Entry], records: Records) -> list[dict[str, Any]]:
    """Return what resources use; CPU is what they took between two looks."""
    began = time.monotonic()
    before = _usage(entries, records)
    time.sleep(max(0.0, _SAMPLE_S - (time.monotonic() - began)))
    took = time.monotonic() - began
    after = _usage(entries, records)
    used = []
    for entry in entries:
        first, second = before[entry.row.id], after[entry.row.id]
        known = first[1] is not None and second[1] is not None
        used.append(
            {
                "owner": entry.owner.name,
                "name": entry.row.name,
                "id": entry.row.id,
                "cpu_percent": max(0.0, 100 * (second[1] - first[1]) / took) if known else None,
                "cpu_s": second[1],
                "memory_bytes": second[2],
                "processes": second[0],
            }
        )
    return used


def _usage(entries: list[Entry], records: Records) -> dict[str, Any]:
    """Return the processes, CPU seconds and memory of each resource, by its id."""
    far = [entry for entry in entries if _must_ask(entry, records)]
    asked = {entry.row.id for entry in far}
    used: dict[str, Any] = {
        each.row.id: (len(each.status.pids) or None, each.cpu_s, each.memory_bytes)
        for each in look([entry for entry in entries if entry.row.id not in asked], records)
    }

    def ask(entry: Entry) -> Any:
        try:
            usage = records.drivers.of(entry.row.kind).usage(entry.row.handle)  # type: ignore[arg-type]
        except Exception:
            return (None, None, None)
        return (usage.processes, usage.cpu_s, usage.memory_bytes)

    answers = ask_all([lambda entry=entry: ask(entry) for entry in far], (None, None, None)) if far else []  # type: ignore[misc]
    used.update({entry.row.id: answer for entry, answer in zip(far, answers, strict=True)})
    return used


def _must_ask(entry: Entry, records: Records) -> bool:
    handle = entry.row.handle
    return handle is not None and entry.row.kind != "process" and is_far(entry.row, records.drivers)
