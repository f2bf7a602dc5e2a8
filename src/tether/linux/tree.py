"""Who is below a pid."""

from __future__ import annotations

import os

from tether.linux import proc, tier

__all__ = ["children", "descendants", "is_running", "line_of"]


def is_running(pid: int) -> bool:
    """Whether ``pid`` is a process, and more than a zombie."""
    if pid <= 0:
        return False
    stat = proc.read_stat(pid)
    return stat is not None and stat.running


def _children_of_threads(pid: int) -> list[int]:
    """Read the children files of all threads of ``pid``. Raises OSError."""
    tasks = f"/proc/{pid}/task"
    # The link count of the folder is the number of threads plus two; most processes have one thread, and
    # then its name is known without listing the folder.
    if os.stat(tasks).st_nlink == 3:
        return [int(child) for child in proc.read(f"{tasks}/{pid}/children").split()]
    found: list[int] = []
    for thread in os.listdir(tasks):
        try:
            found += map(int, proc.read(f"{tasks}/{thread}/children").split())
        except (FileNotFoundError, ProcessLookupError):
            # A thread that ended: its children went to another thread or to their new parent.
            continue
    return found


def _has_children_file() -> bool:
    pid = os.getpid()
    return not tier.is_portable() and os.path.exists(f"/proc/{pid}/task/{pid}/children")


def children(pid: int) -> list[int]:
    """Return the children of ``pid``, zombies included; empty if it has gone.

    Source: proc(5) on /proc/PID/task/TID/children; where the kernel was built without it, every process is looked at.
    """
    if _has_children_file():
        try:
            return _children_of_threads(pid)
        except OSError:
            return []
    return [stat.pid for stat in proc.all_stats() if stat.ppid == pid]


def _below_by_files(pid: int) -> list[int]:
    found: list[int] = []
    queue = [pid]
    for parent in queue:
        try:
            below = _children_of_threads(parent)
        except OSError:
            continue
        found += below
        queue += below
    return found


def _below_by_table(pid: int) -> list[int]:
    by_parent: dict[int, list[int]] = {}
    for stat in proc.all_stats():
        by_parent.setdefault(stat.ppid, []).append(stat.pid)
    found: list[int] = []
    queue = [pid]
    for parent in queue:
        below = by_parent.pop(parent, [])
        found += below
        queue += below
    return found


def descendants(pid: int) -> list[int]:
    """Return every process below ``pid``, each once, parents before children; zombies are left out.

    It is a snapshot: what is forked or reparented meanwhile may be missing. Whoever must be sure (a shim that ends its
    tree) repeats until the kernel says ECHILD.
    """
    below = _below_by_files(pid) if _has_children_file() else _below_by_table(pid)
    return [each for each in dict.fromkeys(below) if is_running(each)]


def line_of(pid: int) -> set[int]:
    """Return ``pid`` and every process above it."""
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        stat = proc.read_stat(pid)
        pid = stat.ppid if stat else 0
    return found
