"""The descriptors of this process. Source: proc_pid_fd(5), fcntl(2)."""

from __future__ import annotations

import os

__all__ = ["can_open", "inheritable"]


def inheritable() -> list[int]:
    """Return the descriptors above the first three that a program started by execve(2) alone would have."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and os.get_inheritable(fd):
                found.append(fd)
        except OSError:
            # That of the listing itself.
            continue
    return sorted(found)


def can_open(count: int) -> bool:
    """Whether this process can have so many more now."""
    opened: list[int] = []
    try:
        for _ in range(count):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401  What was opened must be closed.
    except OSError:
        return False
    finally:
        for fd in opened:
            os.close(fd)
    return True
