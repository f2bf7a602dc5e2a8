"""The output of resources as files of the state directory: where each is, and how it is read while it grows and is rotated.

A log is two files that are read as one: ``TAG.log``, which a command appends to, and ``TAG.log.1``, what was rotated out of it
last. See `tether.ledger.rotation` for how.
"""

from __future__ import annotations

import io
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = [
    "BEING_ROTATED",
    "CUT",
    "LONGEST_LINE",
    "LOST",
    "Log",
    "aside",
    "files",
    "last_lines",
    "path",
    "read",
    "read_from",
    "tail",
]

LONGEST_LINE = 1 << 20
"""Of a line with more bytes only the end is shown, where lines are counted: to look for its beginning may take for ever."""

BEING_ROTATED = stat.S_ISVTX
"""This bit of its mode says that what was rotated out may be in the log still."""

CUT = b"[tether: a line of more than 1 MB; its beginning is left out, and the lines before it]\n"
LOST = b"[tether: output was rotated away before it could be read here; see log_max=]\n"

_BEGIN = "user.tether.begin"
_BLOCK = 64 * 1024
_LOOKS = 50
_PAUSE_S = 0.01
_MOST_AT_ONCE = 16 << 20


def path(state_dir: Path, tag: str) -> Path:
    """Return the file for the output of the resource with a tag, written as it comes or saved at its end."""
    return state_dir.joinpath("logs", f"{tag}.log")


def aside(log: Path) -> Path:
    """Return the file for what was rotated out of a log."""
    return log.with_name(f"{log.name}.1")


def of_stream(log: Path, stream: str) -> Path:
    """Return the file beside a resource's log for what went to "stdout" or "stderr", where the two are kept apart."""
    return log.with_name(f"{log.stem}.{stream}.log")


def files(state_dir: Path, tag: str) -> tuple[Path, ...]:
    """Return every file that may have output of a resource: those written now, and what was or is just rotated out of them."""
    log = path(state_dir, tag)
    current = (log, of_stream(log, "stdout"), of_stream(log, "stderr"))
    return tuple(each for one in current for each in (one, aside(one), one.with_name(f"{one.name}.new")))


def _begin(fd: int, otherwise: int) -> int:
    try:
        return int(os.getxattr(fd, _BEGIN))
    except (OSError, ValueError):
        return otherwise


def set_begin(fd: int, begin: int) -> None:
    """Note in what was rotated out where it begins in all that was ever written, where the file system can."""
    with suppress(OSError):
        os.setxattr(fd, _BEGIN, str(begin).encode())


def end_of_aside(log: Path) -> int:
    """Return where what was rotated out of a log last ends, in all that was ever written: there the log begins."""
    try:
        with aside(log).open("rb") as file:
            return _begin(file.fileno(), 0) + os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return 0


def last_lines(data: bytes, lines: int | None) -> bytes:
    """Return the last lines of some output; all of it for None."""
    if lines is None:
        return data
    return b"".join(data.splitlines(keepends=True)[-lines:] if lines else [])


