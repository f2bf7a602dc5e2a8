"""Which processes have a device open, by their descriptors. Source: proc_pid_fd(5)."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Sequence

__all__ = ["GPU", "holders"]

GPU = ("/dev/nvidia[0-9]*", "/dev/nvidia-uvm", "/dev/kfd", "/dev/dri/renderD*", "/dev/accel/accel*")
"""Device files of GPUs: NVIDIA's, AMD's, and what the kernel's own drivers offer."""


def holders(pids: Iterable[int], patterns: Sequence[str]) -> list[int]:
    """Return those of ``pids`` that have a file open whose path matches one of the shell patterns."""
    return [pid for pid in pids if any(_matches(path, patterns) for path in _open_files(pid))]


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _open_files(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        # It has ended, or is another user's.
        return []
    found = []
    for name in names:
        try:
            found.append(os.readlink(f"{folder}/{name}"))
        except OSError:
            continue
    return found
