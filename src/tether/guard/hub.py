"""The reaper: the process beside each owner that forks its shims, and settles what a dead owner left.

Started as ``python -I -S -c "..." ROOT`` with the lifeline at descriptor 3, the control socket at 4, the socket for shims at 5.
On the control socket it is told its configuration, and ``bye``; it says ``ready``, ``lost`` (a shim was killed; its tree was
ended here) and ``stuck``. On the socket for shims it is told ``fork``, and answers ``shim`` with the owner's end of the
shim's channel.
"""

from __future__ import annotations

import _socket as socket
import gc
import os
import signal
import sys

from tether.guard import ending, limits, shim, wire
from tether.guard.watch import Watch, heed_signals
from tether.linux import cgroup, members, proc, subreaper, tier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from tether.guard.wire import Message

__all__ = ["CONTROL_FD", "LIFELINE_FD", "SHIMS_FD", "Reaper", "main"]

LIFELINE_FD = 3
CONTROL_FD = 4
SHIMS_FD = 5

_MOST_RECEIPTS = 10_000


class Reaper:
    """The state of the reaper process.

    Args:
        control: the socket to the owner.
        shims: the socket on which shims are asked for.
        reports: a pair, to read what shims report, and for shims to write it.
        config: what the owner said first.
        owner_pidfd: the owner, or None without pidfds.
    """

    def __init__(
        self,
        control: socket.socket,
        shims: socket.socket,
        reports: tuple[socket.socket, socket.socket],
        config: Message,
        owner_pidfd: int | None,
    ) -> None:
        self._control: socket.socket | None = control
        self._wanted: socket.socket | None = shims
        self._config = config
        self._reports, self._report = reports
        self._is_subreaper = not tier.is_portable() and subreaper.become_subreaper()
        self._folder: str | None = config["cgroup"] if config["cgroup"] and cgroup.make(config["cgroup"]) else None
        self._watch = Watch(LIFELINE_FD, owner_pidfd)
        self._pidfd = os.pidfd_open(os.getpid()) if tier.has_pidfd() else None
        self._shims: dict[int, str | None] = {}
        self._lost: list[int] = []
        self._receipts: dict[str, Message] = {}
        self._followed: dict[int, members.Marks] = {}
        self._kept: set[int] = set()
        self._forked = 0
        self._owner_is_dead = False
        self._is_settled = False
        self._orphans = ending.Tree(self._shims)
        self._killing: ending.Killing | None = None
        # Before anything of this process's own is watched: each fork takes its copy.
        can_subreap = self._is_subreaper
        self._pattern = shim.Shim(Watch(LIFELINE_FD, owner_pidfd), self._report, self._pidfd, can_subreap)
        self._watch.begin()
        self._watch.add(control.fileno())
        self._watch.add(shims.fileno())
        self._watch.add(self._reports.fileno())

    def run(self) -> None:
        """Serve until the owner has ended and nothing of it is left, or the owner said ``bye`` and no shim is left."""
        active = tier.CGROUP if self._folder and self._is_subreaper else tier.SHIM
        self._say({"ready": active if self._is_subreaper else tier.PORTABLE, "pid": os.getpid()})
        while not self._is_done():
            ready = self._watch.wait(self._timeout_s())
            if self._control is not None and self._control.fileno() in ready.fds:
                self._receive(self._control)
            if self._wanted is not None and self._wanted.fileno() in ready.fds:
                self._fork_wanted(self._wanted)
            if self._reports.fileno() in ready.fds:
                self._read_report()
            if ready.owner_died:
                self._owner_died()
            self._reap()
            self._end_orphans()
            if self._owner_is_dead:
                self._settle()
        if self._folder is not None:
            cgroup.remove(self._folder)

    def _is_done(self) -> bool:
        return self._control is None and not self._shims and not self._lost and self._is_settled

    def _timeout_s(self) -> float | None:
        if self._killing is not None:
            return self._killing.timeout_s()
        if self._owner_is_dead and not self._is_settled:
            return limits.CONTINUE_AGAIN_S
        return None

    # -- the owner -------------------------------------------------------------------------------------------------

    def _say(self, message: Message) -> None:
        if self._control is not None:
            try:
                wire.send(self._control, message)
            except OSError:
                self._drop_control()

    def _drop_control(self) -> None:
        if self._control is not None:
            self._watch.remove(self._control.fileno())
            self._control.close()
            self._control = None
        self._drop_wanted()

    def _drop_wanted(self) -> None:
        if self._wanted is not None:
            self._watch.remove(self._wanted.fileno())
            self._wanted.close()
            self._wanted = None

    def _receive(self, control: socket.socket) -> None:
        try:
            received = wire.receive(control)
        except OSError:
            received = None
        if received is None:
            # The lifeline tells whether the owner died; without the socket there is nothing more to be asked.
            self._drop_control()
        elif "bye" in received[0]:
            self._is_settled = True
            self._drop_control()

    def _owner_died(self) -> None:
        self._drop_control()
        # After an orderly end there is no estate; only shims of kept resources are left.
        self._owner_is_dead = not self._is_settled

    # -- shims -----------------------------------------------------------------------------------------------------

    def _fork_wanted(self, wanted: socket.socket) -> None:
        try:
            if wire.receive(wanted) is None:
                self._drop_wanted()
            else:
                self._fork(wanted)
        except OSError:
            self._drop_wanted()

    def _fork(self, wanted: socket.socket) -> None:
        self._forked += 1
        ours, theirs = socket.socketpair()
        folder = f"{self._folder}/{os.getpid()}-{self._forked}" if self._folder else None
        if folder is not None and not cgroup.make(folder):
            folder = None
        try:
            pid = os.fork()
        except OSError as error:
            # Out of pids or memory: said, and tried again at the next start.
            ours.close()
            theirs.close()
            wire.send(wanted, {"refused": error.errno})
            return
        if pid == 0:
            self._become_shim(ours, theirs, folder)
        ours.close()
        self._shims[pid] = folder
        try:
            wire.send(wanted, {"shim": pid, "cgroup": folder}, (theirs.fileno(),))
        finally:
            theirs.close()

    def _become_shim(self, ours: socket.socket, theirs: socket.socket, folder: str | None) -> NoReturn:
        """Let go of what is the reaper's, in the forked child, and be a shim.

        Everything here is paid for by each spawn: after a fork, each page that is touched costs a fault.
        """
        status = 1
        try:
            os.closerange(CONTROL_FD, self._reports.fileno() + 1)
            theirs.close()
            self._pattern.serve(ours, folder)
            status = 0
        finally:
            os._exit(status)

    def _read_report(self) -> None:
        received = wire.receive(self._reports)
        if received is None:
            return
        message = received[0]
        if "ended" in message:
            if len(self._receipts) >= _MOST_RECEIPTS:
                self._receipts.pop(next(iter(self._receipts)))
            self._receipts[message["ended"]["tag"]] = message["ended"]
        elif "kept" in message:
            self._kept.add(message["kept"])
        elif "followed" in message:
            pid, start, tag, log = message["followed"]
            self._followed[message["shim"]] = members.Marks([(pid, start)], [tag], log=log)

    def _drain_reports(self) -> None:
        """Read all that shims have reported: a shim says how its tree ended before it ends itself."""
        while True:
            try:
                self._reports.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self._read_report()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self._shims:
                folder = self._shims.pop(pid)
                if status == 0:
                    self._followed.pop(pid, None)
                    if folder is not None:
                        cgroup.remove(folder)
                else:
                    self._take_over(pid, folder)

    def _take_over(self, pid: int, folder: str | None) -> None:
        """A shim was killed: its tree has fallen to this process, and is ended."""
        self._lost.append(pid)
        if folder is not None:
            cgroup.kill(folder)
        if self._killing is None:
            self._killing = ending.Killing(self._orphans, None, self._say_stuck)

    def _say_stuck(self, pids: list[int]) -> None:
        self._say({"stuck": [(pid, proc.wait_channel(pid)) for pid in pids]})

    def _end_orphans(self) -> None:
        if self._killing is None:
            return
        self._kill_followed()
        self._killing.proceed()
        self._reap()
        if self._orphans.roots():
            return
        self._killing = None
        for pid in self._lost:
            self._say({"lost": pid})
        self._lost.clear()
        self._remove_empty_folders()

    def _remove_empty_folders(self) -> None:
        used = set(self._shims.values())
        for folder in cgroup.trees(self._folder) if self._folder else []:
            if folder not in used:
                cgroup.remove(folder)

    def _kill_followed(self) -> None:
        """On a kernel without subreapers, end what can be recognised of the trees of shims that were killed."""
        for pid in self._lost:
            marks = self._followed.pop(pid, None)
            if marks is not None:
                members.end(marks, limits.STUCK_AFTER_S)

    # -- the estate ------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """When the shims have ended their trees, settle what they can't: other kinds, plugins' own processes, the record."""
        for pid in self._shims:
            # Should somebody have stopped it. It is our child and not waited for.
            os.kill(pid, signal.SIGCONT)
        if self._is_settled or self._lost or set(self._shims) - self._kept:
            return
        self._is_settled = True
        self._drain_reports()
        sys.path[:] = [*self._config["path"], *[each for each in sys.path if each not in self._config["path"]]]
        from tether.estate import settle as estate

        estate.settle_own(self._config["state_dir"], self._config["owner"], self._receipts)


