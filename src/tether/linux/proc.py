"""What /proc says of one process, and of all. Source: proc(5)."""

from __future__ import annotations

import errno
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "SHORT",
    "Stat",
    "all_pids",
    "children_by_parent",
    "environ",
    "forks",
    "ignored_signals",
    "newest_pid",
    "parse_stat",
    "read",
    "read_line",
    "read_stat",
    "start_time",
    "thread_count",
    "wait_channel",
]


SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors for want of descriptors or memory, which say nothing of what was asked for."""

_SHORT_S = 0.01
_SHORT_TRIES = 20


class Stat:
    """The fields of /proc/PID/stat that tether uses.

    Attributes:
        pid, ppid, pgrp, session: as the kernel numbers them.
        name: the process name, at most 15 bytes, any bytes.
        state: one letter; ``Z`` is a zombie and ``X`` dead.
        cpu: user and system time, in clock ticks.
        start: when it started, in clock ticks since boot.
        threads: how many threads it has, one for a zombie.
        rss: resident pages.
    """

    __slots__ = ("cpu", "name", "pgrp", "pid", "ppid", "rss", "session", "start", "state", "threads")

    def __init__(self, pid: int, name: bytes, fields: list[bytes]) -> None:
        self.pid = pid
        self.name = name
        self.state = fields[0].decode()
        self.ppid = int(fields[1])
        self.pgrp = int(fields[2])
        self.session = int(fields[3])
        self.cpu = int(fields[11]) + int(fields[12])
        self.threads = int(fields[17])
        self.start = int(fields[19])
        self.rss = int(fields[21])

    @property
    def running(self) -> bool:
        """Whether it is more than a zombie: a process whose first thread has ended is shown as one, and lives in the others."""
        return self.state not in "ZX" or self.threads > 1


def _open(path: str) -> int:
    """Open a file of /proc; for want of descriptors or memory again a few times, for that may pass. Raises OSError."""
    for _ in range(_SHORT_TRIES):
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in SHORT:
                raise
        time.sleep(_SHORT_S)
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _raise_if_short(error: Exception) -> None:
    """Who could not be looked at, for want of descriptors or memory, has not gone for that."""
    if isinstance(error, OSError) and error.errno in SHORT:
        raise error


def read(path: str) -> bytes:
    """Read a whole file of /proc. Raises OSError, for instance when the process has gone."""
    fd = _open(path)
    try:
        data = b""
        # A read may end at any line, however large the buffer; only an empty one is the end.
        while chunk := os.read(fd, 65536):
            data += chunk
        return data
    finally:
        os.close(fd)


def parse_stat(data: bytes) -> Stat:
    """Parse a line of /proc/PID/stat.

    The name stands in brackets and may itself have brackets, spaces and newlines: what counts is the
    first opening and the last closing one.
    """
    opening, closing = data.index(b"("), data.rindex(b")")
    return Stat(int(data[:opening]), data[opening + 1 : closing], data[closing + 1 :].split())


def read_stat(pid: int) -> Stat | None:
    """Return what /proc says of ``pid``, or None if there is no such process. Raises OSError for want of descriptors or memory."""
    try:
        return parse_stat(read_line(f"/proc/{pid}/stat"))
    except (OSError, ValueError) as error:
        # ValueError: an empty read, from a process that went between open and read.
        _raise_if_short(error)
        return None


def start_time(pid: int) -> int | None:
    """Return when ``pid`` started, in clock ticks since boot; None if there is no such process. Raises OSError as `read_stat`."""
    try:
        data = read_line(f"/proc/{pid}/stat")
        return int(data[data.rindex(b")") + 2 :].split(b" ", 20)[19])
    except (OSError, ValueError) as error:
        _raise_if_short(error)
        return None


def all_pids() -> list[int]:
    """Return every pid of this pid namespace."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def read_line(path: str) -> bytes:
    """Read a file of one short line with one call: a read of less than a page is cut nowhere. Raises OSError."""
    fd = _open(path)
    try:
        return os.read(fd, 2048)
    finally:
        os.close(fd)


def children_by_parent() -> dict[bytes, list[str]]:
    """Return the live children of every process that has one, by its pid; all as /proc writes them.

    One look at each process, which for a large tree costs less than a walk. This is what listing a tree of a thousand
    spends its time in, so it is written out, and turns no number into an int that nobody asks for.
    """
    table: dict[bytes, list[str]] = {}
    open_file, read_file, close_file, flags = os.open, os.read, os.close, os.O_RDONLY | os.O_CLOEXEC
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            fd = open_file(f"/proc/{name}/stat", flags)
        except OSError as error:
            _raise_if_short(error)
            continue
        try:
            _, _, fields = read_file(fd, 256).rpartition(b") ")
            state, parent, _ = fields.split(b" ", 2)
        except (OSError, ValueError):
            # ValueError: an empty read, from a process that went between open and read.
            continue
        finally:
            close_file(fd)
        if state not in b"ZX" or thread_count(int(name)):
            if parent in table:
                table[parent].append(name)
            else:
                table[parent] = [name]
    return table


def thread_count(pid: int) -> int:
    """Return how many threads a live process has; 0 for a zombie, or if it has gone."""
    try:
        line = read_line(f"/proc/{pid}/stat")
        fields = line[line.rindex(b")") + 2 :].split(b" ", 18)
    except (OSError, ValueError) as error:
        _raise_if_short(error)
        return 0
    threads = int(fields[17])
    return 0 if fields[0] in b"ZX" and threads <= 1 else threads


def all_stats() -> Iterator[Stat]:
    """Yield what /proc says of every process."""
    for pid in all_pids():
        stat = read_stat(pid)
        if stat is not None:
            yield stat


def newest_pid() -> int:
    """Return the pid that was given out last in this pid namespace. Source: proc_loadavg(5)."""
    return int(read("/proc/loadavg").split()[4])


def forks() -> int:
    """Return how many processes and threads were ever made here; 0 where the kernel does not count. Source: proc_stat(5)."""
    _, _, counted = read("/proc/stat").partition(b"\nprocesses ")
    return int(counted.split(b"\n", 1)[0] or 0)


def environ(pid: int) -> bytes:
    """Return the environment of ``pid``, each variable ended by a NUL; empty if it can't be read.

    A process that sets its title overwrites this memory, so an absent variable proves nothing.
    """
    try:
        return read(f"/proc/{pid}/environ")
    except ProcessLookupError:
        return _environ_of_threads(pid)
    except OSError as error:
        _raise_if_short(error)
        return b""


def _environ_of_threads(pid: int) -> bytes:
    """Where the first thread has ended, the process is asked by way of the others."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                return read(f"/proc/{pid}/task/{thread}/environ")
            except ProcessLookupError:
                continue
    except OSError:
        return b""
    return b""


def ignored_signals() -> list[int]:
    """Return the signals that this process ignores, those that Python ignores by itself included."""
    for line in read("/proc/self/status").splitlines():
        if line.startswith(b"SigIgn:"):
            bits = int(line.split()[1], 16)
            return [number for number in range(1, 65) if bits >> (number - 1) & 1]
    return []


def wait_channel(pid: int) -> str:
    """Return the kernel function in which ``pid`` sleeps; empty if unknown."""
    try:
        return read(f"/proc/{pid}/wchan").decode(errors="replace")
    except OSError:
        return ""
