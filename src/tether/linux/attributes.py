"""What a process started now by this thread would inherit from it. Source: proc_pid_status(5), namespaces(7), execve(2).

The hub was started at some moment, and what it forks inherits what this process had then. What can be set from outside (limits,
priority, mask) is sent with each command; what can't be (privileges, namespaces, the root directory) needs another hub.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

from tether.linux import proc

__all__ = ["Attributes", "read"]

_PRIVILEGES = (
    b"Uid",
    b"Gid",
    b"Groups",
    b"NoNewPrivs",
    b"Seccomp",
    b"Seccomp_filters",
    b"CapInh",
    b"CapPrm",
    b"CapEff",
    b"CapBnd",
    b"CapAmb",
)
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid_for_children", "time_for_children", "user", "uts")
_LIMITS = tuple(sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}))


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a child inherits.

    Attributes:
        privileges: users, groups, capabilities, filters, namespaces and root directory; only equal ones are alike.
        umask: the file mode mask.
        nice: the priority.
        affinity: the processors, as a bit mask with the lowest first.
        oom_score_adj: how willingly the kernel kills it when memory is short.
        limits: soft and hard limit of each resource.
    """

    privileges: tuple[bytes, ...]
    umask: int
    nice: int
    affinity: bytes
    oom_score_adj: int
    limits: tuple[tuple[int, int, int], ...]


def _affinity(text: bytes) -> bytes:
    """Turn ``ff,00000003`` into bytes, for sched_setaffinity(2): a multiple of the size of a long."""
    number = int(text.replace(b",", b""), 16)
    return number.to_bytes(max(8, (number.bit_length() + 63) // 64 * 8), "little")


def _umask(fields: dict[bytes, bytes]) -> int:
    """The file mode mask; a kernel before 4.7 does not tell, so it is set and set back there."""
    if b"Umask" in fields:
        return int(fields[b"Umask"], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _namespaces() -> list[bytes]:
    found = []
    for name in _NAMESPACES:
        try:
            found.append(os.readlink(f"/proc/thread-self/ns/{name}").encode())
        except OSError:
            # A kernel without this kind.
            continue
    return found


def read() -> Attributes:
    """Look at the calling thread: these are attributes of threads, and a child inherits those of the one that forks."""
    lines = proc.read("/proc/thread-self/status").splitlines()
    fields = dict(line.split(b":\t", 1) for line in lines if b":\t" in line)
    root = os.stat("/")
    privileges = [fields.get(name, b"") for name in _PRIVILEGES]
    return Attributes(
        (*privileges, *_namespaces(), b"%d:%d" % (root.st_dev, root.st_ino)),
        _umask(fields),
        os.getpriority(os.PRIO_PROCESS, 0),
        _affinity(fields[b"Cpus_allowed"]),
        int(proc.read("/proc/self/oom_score_adj")),
        tuple((limit, *resource.getrlimit(limit)) for limit in _LIMITS),
    )
