"""The output of resources as files of the state directory: where each is, and its last lines, however long it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["files", "last_lines", "path", "read_from", "read_last", "start_of_last", "tail"]

_BLOCK = 64 * 1024
_MOST_TAIL_BYTES = 16 << 20
"""So much of a log is returned as text, should its lines be that long."""
_MOST_AT_ONCE = 16 << 20


def path(state_dir: Path, tag: str) -> Path:
    """Return the file for the output of the resource with a tag, written as it comes or saved at its end."""
    return state_dir / "logs" / f"{tag}.log"


def files(state_dir: Path, tag: str) -> tuple[Path, ...]:
    """Return every file that may have output of a resource: the one written now, and what was rotated out of it."""
    current = path(state_dir, tag)
    return current, current.with_name(f"{current.name}.1")


def last_lines(data: bytes, lines: int | None) -> bytes:
    """Return the last lines of some output; all of it for None."""
    if lines is None:
        return data
    return b"".join(data.splitlines(keepends=True)[-lines:] if lines else [])


def start_of_last(file: BinaryIO, lines: int) -> int:
    """Return where the last lines of a file begin. Reads backwards, and no more than that takes."""
    end = file.seek(0, os.SEEK_END)
    if lines <= 0:
        return end
    missing = lines + 1
    position = end
    while position > 0:
        start = max(0, position - _BLOCK)
        file.seek(start)
        block = file.read(position - start)
        if position == end and not block.endswith(b"\n"):
            # The last line is not complete yet, and counts all the same.
            missing -= 1
        found = len(block)
        while missing and (found := block.rfind(b"\n", 0, found)) >= 0:
            missing -= 1
        if not missing:
            return start + found + 1
        position = start
    return 0


def read_last(file: BinaryIO, lines: int | None) -> Iterator[bytes]:
    """Yield the last lines of a file, or all of it, piece by piece, up to where it ends now."""
    left = file.seek(0, os.SEEK_END)
    start = 0 if lines is None else start_of_last(file, lines)
    left -= start
    file.seek(start)
    while left > 0 and (data := file.read(min(_BLOCK, left))):
        left -= len(data)
        yield data


def read_from(file: Path, start: int) -> tuple[bytes, int]:
    """Return what a file has from a position on, 16 MB at most, and where that ends; from its start if it got shorter.

    Raises OSError.
    """
    with file.open("rb") as opened:
        position = start if start <= opened.seek(0, os.SEEK_END) else 0
        opened.seek(position)
        data = opened.read(_MOST_AT_ONCE)
    return data, position + len(data)


def tail(file: Path | None, lines: int) -> str:
    """Return the last lines of a file, as text; empty if there is no file."""
    if file is None or lines <= 0:
        return ""
    try:
        with file.open("rb") as opened:
            start = start_of_last(opened, lines)
            end = opened.seek(0, os.SEEK_END)
            opened.seek(max(start, end - _MOST_TAIL_BYTES))
            data = opened.read(_MOST_TAIL_BYTES)
    except OSError:
        return ""
    return "\n".join(data.decode(errors="replace").splitlines()[-lines:])
