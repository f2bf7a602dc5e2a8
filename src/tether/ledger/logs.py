"""The output of resources as files of the state directory: where each is, and its last lines."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["last_lines", "path", "tail"]

_TAIL_BYTES = 64 * 1024


def path(state_dir: Path, tag: str) -> Path:
    """Return the file for the output of the resource with a tag, written as it comes or saved at its end."""
    return state_dir / "logs" / f"{tag}.log"


def last_lines(data: bytes, lines: int | None) -> bytes:
    """Return the last lines of some output; all of it for None."""
    if lines is None:
        return data
    return b"".join(data.splitlines(keepends=True)[-lines:] if lines else [])


def tail(file: Path | None, lines: int) -> str:
    """Return the last lines of a file, as text; empty if there is no file. Reads no more than that takes."""
    if file is None:
        return ""
    try:
        with file.open("rb") as opened:
            opened.seek(0, os.SEEK_END)
            size = opened.tell()
            span = max(_TAIL_BYTES, 512 * lines)
            opened.seek(max(0, size - span))
            data = opened.read()
    except OSError:
        return ""
    return "\n".join(data.decode(errors="replace").splitlines()[-lines:]) if lines else ""