class Log:
    """A log that is read while it may be written and rotated.

    A position is that of the same byte over every rotation, for as long as that byte is kept. Nothing is locked or written.

    Attributes:
        begin: the position of the first byte that is kept.
        position: where `news` goes on.

    Raises:
        OSError: the log can't be read; every method may.
    """

    def __init__(self, log: Path) -> None:
        self.begin = 0
        self._file = log.open("rb", buffering=0)
        self._aside_path = aside(log)
        self._aside: io.FileIO | None = None
        self._aside_size = 0
        self._seen: tuple[int, bool] | None = None
        self.look()
        self.position = self.begin

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._aside is not None:
            self._aside.close()

    @property
    def written(self) -> float:
        """When something was last written, in seconds since the epoch."""
        return os.fstat(self._file.fileno()).st_mtime

    # -- rotations -----------------------------------------------------------------------------------------------------

    @property
    def _current(self) -> int:
        """The position at which the file begins that is written now."""
        return self.begin + self._aside_size

    def look(self) -> int:
        """Notice a rotation, and return the position where the log ends now."""
        while self._settled() != self._seen:
            self._reopen()
        return self._current + os.fstat(self._file.fileno()).st_size

    def _state(self) -> tuple[int, bool] | None:
        """What was rotated out last, and whether it may be in the log still."""
        try:
            status = self._aside_path.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, bool(status.st_mode & BEING_ROTATED)

    def _settled(self) -> tuple[int, bool] | None:
        """Wait for the end of a rotation. Who made it may have died of it: then lines are there twice, and read twice."""
        for _ in range(_LOOKS):
            state = self._state()
            if state is None or state == self._seen or not state[1]:
                break
            time.sleep(_PAUSE_S)
        return state

    def _reopen(self) -> None:
        """Open what was rotated out since the last look; what had been before is kept no longer."""
        if self._aside is not None:
            self._aside.close()
        try:
            self._aside = self._aside_path.open("rb", buffering=0)
        except FileNotFoundError:
            self.begin, self._aside_size, self._seen, self._aside = self._current, 0, None, None
            return
        status = os.fstat(self._aside.fileno())
        self.begin = _begin(self._aside.fileno(), self._current)
        self._aside_size, self._seen = status.st_size, (status.st_ino, bool(status.st_mode & BEING_ROTATED))

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, at: int, most: int = _BLOCK) -> tuple[int, bytes]:
        """Return some bytes from a position on, and the position after them; none where the log ends.

        What is not kept any more is passed over. Where somebody emptied the file, it goes on with what is written since.
        """
        while True:
            if max(at, self.begin) > self.look():
                at = self._current
            at = max(at, self.begin)
            offset = at - self.begin
            if self._aside is not None and offset < self._aside_size:
                data = os.pread(self._aside.fileno(), min(most, self._aside_size - offset), offset)
            else:
                data = os.pread(self._file.fileno(), most, offset - self._aside_size)
            if self._state() == self._seen:
                return at + len(data), data

    def last(self, lines: int | None) -> Iterator[bytes]:
        """Yield the last lines, or all that is kept for None, in pieces, up to where the log ends now; `news` goes on there."""
        end = self.look()
        self.position = self.begin
        if lines is not None:
            self.position, is_cut = self._start_of_last(lines, end)
            if is_cut:
                yield CUT
        while self.position < end:
            self.position, data = self.read(self.position, min(_BLOCK, end - self.position))
            if not data:
                return
            yield data

    def news(self) -> bytes:
        """Return some of what was written since; empty if there is nothing now."""
        before = self.position
        self.position, data = self.read(before)
        return LOST + data if data and self.begin > before else data

    def _start_of_last(self, lines: int, end: int) -> tuple[int, bool]:
        """Return where the last lines begin, and whether that is within a line. Reads backwards, and no more than that takes."""
        if lines <= 0:
            return end, False
        missing = lines if self._ends_open(end) else lines + 1
        position = line = end
        while position > self.begin:
            start = max(self.begin, position - _BLOCK)
            if start < self._current < position:
                start = self._current
            after, block = self.read(start, position - start)
            if after != position:
                return self.begin, False
            found = len(block)
            while (found := block.rfind(b"\n", 0, found)) >= 0:
                missing, line = missing - 1, start + found
                if not missing:
                    return line + 1, False
            if line - start >= LONGEST_LINE:
                return start, True
            position = start
        return self.begin, False

    def _ends_open(self, end: int) -> bool:
        """Whether the last line is not complete yet: it counts all the same."""
        return end > self.begin and self.read(end - 1, 1)[1] != b"\n"


def read(log: Path, lines: int | None = None) -> bytes:
    """Return the last lines of a log, or all that is kept for None. Raises OSError."""
    opened = Log(log)
    try:
        return b"".join(opened.last(lines))
    finally:
        opened.close()


def read_from(log: Path, start: int) -> tuple[bytes, int]:
    """Return what a log has from a position on, 16 MB at most, and the position after that. Raises OSError."""
    opened = Log(log)
    try:
        after, data = opened.read(start, _MOST_AT_ONCE)
    finally:
        opened.close()
    return data, after


def tail(log: Path | None, lines: int | None) -> str:
    """Return the last lines of a log, or all that is kept for None, as text; empty if there is no log."""
    try:
        text = b"" if log is None else read(log, lines)
    except OSError:
        return ""
    said = text.decode(errors="replace")
    return said if lines is None else "\n".join(said.splitlines()[-lines:] if lines > 0 else [])
