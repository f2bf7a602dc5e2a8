"""Which shared memory a tree made. Source: shm_overview(7), proc_pid_maps(5).

A server group that is killed at once takes its resource tracker along, and its segments under /dev/shm stay, hundreds of
megabytes at a time. So they are noted before the end and removed after it, if nobody maps them any more.
"""

from __future__ import annotations

import os

from tether.linux import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["made_by", "remove_unused"]

FOLDER = "/dev/shm"


def _candidates(since: float) -> set[str]:
    """Paths of this user's segments that were made at or after ``since`` (seconds since the epoch)."""
    uid = os.getuid()
    found: set[str] = set()
    try:
        entries = list(os.scandir(FOLDER))
    except OSError:
        return found
    for entry in entries:
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if entry.is_file(follow_symlinks=False) and status.st_uid == uid and status.st_ctime >= since:
            found.add(entry.path)
    return found


def _mapped(pid: int, paths: set[str]) -> set[str]:
    try:
        maps = proc.read(f"/proc/{pid}/maps").decode(errors="surrogateescape")
    except OSError:
        return set()
    return {line.split(maxsplit=5)[5] for line in maps.splitlines() if FOLDER in line} & paths


def made_by(list_pids: Callable[[], Iterable[int]], since: float) -> set[str]:
    """Return the segments made since then that one of the pids maps.

    The pids are asked for only if there are such segments; otherwise this costs the listing of one folder.
    """
    candidates = _candidates(since)
    if not candidates:
        return set()
    return set().union(*(_mapped(pid, candidates) for pid in list_pids()))


def remove_unused(paths: set[str]) -> list[str]:
    """Remove those of ``paths`` that no process maps any more, and return them."""
    left = set(paths)
    for pid in proc.all_pids() if left else []:
        left -= _mapped(pid, left)
    removed = []
    for path in left:
        try:
            os.unlink(path)
        except OSError:
            continue
        removed.append(path)
    return removed
