"""What a reaper and a shim wait for, all in one poll(2): nothing here looks twice at anything by a timer."""

from __future__ import annotations

import os
import select
import signal

__all__ = ["Ready", "Watch", "heed_signals"]

_IGNORED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGPIPE,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
)
_HEEDED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1)


def _noted(_signum: int, _frame: object) -> None:
    """Do nothing: the number is read from the wakeup pipe."""


def heed_signals() -> None:
    """Note the signals that mean something here, and ignore those of terminals; a fork inherits this."""
    for signum in _HEEDED:
        signal.signal(signum, _noted)
    for signum in _IGNORED:
        signal.signal(signum, signal.SIG_IGN)


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

    A list for poll(2), not an epoll: a fork inherits it as it is, and shares nothing with its parent.
    """

    def __init__(self, lifeline: int, owner_pidfd: int | None) -> None:
        self._poll = select.poll()
        self._owner: tuple[int, ...] = ()
        self._wake = -1
        self.follow(lifeline, owner_pidfd)

    def begin(self) -> None:
        """Note signals in this process from now on; a fork must call this for itself."""
        if self._wake >= 0:
            self._poll.unregister(self._wake)
        self._wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._poll.register(self._wake, select.POLLIN)

    def follow(self, lifeline: int, owner_pidfd: int | None) -> None:
        """Watch for the death of this owner."""
        self._owner = (lifeline,) if owner_pidfd is None else (lifeline, owner_pidfd)
        for fd in self._owner:
            self._poll.register(fd, select.POLLIN)

    def add(self, fd: int) -> None:
        """Watch ``fd`` too."""
        self._poll.register(fd, select.POLLIN)

    def remove(self, fd: int) -> None:
        """Watch ``fd`` no longer."""
        self._poll.unregister(fd)

    def wait(self, timeout_s: float | None) -> Ready:
        """Wait until there is something to do, or the time limit passed."""
        fds = {fd for fd, _ in self._poll.poll(None if timeout_s is None else timeout_s * 1000)}
        signals = b""
        if self._wake in fds:
            fds.remove(self._wake)
            signals = os.read(self._wake, 65536)
        owner_died = not fds.isdisjoint(self._owner)
        if owner_died:
            for fd in self._owner:
                self._poll.unregister(fd)
                fds.discard(fd)
            self._owner = ()
        return Ready(owner_died, signals, fds)