def _open_parent(pid: int) -> int | None:
    """Open a pidfd for the owner; None if it has died, which the lifeline says too.

    Our parent can't be recycled while we are its child; if it died, we have another parent by now.
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if os.getppid() == pid:
        return fd
    os.close(fd)
    return None


def main() -> None:
    """Be a reaper: read the configuration, then serve."""
    os.chdir("/")
    os.closerange(SHIMS_FD + 1, os.sysconf("SC_OPEN_MAX"))
    for fd in (LIFELINE_FD, CONTROL_FD, SHIMS_FD):
        os.set_inheritable(fd, False)
    # At the next free descriptor: a fork closes what is the reaper's alone in one step, see `_become_shim`.
    reports = socket.socketpair()
    control = socket.socket(fileno=CONTROL_FD)
    received = wire.receive(control)
    if received is None:
        return
    config = received[0]
    heed_signals()
    owner_pidfd = None
    if tier.has_pidfd():
        owner_pidfd = _open_parent(config["owner_pid"])
    # Pages that are never written stay shared with the shims.
    gc.collect()
    gc.disable()
    gc.freeze()
    # Shims are named alike: a fork keeps the name, and to change it would cost each one a system call.
    subreaper.name_process(b"tether")
    Reaper(control, socket.socket(fileno=SHIMS_FD), reports, config, owner_pidfd).run()
