"""The descriptors of this process. Source: proc_pid_fd(5), fcntl(2)."""

from __future__ import annotations

import os

__all__ = ["inheritable"]


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
