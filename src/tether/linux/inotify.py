"""Hear of it when files come and go, or are written, without looking. Source: inotify(7)."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

__all__ = ["once_written", "opened", "stop", "watch", "written"]

_IN_MODIFY, _IN_ONESHOT = 0x2, 0x80000000
_IN_MOVED_FROM, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x40, 0x80, 0x100, 0x200
_IN_DELETE_SELF, _IN_MOVE_SELF = 0x400, 0x800
_CHANGES = _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE | _IN_DELETE_SELF | _IN_MOVE_SELF
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


def opened() -> int:
    """Return a descriptor that can be read whenever something happened to what it watches. Raises OSError."""
    fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    return fd


def _add(fd: int, path: str, mask: int) -> int:
    number: int = _libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask))
    if number < 0:
        raise OSError(ctypes.get_errno(), "inotify_add_watch", path)
    return number


def watch(folder: str) -> int:
    """Return a descriptor that can be read whenever a name in ``folder`` has come or gone. Raises OSError."""
    fd = opened()
    try:
        _add(fd, folder, _CHANGES)
    except OSError:
        os.close(fd)
        raise
    return fd


def once_written(fd: int, path: Path) -> int:
    """Watch a file until it is written next, and return the number under which that is told. Raises OSError."""
    return _add(fd, str(path), _IN_MODIFY | _IN_ONESHOT)


def stop(fd: int, number: int) -> None:
    """Watch a file no longer. Whatever was written since is told all the same, or not."""
    _libc.inotify_rm_watch(fd, number)


def written(fd: int) -> list[int]:
    """Return the numbers of the files that were written."""
    found = []
    try:
        data = os.read(fd, 1 << 16)
    except BlockingIOError:
        return []
    at = 0
    while at < len(data):
        number, mask, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size + length
        if mask & _IN_MODIFY:
            found.append(number)
    return found
