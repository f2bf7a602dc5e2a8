"""Signal a process whose identity was verified. A bare pid is never signalled."""

from __future__ import annotations

import os
import signal

from tether.linux import proc, tier
from tether.linux.readable import await_readable

__all__ = ["handed_on", "open_verified", "send", "wait_end"]


def handed_on() -> list[int]:
    """Return the signals that this process was started to ignore, as a command that it starts begins with them ignored.

    Python ignores two by itself (SIGPIPE, SIGXFSZ), of which nothing is known. Source: signal(7), Python/pylifecycle.c.
    """
    return [each for each in proc.ignored_signals() if each not in (signal.SIGPIPE, signal.SIGXFSZ)]


def open_verified(pid: int, start: int) -> int | None:
    """Open a pidfd for the process that had ``pid`` and started at ``start`` (clock ticks since boot).

    The pidfd is opened first and the identity compared after: a pid that was recycled in between is then
    found out, and one recycled later can't be hit through this descriptor.

    Returns:
        The pidfd, which the caller closes; None if that process has gone.

    Source: pidfd_open(2).
    """
    try:
        fd = os.pidfd_open(pid)
    except (ProcessLookupError, FileNotFoundError, OverflowError):
        # FileNotFoundError: newer kernels, for one that is just being waited for.
        return None
    if proc.start_time(pid) == start:
        return fd
    os.close(fd)
    return None


def send(pid: int, start: int, signum: int) -> bool:
    """Signal the process of this identity.

    Without pidfd the identity is compared and the pid signalled at once after it: the kernel would have to hand out
    every other pid between two system calls for that to go wrong.

    Returns:
        True if the signal was sent, False if that process has gone.

    Raises:
        PermissionError: it belongs to another user.
    """
    if pid <= 1:
        return False
    try:
        return _send_by_pidfd(pid, start, signum) if tier.has_pidfd() else _send_by_pid(pid, start, signum)
    except ProcessLookupError:
        return False


def _send_by_pidfd(pid: int, start: int, signum: int) -> bool:
    fd = open_verified(pid, start)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, signum)
    finally:
        os.close(fd)
    return True


def _send_by_pid(pid: int, start: int, signum: int) -> bool:
    if proc.start_time(pid) != start:
        return False
    os.kill(pid, signum)
    return True


def wait_end(pid: int, start: int, timeout_s: float | None) -> bool:
    """Wait in the kernel until the process of this identity has ended; False if the time limit passed first."""
    if not tier.has_pidfd():
        return _wait_end_portable(pid, start, timeout_s)
    fd = open_verified(pid, start)
    if fd is None:
        return True
    try:
        return bool(await_readable([fd], timeout_s))
    finally:
        os.close(fd)


def _wait_end_portable(pid: int, start: int, timeout_s: float | None) -> bool:
    import time

    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while (stat := proc.read_stat(pid)) is not None and stat.start == start and stat.running:
        if deadline is not None and time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True
