"""One look at all processes for many trees at once, and one pass of kills.

`tether.linux.members` looks for the members of one tree. A sweep has hundreds, and each look costs as much as there are
processes; so here every process is looked at once, and asked which of the trees it belongs to.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable, Sequence

from tether.linux import cgroup, members, proc, signals

__all__ = ["end", "find"]

_LOOK_AGAIN_S = 0.02
_VARIABLES = (members.RESOURCE.encode(), members.OWNER.encode())
_GONE = (errno.ENOENT, errno.ESRCH)

Member = tuple[int, int]
"""Pid and start time."""


def _read(path: str) -> bytes | None:
    """Read a file of a process; None if that has gone, or is not ours to read. Raises OSError where nothing can be read at all."""
    try:
        return proc.read(path)
    except PermissionError:
        return None
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def _table() -> dict[int, proc.Stat]:
    """Return every process. Raises OSError rather than to leave out what could not be read."""
    table = {}
    for pid in proc.all_pids():
        data = _read(f"/proc/{pid}/stat")
        if data:
            stat = proc.parse_stat(data)
            table[pid] = stat
    if os.getpid() not in table:
        raise OSError(errno.ENOENT, "/proc does not show this process, so it proves nothing", "/proc")
    return table


class _Index:
    """Which trees have a certain mark, by the mark."""

    def __init__(self, trees: Sequence[members.Marks]) -> None:
        self.roots: dict[Member, list[int]] = {}
        self.sessions: dict[Member, list[int]] = {}
        self.tags: dict[str, list[int]] = {}
        self.logs: dict[str, list[int]] = {}
        for number, marks in enumerate(trees):
            for root in marks.roots:
                self.roots.setdefault(root, []).append(number)
            for leader in marks.sessions.items():
                self.sessions.setdefault(leader, []).append(number)
            for tag in marks.tags:
                self.tags.setdefault(tag, []).append(number)
            if marks.log is not None:
                self.logs.setdefault(marks.log, []).append(number)

    def by_tag(self, pid: int) -> Iterable[int]:
        """The trees whose tag a process carries in its environment."""
        if not self.tags:
            return
        for variable in proc.environ(pid).split(b"\0"):
            name, _, value = variable.partition(b"=")
            if name in _VARIABLES:
                for tag in value.decode(errors="replace").split(":"):
                    yield from self.tags.get(tag, ())

    def by_log(self, pid: int) -> Iterable[int]:
        """The trees whose log a process has as its output."""
        for fd in (1, 2) if self.logs else ():
            try:
                yield from self.logs.get(os.readlink(f"/proc/{pid}/fd/{fd}"), ())
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    raise

    def of(self, stat: proc.Stat, leader: proc.Stat | None) -> set[int]:
        """The trees that a process bears a mark of, but for identity; see `tether.linux.members` for what each proves."""
        found = {*self.by_tag(stat.pid), *self.by_log(stat.pid)}
        if leader is not None and stat.start >= leader.start:
            found.update(self.sessions.get((leader.pid, leader.start), ()))
        return found


def _below(pids: Iterable[int], children: dict[int, list[int]]) -> set[int]:
    queue = list(pids)
    seen = set(queue)
    for pid in queue:
        for child in children.get(pid, ()):
            if child not in seen:
                seen.add(child)
                queue.append(child)
    return seen


def find(trees: Sequence[members.Marks]) -> list[list[Member]]:
    """Return for each tree every live process that bears one of its marks, and all descendants of that.

    As `members.find` does, what is found is added to the marks, so that a later look still knows it.

    Raises:
        OSError: not every process could be looked at, so that nobody is known to be gone.
    """
    table = _table()
    index = _Index(trees)
    found: list[set[int]] = [
        set(cgroup.pids(marks.folder)) & table.keys() if marks.folder else set() for marks in trees
    ]
    children: dict[int, list[int]] = {}
    for stat in table.values():
        children.setdefault(stat.ppid, []).append(stat.pid)
        if not stat.running:
            continue
        for number in index.roots.get((stat.pid, stat.start), ()):
            found[number].add(stat.pid)
        try:
            uid = os.stat(f"/proc/{stat.pid}").st_uid
        except OSError:
            continue
        for number in index.of(stat, table.get(stat.session)):
            if trees[number].uid == uid:
                found[number].add(stat.pid)
    return [
        _known(marks, _below(pids, children), table) if pids else [] for marks, pids in zip(trees, found, strict=True)
    ]


def _known(marks: members.Marks, pids: set[int], table: dict[int, proc.Stat]) -> list[Member]:
    live = [table[pid] for pid in sorted(pids - marks.exclude) if table[pid].running]
    marks.roots.update((stat.pid, stat.start) for stat in live)
    marks.sessions.update((stat.pid, stat.start) for stat in live if stat.session == stat.pid)
    return [(stat.pid, stat.start) for stat in live]


def _kill(member: Member) -> None:
    try:
        signals.send(*member, signal.SIGKILL)
    except PermissionError:
        # Another user's; it is reported when it stays.
        return


def end(trees: Sequence[members.Marks], limit_s: float) -> list[list[Member]]:
    """Kill every member of every tree that can be recognised, until a look finds none while nothing was forked, or two do.

    Returns:
        For each tree the members that are still there after ``limit_s`` seconds; usually none.

    Raises:
        OSError: not every process could be looked at.
    """
    deadline = time.monotonic() + limit_s
    empty_looks = 0
    left: list[list[Member]] = [[] for _ in trees]
    while trees and empty_looks < 2:
        forks = proc.forks()
        for folder in _folders(trees):
            cgroup.kill(folder)
        left = find(trees)
        all_left = [member for each in left for member in each]
        if not all_left and 0 < forks == proc.forks():
            break
        for member in all_left:
            _kill(member)
        empty_looks = 0 if members.chase(_together(trees)) or all_left else empty_looks + 1
        if all_left:
            if time.monotonic() > deadline:
                break
            signals.wait_end(*all_left[0], _LOOK_AGAIN_S)
    for folder in _folders(trees):
        cgroup.remove(folder)
    return left


def _folders(trees: Sequence[members.Marks]) -> list[str]:
    return [marks.folder for marks in trees if marks.folder is not None]


def _together(trees: Sequence[members.Marks]) -> members.Marks:
    """By what a member of any of the trees is recognised."""
    together = members.Marks()
    for marks in trees:
        together.roots |= marks.roots
        together.tags |= marks.tags
        together.exclude |= marks.exclude
    return together
