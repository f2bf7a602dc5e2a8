"""End every descendant of this process, until the kernel says ECHILD.

A subreaper's descendants are all that its command ever forked: who loses its parent becomes the subreaper's own child.
So it is enough to kill one's children, wait for them, and kill the children that one has then, and to go on until
wait4(2) fails with ECHILD. A child's pid can't be recycled before its parent has waited for it, so that
this needs no identities; a process group or session number can't be recycled while it has a member.
"""

from __future__ import annotations

import os
import signal
import time

from tether.guard import limits
from tether.linux import cgroup, members, signals, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container

__all__ = ["FollowedTree", "Killing", "Tree"]


class Tree:
    """The descendants of this process, which is a child subreaper.

    Args:
        others: children of this process that are not members; None for a shim, which has no such.
    """

    look_s: float | None = None
    """How often the tree must be looked at to keep track of it; None if the kernel keeps track."""

    def __init__(self, others: Container[int] | None = None) -> None:
        self._others = others
        self._pid = os.getpid()
        self._session = os.getsid(0)

    def roots(self) -> list[int]:
        """Return the members that are children of this process, zombies included."""
        children = tree.children(self._pid)
        return children if self._others is None else [pid for pid in children if pid not in self._others]

    def pids(self) -> list[int]:
        """Return every live member."""
        return [pid for root in self.roots() for pid in (root, *tree.descendants(root)) if tree.is_running(pid)]

    def look(self) -> None:
        """Keep track of the tree."""

    def signal(self, signums: tuple[int, ...]) -> None:
        """Signal every member that is a child of this process, with its whole process group where that is the tree's own.

        A group signal is one step for the kernel (a fork is either before it, and hit, or restarted after it). The group
        is the tree's own if its session is not ours: sessions can't be joined from outside.
        """
        groups = set()
        for pid in self.roots():
            try:
                own = os.getsid(pid) != self._session
                group = os.getpgid(pid)
                if own and group in groups:
                    continue
                groups.add(group)
                for signum in signums:
                    if own:
                        os.killpg(group, signum)
                    else:
                        os.kill(pid, signum)
            except (ProcessLookupError, PermissionError):
                # Gone in between; or a program that runs as another user, which is reported when it stays.
                continue

    def signal_group(self, main: int, signums: tuple[int, ...]) -> None:
        """Signal the process group of ``main``, a child not waited for; ``main`` alone where the group is not the tree's own."""
        try:
            own = os.getsid(main) != self._session
            for signum in signums:
                if own:
                    os.killpg(os.getpgid(main), signum)
                else:
                    os.kill(main, signum)
        except (ProcessLookupError, PermissionError):
            # It has changed its user, or ended: the end by force, or ECHILD, comes next.
            return

    def gone(self, echild: bool) -> bool:
        """Whether no member is left, given whether wait4(2) said ECHILD: a shim takes nothing less for a proof."""
        return echild if self._others is None else not self.roots()


class FollowedTree(Tree):
    """The same on a kernel without subreapers: members are followed by looking at the process table.

    What leaves its parent between two looks, in a session that was never seen and with its environment emptied, is lost;
    the documentation says so.
    """

    look_s = limits.PORTABLE_LOOK_S

    def __init__(self, marks: members.Marks) -> None:
        super().__init__()
        self._marks = marks
        self._lineage = members.Marks(marks.roots, uid=marks.uid, exclude=marks.exclude)
        self._old_at = time.monotonic() + limits.PORTABLE_YOUNG_S
        self._empty_looks = 0
        self._chased = False

    def _find(self) -> list[tuple[int, int]]:
        self._marks.roots |= self._lineage.roots
        self._marks.sessions.update(self._lineage.sessions)
        return members.find(self._marks)

    def pids(self) -> list[int]:
        """Return every live member that can be recognised."""
        return [pid for pid, _ in self._find()]

    def look(self) -> None:
        """Take note of who is there, so that whoever leaves its parent next is still known."""
        members.find(self._lineage)
        if time.monotonic() > self._old_at:
            self.look_s = limits.PORTABLE_IDLE_LOOK_S

    def signal(self, signums: tuple[int, ...]) -> None:
        """Signal every member that can be recognised, each by its verified identity."""
        for pid, start in self._find():
            for signum in signums:
                try:
                    signals.send(pid, start, signum)
                except PermissionError:
                    continue
        if signal.SIGKILL in signums:
            self._chased = members.chase(self._marks)

    def gone(self, echild: bool) -> bool:
        """Whether no member was seen twice in a row: one that forked and left during the first look is in the second."""
        if not echild:
            return False
        self._empty_looks = 0 if self._find() or self._chased else self._empty_looks + 1
        return self._empty_looks >= 2


class Killing:
    """The end by force of a tree: rounds of SIGKILL, the cgroup against what outruns them, and a word on what is stuck."""

    def __init__(self, members_of: Tree, folder: str | None, say_stuck: Callable[[list[int]], None]) -> None:
        self._tree = members_of
        self._folder = folder
        self._say_stuck = say_stuck
        self._began = time.monotonic()
        self._next = self._began
        self._pause = limits.ROUND_PAUSE_S
        self._stuck: list[int] = []
        self.rounds = 0

    def timeout_s(self) -> float:
        """Until when the next round can wait."""
        return max(0.0, self._next - time.monotonic())

    def proceed(self) -> None:
        """Kill what is there, unless that was done a moment ago."""
        now = time.monotonic()
        if now < self._next:
            return
        self._tree.signal((signal.SIGKILL,))
        self.rounds += 1
        if self._folder is not None and now - self._began > limits.CGROUP_AFTER_S:
            self._kill_cgroup(self._folder)
        if now - self._began > limits.STUCK_AFTER_S:
            self._pause = min(2 * self._pause, limits.LONGEST_ROUND_PAUSE_S)
            stuck = self._tree.pids()
            if stuck != self._stuck:
                self._stuck = stuck
                self._say_stuck(stuck)
        self._next = time.monotonic() + self._pause

    def _kill_cgroup(self, folder: str) -> None:
        """Leave the cgroup, which must not take the killer along, and kill all that is in it in one step."""
        if cgroup.enter(os.path.dirname(folder)):
            cgroup.kill(folder)
