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


def _children_of_threads(pid: int, threads: int) -> list[int]:
    """Read the children files of all threads of ``pid``. Raises OSError."""
    tasks = f"/proc/{pid}/task"
    if threads == 1:
        # Then its name is known without listing the folder.
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
            return _children_of_threads(pid, proc.thread_count(pid))
        except OSError:
            return []
    return [stat.pid for stat in proc.all_stats() if stat.ppid == pid]


_MANY = 64
_TABLE_COSTS = 20


def _below_by_files(pid: int) -> list[int] | None:
    """Walk down the children files; None if the tree is so large that one look at every process costs less."""
    found: list[int] = []
    queue = [pid]
    for parent in queue:
        threads = proc.thread_count(parent)
        if not threads:
            # A zombie, or gone: its children have another parent.
            continue
        if parent != pid:
            found.append(parent)
        try:
            queue += _children_of_threads(parent, threads)
        except OSError:
            continue
        # The kernel counts processes in the links of /proc.
        if len(queue) > _MANY and len(queue) * _TABLE_COSTS > os.stat("/proc").st_nlink:
            return None
    return list(dict.fromkeys(found))


def _below_by_table(pid: int) -> list[int]:
    by_parent = proc.children_by_parent()
    queue = [pid]
    for parent in queue:
        queue += map(int, by_parent.pop(b"%d" % parent, ()))
    return queue[1:]


def descendants(pid: int) -> list[int]:
    """Return every process below ``pid``, each once, parents before children; zombies are left out.

    It is a snapshot: what is forked or reparented meanwhile may be missing. Whoever must be sure (a shim that ends its
    tree) repeats until the kernel says ECHILD.
    """
    below = _below_by_files(pid) if _has_children_file() else None
    return _below_by_table(pid) if below is None else below


def line_of(pid: int) -> set[int]:
    """Return ``pid`` and every process above it."""
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        stat = proc.read_stat(pid)
        pid = stat.ppid if stat else 0
    return found
