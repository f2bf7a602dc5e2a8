"""Environments on the disk: which is whole, which is half made, and who is making one."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tether.ledger import place
from tether.model import Handle, Progress

__all__ = [
    "BEGUN",
    "MARK",
    "await_quiet",
    "is_ours",
    "lock_is_free",
    "locked",
    "locked_if_free",
    "made_from",
    "remove",
    "write_synced",
]

_QUIET_S = 0.2
_QUIET_LOOKS = 25

MARK = "conda-meta/tether.json"
"""What a whole environment has, with the request that it was made from; written last."""

BEGUN = ".tether-begun"
"""What one that is being made has, or being removed."""


def made_from(prefix: Path) -> str | None:
    """Return the request that a whole environment was made from; None if it is not whole, or not there."""
    try:
        made: str = json.loads((prefix / MARK).read_text())["request"]
    except (OSError, ValueError, KeyError):
        return None
    return made


def is_ours(prefix: Path, handle: Handle) -> bool:
    """Whether the folder was made by tether: it is marked, or within the state directory."""
    return (prefix / BEGUN).exists() or (
        prefix.exists() and prefix.is_relative_to(Path(handle.data["lock"]).parents[1])
    )


def remove(prefix: Path) -> None:
    """Remove a folder; a removal that is interrupted leaves one that counts as half made."""
    if prefix.exists():
        (prefix / BEGUN).touch()
        (prefix / MARK).unlink(missing_ok=True)
        shutil.rmtree(prefix, onerror=_ignore_absent)


def await_quiet(prefix: Path) -> None:
    """Wait until nothing appears in a folder any more, five seconds at most."""
    seen: list[tuple[str, list[str], list[str]]] | None = None
    for _ in range(_QUIET_LOOKS):
        now = list(os.walk(prefix))
        if now == seen:
            return
        seen = now
        time.sleep(_QUIET_S)


def _ignore_absent(_: Any, __: str, failure: Any) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]


def write_synced(path: Path, text: str) -> None:
    """Write a file that is on the disk when this returns."""
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _lock_file(path: Path) -> Iterator[tuple[int, bool]]:
    """Open a lock's file and take the lock if nobody has it: the descriptor, and whether it is held. Closing it lets go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = place.open_private(path, os.O_RDWR)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except OSError:
            held = False
        yield fd, held
    finally:
        os.close(fd)


@contextmanager
def locked(path: Path, progress: Progress) -> Iterator[None]:
    """Hold a lock, waiting for whoever has it."""
    with _lock_file(path) as (fd, held):
        if not held:
            progress("waiting for another process that is making it")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock if nobody has it, and say whether it is held."""
    with _lock_file(path) as (_, held):
        yield held


def lock_is_free(path: Path) -> bool:
    """Whether nobody holds a lock now."""
    with locked_if_free(path) as free:
        return free
