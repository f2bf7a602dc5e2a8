"""Who a pid is: boot id, pid and start time."""

from __future__ import annotations

import os
from functools import cache

from tether.linux import proc, tier
from tether.model import Identity

__all__ = ["boot_id", "has_inode", "identify", "is_alive", "same_boot"]


@cache
def boot_id() -> str:
    """Return the id of this boot. Source: random(4), /proc/sys/kernel/random/boot_id."""
    return proc.read("/proc/sys/kernel/random/boot_id").decode().strip()


def identify(pid: int | None = None) -> Identity | None:
    """Return the identity of ``pid`` (of this process if None), or None if there is no such process."""
    pid = os.getpid() if pid is None else pid
    start = proc.start_time(pid)
    return None if start is None else Identity(boot_id(), pid, start)


def same_boot(identity: Identity) -> bool:
    """Whether the identity was taken since this machine booted; if not, its process has surely gone."""
    return identity.boot == boot_id()


def has_inode(pid: int, inode: int) -> bool:
    """Whether a pid is the process whose pidfd had this inode number, which is never given twice; true where none is known (0).

    In a small pid namespace pid and start tick may come twice within a tick. Source: Linux 6.9, fs/pidfs.c; before that all pidfds
    have one inode, and the guard records none.
    """
    if inode == 0 or not tier.has_pidfd():
        return True
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        # Gone; or there is no room for a descriptor, and then pid and start must do.
        return True
    try:
        return os.fstat(fd).st_ino == inode
    finally:
        os.close(fd)


def is_alive(identity: Identity) -> bool:
    """Whether the very process of this identity runs (a zombie does not)."""
    if not same_boot(identity):
        return False
    stat = proc.read_stat(identity.pid)
    return stat is not None and stat.start == identity.start and stat.running
