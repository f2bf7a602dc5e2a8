"""``tether logs`` and ``attach``: what resources wrote, of one as it is, of several with the name before each line."""

from __future__ import annotations

import re
import sys
import time
from collections import deque

from tether.cli import text
from tether.cli.arguments import Parser, count, moment
from tether.cli.outputs import Output, follow, output_of
from tether.cli.records import Records
from tether.errors import TetherError
from tether.ledger.logs import LONGEST_LINE
from tether.model import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from tether.cli.records import Entry

__all__ = ["attach", "logs"]

_LAST_LINES = 10
_SIGNALLED = 128

_PREFIX_COLOURS = ("cyan", "green", "yellow", "bold")
_OWN_TIME = re.compile(
    rb"[^0-9]{0,24}?(\d{4})[-/](\d\d)[-/](\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,]\d+)?(Z|[+-]\d\d:?\d\d)?"
)
"""A time that a program wrote at the beginning of a line: date and time, perhaps behind a level or a bracket."""
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")


def logs(argv: Sequence[str]) -> int:
    """Print what resources wrote; also of those that have ended."""
    parser = Parser(
        "logs",
        "Print what resources wrote; also of those that have ended. Of one it is printed as it was written; of several each line "
        "has the name before it.",
        "Output is not stamped when it is written: --since and -t go by the times that a program writes at the beginning of its "
        "lines, else by when the log was last written, and with -f by when a line came.",
    )
    parser.names("+")
    parser.flag("-f", "--follow", does="go on until they have ended")
    parser.add_argument("-n", "--tail", type=count, metavar="N", help="only the last N lines of each")
    parser.add_argument("--since", type=moment, metavar="T", help="nothing from before: 10m, 2026-11-25T04:00, 04:00")
    parser.flag("-t", "--timestamps", does="the time before each line, '-' where it is not known")
    given = parser.read(argv)
    records = Records()
    entries = records.named(given.names)
    printer = _Printer([entry.full_name for entry in entries] if len(entries) > 1 else [], times=given.timestamps)
    outputs: list[Output] = []
    code = 0
    for number, entry in enumerate(entries):
        try:
            outputs.append(_begin(entry, number, given, printer, records))
        except TetherError as error:
            if len(entries) == 1:
                raise
            text.warn(str(error))
            code = 1
    if given.follow:
        for output, data in follow(outputs, records):
            printer.take(output.number, data, time.time())
    for output in outputs:
        printer.end(output.number)
    return code


def attach(argv: Sequence[str]) -> int:
    """Follow what one resource writes until it ends, and end as that does; Ctrl-C lets go of it."""
    parser = Parser(
        "attach",
        "Follow what a resource writes until it ends, and end with its exit code (128 and the number of its signal). Ctrl-C ends "
        "this command only.",
    )
    parser.name()
    parser.add_argument(
        "-n", "--tail", type=count, default=_LAST_LINES, metavar="N", help="begin with the last N lines (10)"
    )
    given = parser.read(argv)
    records = Records()
    entry = records.one(given.name)
    printer = _Printer([], times=False)
    output = output_of(entry, records, 0)
    for data in output.begin(given.tail):
        printer.take(0, data, at=None)
    text.flush()
    if not _follow_until_the_end(output, records, printer):
        text.warn(f"{entry.full_name} goes on")
        return 0
    row = records.reading.resource(entry.row.id) or entry.row
    text.flush()
    text.warn(f"{entry.full_name}: {row.state.value}" + (f" ({row.reason})" if row.reason else ""))
    if row.exit_code is None:
        return 0 if row.state is State.GONE else 1
    return row.exit_code if row.exit_code >= 0 else _SIGNALLED - row.exit_code


def _follow_until_the_end(output: Output, records: Records, printer: _Printer) -> bool:
    """Print what is written; False if Ctrl-C came first."""
    import signal

    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _, data in follow([output], records):
            printer.take(0, data, time.time())
    except KeyboardInterrupt:
        return False
    return True


def _begin(entry: Entry, number: int, given: Any, printer: _Printer, records: Records) -> Output:
    """Print what was written until now, as far as it is wanted. Raises TetherError."""
    output = output_of(entry, records, number)
    if given.since is None:
        for data in output.begin(given.tail):
            printer.take(number, data, at=None)
    elif output.written is None or output.written >= given.since:
        kept: Iterable[bytes] = _since(output.begin(None), given.since)
        for line in kept if given.tail is None else deque(kept, given.tail):
            printer.take(number, line, at=None)
    else:
        output.skip()
    if not given.follow:
        printer.end(number)
    return output


