"""How much the kernel offers for holding a tree, and the setting that forces less.

Three tiers, the strongest first:

cgroup    a child subreaper, and a cgroup v2 folder of its own for each tree
shim      a child subreaper
portable  neither: the tree is followed by looking at the process table

``TETHER_TIER`` in the environment forces a weaker one; the tests use it so that the weaker ones are run
too. What is active is never silent: `Owner.status` and ``tether doctor`` name it.
"""

from __future__ import annotations

import errno
import os
import signal
from functools import cache

__all__ = ["CGROUP", "PORTABLE", "SHIM", "VARIABLE", "forced", "has_pidfd", "is_portable"]

VARIABLE = "TETHER_TIER"
CGROUP = "cgroup"
SHIM = "shim"
PORTABLE = "portable"


def forced() -> str | None:
    """Return the tier that the environment asks for, or None."""
    tier = os.environ.get(VARIABLE)
    return tier if tier in (CGROUP, SHIM, PORTABLE) else None


def is_portable() -> bool:
    """Whether the portable path was asked for."""
    return os.environ.get(VARIABLE) == PORTABLE


def has_pidfd() -> bool:
    """Whether processes can be held by file descriptor (Linux 5.3, pidfd_open(2)) and it is not forced off."""
    return not is_portable() and _offers_pidfd()


@cache
def _offers_pidfd() -> bool:
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        # Want of descriptors says nothing of the kernel; a filter of system calls says one of these.
        return error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES)
    return True
