"""Keep a log small that its command appends to: its head goes into a second file, and out of the first.

On ext4 and xfs the head is taken out in one step of the kernel's, which comes before or after whatever is appended: no byte is
lost, or there twice. Elsewhere the file is copied and emptied, as everybody does, and what is written in the microseconds
between the two is lost. Whoever reads meanwhile sees by a bit of the second file's mode that he has to wait a moment; see
`tether.ledger.logs.Log`.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from tether.ledger import logs, place
from tether.linux import shorten

__all__ = ["is_over", "rotate"]

_BLOCK = 1 << 20


def is_over(log: Path, most: int) -> bool:
    """Whether a log takes more of the disk than so many bytes."""
    try:
        return _bytes(log.stat()) > most
    except OSError:
        return False


def _bytes(status: os.stat_result) -> int:
    # A program that opened its output anew, and does not append, writes behind a hole as long as all that it wrote before.
    return min(status.st_size, status.st_blocks * 512)


def rotate(log: Path, most: int) -> bool:
    """Rotate a log that takes more than ``most`` bytes: so many go into the second file.

    Returns:
        False if it need not be, or somebody else is at it.

    Raises:
        OSError: it can't be done, for instance for a full disk; all lines are still there.

    Crash:
        The log is as it was, or rotated; killed in the microseconds between the two, lines are there twice until the next rotation.
    """
    fd = os.open(log, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # Of several who adopt, sweep or own, one does it. Nobody else locks a log.
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _bytes(os.fstat(fd)) > most:
                _move_head(fd, log, most)
                return True
    finally:
        os.close(fd)
    return False


def _move_head(fd: int, log: Path, most: int) -> None:
    size, block = os.fstat(fd).st_size, os.fstatvfs(fd).f_bsize
    # What is more than twice too long, since nobody was there, loses its beginning.
    wanted = max(most, size - most)
    # The kernel takes whole blocks out, and never all of them.
    end = min(-(-wanted // block), (size - 1) // block) * block
    start = max(end - most, os.lseek(fd, 0, os.SEEK_DATA))
    begin = logs.end_of_aside(log) + start
    new = log.with_name(f"{log.name}.new")
    with os.fdopen(place.open_private(new, os.O_RDWR | os.O_TRUNC), "wb", buffering=0) as out:
        try:
            _copy(fd, out.fileno(), start, end)
            logs.set_begin(out.fileno(), begin)
            os.fchmod(out.fileno(), 0o600 | logs.BEING_ROTATED)
            new.rename(logs.aside(log))
        except OSError:
            new.unlink(missing_ok=True)
            raise
        try:
            if end == 0 or not shorten.collapse(fd, end):
                _copy(fd, out.fileno(), max(start, end), None)
                os.ftruncate(fd, 0)
        finally:
            os.fchmod(out.fileno(), 0o600)


def _copy(source: int, target: int, start: int, end: int | None) -> None:
    """Copy from one file to the end of another, up to a position, or as far as there is anything."""
    while end is None or start < end:
        copied = os.sendfile(target, source, start, _BLOCK if end is None else min(_BLOCK, end - start))
        if not copied:
            return
        start += copied