# -- times -------------------------------------------------------------------------------------------------------------


def _own_time(line: bytes) -> float | None:
    """Return the time that a program wrote at the beginning of a line, in seconds since the epoch."""
    found = _OWN_TIME.match(line)
    if found is None:
        return None
    from datetime import datetime

    *numbers, zone = found.groups()
    year, month, day, hour, minute, second = (part.decode() for part in numbers)
    said = f"{year}-{month}-{day}T{hour}:{minute}:{second}" + (zone.decode().replace("Z", "+00:00") if zone else "")
    try:
        return datetime.fromisoformat(said).astimezone().timestamp()
    except (ValueError, OverflowError):
        return None


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines with their ends; one that is too long for the memory in several parts."""
    rest = bytearray()
    for piece in pieces:
        *lines, last = piece.split(b"\n")
        for line in lines:
            yield bytes(rest) + line + b"\n"
            rest.clear()
        rest += last
        if len(rest) > LONGEST_LINE:
            yield bytes(rest)
            rest.clear()
    if rest:
        yield bytes(rest)


def _since(pieces: Iterable[bytes], since: float) -> Iterator[bytes]:
    """Leave out what is known to be from before a time; a line without a time is as old as the one above it."""
    at: float | None = None
    for line in _lines(pieces):
        at = _own_time(line) or at
        if at is None or at >= int(since):
            yield line


# -- printing ----------------------------------------------------------------------------------------------------------


class _Printer:
    """Prints the output of one or several.

    Args:
        names: of the resources, if there are several.
        times: put the time before each line.
    """

    def __init__(self, names: list[str], *, times: bool) -> None:
        width = max(map(len, names), default=0)
        self._prefixes = [
            text.paint(f"{name.ljust(width)} |", _PREFIX_COLOURS[number % len(_PREFIX_COLOURS)]) + " "
            for number, name in enumerate(names)
        ]
        self._times = times
        self._is_terminal = sys.stdout.isatty()
        self._rest: dict[int, bytes] = {}
        self._cut: set[int] = set()

    def take(self, number: int, data: bytes, at: float | None) -> None:
        """Print output; ``at`` is when it came, None if it had come before."""
        if not self._prefixes and not self._times:
            if data:
                text.write(self._harmless(data))
            return
        *lines, rest = (self._rest.pop(number, b"") + data).split(b"\n")
        for line in lines:
            if number in self._cut:
                self._cut.remove(number)
            else:
                self._line(number, line, at)
        if number not in self._cut and len(rest) > LONGEST_LINE:
            self._line(number, rest + b" [tether: a line of more than 1 MB; the rest of it is left out]", at)
            self._cut.add(number)
        if rest and number not in self._cut:
            self._rest[number] = rest

    def end(self, number: int) -> None:
        """Print what has no line end."""
        rest = self._rest.pop(number, b"")
        if rest:
            self._line(number, rest, None)

    def _line(self, number: int, line: bytes, at: float | None) -> None:
        stamp = b""
        if self._times:
            when = at or _own_time(line)
            said = "-".ljust(19) if when is None else time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(when))
            stamp = f"{said} ".encode()
        prefix = self._prefixes[number].encode() if self._prefixes else b""
        text.write(prefix + stamp + self._harmless(line) + b"\n")

    def _harmless(self, data: bytes) -> bytes:
        """On a terminal output keeps its colours, and does nothing else to it; a file or a pipe gets it as it is."""
        if not self._is_terminal:
            return data
        parts = []
        for line in data.decode(errors="surrogateescape").split("\n"):
            at = 0
            shown = ""
            for colour in _COLOUR.finditer(line):
                shown += _kept(line[at : colour.start()]) + colour.group()
                at = colour.end()
            parts.append(shown + _kept(line[at:]) + ("\x1b[0m" if at else ""))
        return "\n".join(parts).encode(errors="backslashreplace")


def _kept(part: str) -> str:
    """Text of a line; tabs and a carriage return, which progress bars use, stay."""
    return "".join(each if each in "\t\r" else text.clean(each) for each in re.split(r"([\t\r])", part))
