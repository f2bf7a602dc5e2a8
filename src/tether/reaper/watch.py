"""What a reaper and a shim wait for, all in one epoll: nothing here looks twice at anything by a timer."""

from __future__ import annotations

import os
import select
import signal

__all__ = ["Ready", "Watch"]

_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_HEEDED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1)


def _noted(_signum: int, _frame: object) -> None:
    """Do nothing: the number is read from the wakeup pipe."""


class Ready:
    """What there is to do.

    Attributes:
        owner_died: the lifeline ended, or the owner's pidfd says so; said once.
        signals: the numbers of the signals that came.
        fds: the other descriptors that can be read.
    """

    __slots__ = ("fds", "owner_died", "signals")

    def __init__(self, owner_died: bool, signals: bytes, fds: set[int]) -> None:
        self.owner_died = owner_died
        self.signals = signals
        self.fds = fds


class Watch:
    """Waits for the owner's death, for signals and for readable descriptors.

    The lifeline is a pipe whose write end the owner alone holds, closed by the kernel when it ends by whatever cause,
    and also when it executes another program. A fork of the owner holds a copy of that end, though, so the owner's
    pidfd is watched too: whichever comes first.
    """

    def __init__(self, lifeline: int, owner_pidfd: int | None) -> None:
        self._epoll = select.epoll()
        self._wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for signum in _HEEDED:
            signal.signal(signum, _noted)
        for signum in _IGNORED:
            signal.signal(signum, signal.SIG_IGN)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._owner: set[int] = set()
        self._epoll.register(self._wake, select.EPOLLIN)
        self.follow(lifeline, owner_pidfd)

    def follow(self, lifeline: int, owner_pidfd: int | None) -> None:
        """Watch for the death of this owner."""
        self._owner = {fd for fd in (lifeline, owner_pidfd) if fd is not None}
        for fd in self._owner:
            self._epoll.register(fd, select.EPOLLIN)

    def _forget_owner(self) -> None:
        for fd in self._owner:
            self._epoll.unregister(fd)
        self._owner = set()

    def add(self, fd: int) -> None:
        """Watch ``fd`` too."""
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Watch ``fd`` no longer."""
        self._epoll.unregister(fd)

    def wait(self, timeout_s: float | None) -> Ready:
        """Wait until there is something to do, or the time limit passed."""
        fds = {fd for fd, _ in self._epoll.poll(timeout_s)}
        signals = b""
        if self._wake in fds:
            try:
                signals = os.read(self._wake, 65536)
            except BlockingIOError:
                signals = b""
        owner_died = bool(fds & self._owner)
        if owner_died:
            fds -= self._owner
            self._forget_owner()
        return Ready(owner_died, signals, fds - {self._wake})
