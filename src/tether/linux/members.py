"""Who belongs to a tree whose parent links are lost.

A shim knows its tree by lineage, and needs none of this. It is for what remains when the shim was killed along with
everybody who could have inherited its children, and for the portable path. Each mark is recognised only as far as it
proves something:

identity  a pid with the start time on record; and then every descendant of it
session   a session of the tree, as long as its leader is the process on record
log       the tree's private log file as standard output or error
tag       the tag in the environment: a hint that a process can lose, so it is used to include, never to exclude
cgroup    the folder of the tree, exact where it exists
"""

from __future__ import annotations

import os
import signal
import time

from tether.linux import cgroup, proc, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["OWNER", "RESOURCE", "Marks", "carries", "chase", "end", "find"]

RESOURCE = "TETHER_RESOURCE"
"""The variable with the tag of a resource; within another tree, the tags of both, by colons."""

OWNER = "TETHER_OWNER"
"""The variable with the id of an owner, for what its plugins start by themselves; of several owners, by colons."""

_LOOK_AGAIN_S = 0.02
_CHASE_LOOKS = 100


_VARIABLES = (RESOURCE.encode(), OWNER.encode())


def carries(environment: bytes, tags: set[str]) -> bool:
    """Whether an environment, as in /proc/PID/environ, has one of these ids in one of the two variables."""
    if not any(tag.encode() in environment for tag in tags):
        return False
    for variable in environment.split(b"\0"):
        name, _, value = variable.partition(b"=")
        if name in _VARIABLES and tags & set(value.decode(errors="replace").split(":")):
            return True
    return False


class Marks:
    """By what the members of one tree, or of one owner, are recognised.

    Args:
        roots: pairs of pid and start time, of processes that are members.
        tags: ids of resources or owners that a member's environment may carry.
        folder: the cgroup of the tree, or None.
        log: the path of the file that members may have inherited as standard output, or None.
        uid: whose processes may be recognised by tag or session; members by lineage or cgroup may be anybody's.
        exclude: pids that are never members (the reaper and its shims).
    """

    def __init__(
        self,
        roots: Iterable[tuple[int, int]] = (),
        tags: Iterable[str] = (),
        folder: str | None = None,
        log: str | None = None,
        uid: int | None = None,
        exclude: Iterable[int] = (),
    ) -> None:
        self.roots = set(roots)
        self.sessions = dict(self.roots)
        self.tags = set(tags)
        self.folder = folder
        self.log = log
        self.uid = os.getuid() if uid is None else uid
        self.exclude = {os.getpid(), *exclude}


def _owner_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _has_log_as_output(pid: int, log: str) -> bool:
    for fd in (1, 2):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}") == log:
                return True
        except OSError:
            continue
    return False


def _by_mark(stat: proc.Stat, marks: Marks, table: dict[int, proc.Stat]) -> bool:
    if (stat.pid, stat.start) in marks.roots:
        return True
    if _owner_of(stat.pid) != marks.uid:
        return False
    leader_start = marks.sessions.get(stat.session)
    if leader_start is not None and stat.start >= leader_start:
        leader = table.get(stat.session)
        # Once the leader has gone its number alone proves nothing: it may be another session by now.
        if leader is not None and leader.start == leader_start:
            return True
    if marks.log is not None and _has_log_as_output(stat.pid, marks.log):
        return True
    return bool(marks.tags) and carries(proc.environ(stat.pid), marks.tags)


def _below(pids: set[int], table: dict[int, proc.Stat]) -> set[int]:
    """Every descendant of ``pids`` in this table, which was read once: no parent is looked up again by number."""
    children: dict[int, list[int]] = {}
    for stat in table.values():
        children.setdefault(stat.ppid, []).append(stat.pid)
    queue = list(pids)
    for pid in queue:
        queue += children.pop(pid, [])
    return set(queue)


def find(marks: Marks) -> list[tuple[int, int]]:
    """Return pid and start time of every live process that bears one of ``marks``, and of all its descendants.

    Members that are found are added to ``marks.roots``, and sessions that they lead to ``marks.sessions``, so that a
    later call still knows them, and what they forked, when their parents have gone.
    """
    table = {stat.pid: stat for stat in proc.all_stats()}
    found = {pid for pid in cgroup.pids(marks.folder) if pid in table} if marks.folder else set()
    found |= {stat.pid for stat in table.values() if stat.running and _by_mark(stat, marks, table)}
    found |= _below(found, table)
    members = [table[pid] for pid in sorted(found - marks.exclude) if table[pid].running]
    marks.roots.update((stat.pid, stat.start) for stat in members)
    marks.sessions.update((stat.pid, stat.start) for stat in members if stat.session == stat.pid)
    return [(stat.pid, stat.start) for stat in members]


def _kill(pid: int, start: int) -> bool:
    try:
        return signals.send(pid, start, signal.SIGKILL)
    except PermissionError:
        # Another user's; it is reported when it stays.
        return False


def chase(marks: Marks) -> bool:
    """Kill what forks and exits faster than all processes can be looked at; True if there was such.

    Between the listing of all pids and the look at each, it has another pid, and is never found. But most of the time it
    has the newest pid of all, so that one is looked at, many times.
    """
    hit = False
    for _ in range(_CHASE_LOOKS):
        stat = proc.read_stat(proc.newest_pid())
        if stat is not None and stat.running and stat.pid not in marks.exclude and _by_mark(stat, marks, {}):
            hit = _kill(stat.pid, stat.start) or hit
    return hit


def end(marks: Marks, limit_s: float) -> list[tuple[int, int]]:
    """Kill every member that can be recognised, until a look finds none while nothing was forked, or two looks in a row do.

    What was being forked during the first such look is there in the second. Every signal goes to a verified identity.

    Returns:
        The members that are still there after ``limit_s`` seconds (stuck in the kernel, or another user's); usually none.
    """
    deadline = time.monotonic() + limit_s
    empty_looks = 0
    while empty_looks < 2:
        if marks.folder is not None:
            cgroup.kill(marks.folder)
        forks = proc.forks()
        left = find(marks)
        if not left and 0 < forks == proc.forks():
            # Nobody can have been missed: whoever is there was there when the look began.
            break
        for pid, start in left:
            _kill(pid, start)
        empty_looks = 0 if chase(marks) or left else empty_looks + 1
        if left and time.monotonic() > deadline:
            return left
        if left:
            signals.wait_end(*left[0], _LOOK_AGAIN_S)
    if marks.folder is not None:
        cgroup.remove(marks.folder)
    return []
