"""What the command line prints: text from outside made harmless, tables that fit, colours, and a quiet end when nobody reads."""

from __future__ import annotations

import os
import sys
import time
from unicodedata import category, combining, east_asian_width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

__all__ = [
    "OutputError",
    "age",
    "cells",
    "clean",
    "columns",
    "cut",
    "die_of",
    "flush",
    "lines",
    "paint",
    "plain",
    "print_json",
    "print_table",
    "say",
    "size",
    "span",
    "warn",
]

_DEFAULT_COLUMNS = 80
_GAP = "  "
_HARMLESS = frozenset("\u200d")
_COLOURS = {"green": "32", "yellow": "33", "red": "31", "dim": "2", "bold": "1", "cyan": "36"}
_PREFIXES = ("green", "yellow", "cyan", "bold")


class OutputError(Exception):
    """Standard output can't be written, for instance because its disk is full."""


# -- text from outside -------------------------------------------------------------------------------------------------


def _shown(character: str) -> str:
    """One character, or how it is written down if it would act on a terminal or turn the text around."""
    # Cc: controls; Cf: marks of direction and the like; Cs: bytes that are no UTF-8; Zl, Zp: line ends.
    if category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or character in _HARMLESS:
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def clean(text: Any) -> str:
    """Return text from outside as one line that acts on nothing: a newline becomes a space, other controls are written down."""
    line = str(text)
    if line.isascii() and line.isprintable():
        return line
    return "".join(map(_shown, line.replace("\r\n", " ").replace("\n", " ").replace("\t", " ")))


def lines(text: Any) -> str:
    """Return text of several lines, each of which acts on nothing."""
    return "\n".join(clean(line) for line in str(text).split("\n"))


def plain(text: str) -> str:
    """Return text without the control sequences of terminals: for logs, where colours would be noise."""
    from tether.errors import without_escapes

    return without_escapes(text)


# -- sizes -------------------------------------------------------------------------------------------------------------


def cells(text: str) -> int:
    """Return how many columns of a terminal a line takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(each) else 2 if east_asian_width(each) in "WF" else 1 for each in text)


def cut(text: str, width: int) -> str:
    """Return a line cut to a width, with a mark where something is missing."""
    if cells(text) <= width:
        return text
    mark = "…" if _can_say("…") else "~"
    kept = text[: max(0, width - 1)]
    while cells(kept) > width - 1:
        kept = kept[:-1]
    return kept + mark if width > 0 else ""


def columns() -> int:
    """Return the width that output should fit: ``COLUMNS``, else the terminal's, else 80."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _DEFAULT_COLUMNS
    except (OSError, ValueError):
        return _DEFAULT_COLUMNS


def span(seconds: float) -> str:
    """Return a time span in its largest unit: ``45s``, ``3m``, ``5h``, ``2d``."""
    whole = int(max(0.0, seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= length:
            return f"{whole // length}{unit}"
    return f"{whole}s"


def age(since: float) -> str:
    """Return how long ago a time was, in seconds since the epoch."""
    return span(time.time() - since)


def size(count: float | None) -> str:
    """Return a number of bytes in its largest unit, as ``412M``; ``-`` if it is not known."""
    if count is None:
        return "-"
    for unit in ("B", "K", "M", "G"):
        if count < 1000:
            return f"{count:.1f}{unit}" if unit != "B" and count < 10 else f"{count:.0f}{unit}"
        count /= 1024
    return f"{count:.1f}T"


# -- output ------------------------------------------------------------------------------------------------------------


def die_of(signum: int) -> NoReturn:
    """End as a signal ends a program that does nothing about it, so that a shell sees why."""
    import signal

    signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signum])
    os.kill(os.getpid(), signum)
    os._exit(128 + signum)


def _failed(error: OSError | ValueError) -> NoReturn:
    if isinstance(error, BrokenPipeError):
        # The reader, for instance head(1), has seen enough.
        import signal

        die_of(signal.SIGPIPE)
    raise OutputError(getattr(error, "strerror", None) or str(error)) from error


def say(line: str = "") -> None:
    """Print a line."""
    try:
        sys.stdout.write(f"{line}\n")
    except (OSError, ValueError) as error:
        _failed(error)


def write(data: bytes) -> None:
    """Print bytes as they are."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except (OSError, ValueError) as error:
        _failed(error)


def flush() -> None:
    """Have what was printed reach its reader."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        _failed(error)


def warn(text: str) -> None:
    """Say something on standard error; where that can't be written there is nobody to tell."""
    try:
        sys.stderr.write(f"tether: {lines(text)}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        # The interpreter would try it once more at its end, and make that the exit code.
        sys.stderr = None


def in_own_words() -> None:
    """Keep Python from showing the warnings that the library logs: a command says itself what there is to say."""
    import logging

    logging.getLogger("tether").addHandler(logging.NullHandler())


def _can_say(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def can_draw() -> bool:
    """Whether lines of a drawing can be printed."""
    return _can_say("├─└│…")


def has_colours() -> bool:
    """Whether output is a terminal that shows colours, and the user wants them. Source: no-color.org."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout.isatty()


def paint(text: str, colour: str | None) -> str:
    """Return text in a colour, where there are colours."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if colour and text and has_colours() else text


def print_json(value: Any) -> None:
    """Print for programs."""
    import json

    say(json.dumps(value, indent=2, default=str))


def _fitted(widths: list[int], limit: int, elastic: Mapping[int, int]) -> list[int]:
    """Take from the elastic columns, in their order and down to the least width of each, what is over the limit."""
    fitted = list(widths)
    over = sum(fitted) + len(_GAP) * (len(fitted) - 1) - limit
    for column, least in elastic.items():
        taken = max(0, min(over, fitted[column] - least))
        fitted[column] -= taken
        over -= taken
    return fitted


def print_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    elastic: Mapping[int, int] | None = None,
    colours: Mapping[tuple[int, int], str] | None = None,
    wide: bool = False,
) -> None:
    """Print rows in columns that fit the terminal, or 80 columns where there is none.

    Args:
        heads: the names of the columns.
        rows: the cells; text from outside may stand in them.
        elastic: columns that may be cut to fit, in that order, and the least width of each.
        colours: of cells, by row and column.
        wide: cut nothing.
    """
    shown = [list(heads), *([clean(cell) for cell in row] for row in rows)]
    widths = [max(map(cells, column)) for column in zip(*shown, strict=True)]
    limit = columns()
    if not wide:
        widths = _fitted(widths, limit, elastic or {})
    for number, row in enumerate(shown):
        left = limit
        parts = []
        for column, cell in enumerate(row):
            text = cell if wide else cut(cell, min(widths[column], max(0, left)))
            left -= widths[column] + len(_GAP)
            colour = "bold" if number == 0 else (colours or {}).get((number - 1, column))
            last = column == len(row) - 1
            parts.append(paint(text, colour) + ("" if last else " " * (widths[column] - cells(text))))
        say(_GAP.join(parts).rstrip())
