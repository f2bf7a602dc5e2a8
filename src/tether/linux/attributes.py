"""What a process started now by this thread would inherit from it. Source: proc_pid_status(5), namespaces(7), execve(2).

The hub was started at some moment, and what it forks inherits what this process had then. What can be set from outside (limits,
priority, mask) is sent with each command; what can't be (privileges, namespaces, the root directory) needs another hub.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from functools import lru_cache

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
_PARTS = (
    (b"\nUmask:", b"\nState:"),
    (b"\nUid:", b"\nFDSize:"),
    (b"\nGroups:", b"\nNStgid:"),
    (b"\nCapInh:", b"\nMems_allowed:"),
)
"""Where the lines of a status that matter begin and end: the others (memory, switches) differ each time."""

_NAMESPACES = tuple(
    b"/proc/thread-self/ns/" + name
    for name in (b"cgroup", b"ipc", b"mnt", b"net", b"pid_for_children", b"time_for_children", b"user", b"uts")
)
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


@lru_cache(maxsize=16)
def _parse(told: bytes) -> tuple[tuple[bytes, ...], int | None, bytes]:
    """Return privileges, the umask if it is told, and the processors. The same lines come each time."""
    fields = dict(line.split(b":\t", 1) for line in told.splitlines() if b":\t" in line)
    umask = int(fields[b"Umask"], 8) if b"Umask" in fields else None
    return tuple(fields.get(name, b"") for name in _PRIVILEGES), umask, _affinity(fields[b"Cpus_allowed"])


def _umask() -> int:
    """The file mode mask, from a kernel before 4.7, which does not tell: it is set and set back."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _namespaces() -> list[bytes]:
    found = []
    for name in _NAMESPACES:
        try:
            found.append(os.readlink(name))
        except OSError:
            # A kernel without this kind.
            continue
    return found


def read() -> Attributes:
    """Look at the calling thread: these are attributes of threads, and a child inherits those of the one that forks."""
    text = proc.read("/proc/thread-self/status")
    told, umask, affinity = _parse(b"".join([text[text.find(begin) : text.find(end)] for begin, end in _PARTS]))
    root = os.stat("/")
    return Attributes(
        (*told, *_namespaces(), b"%d:%d" % (root.st_dev, root.st_ino)),
        _umask() if umask is None else umask,
        os.getpriority(os.PRIO_PROCESS, 0),
        affinity,
        int(proc.read_line("/proc/self/oom_score_adj")),
        tuple([(limit, *resource.getrlimit(limit)) for limit in _LIMITS]),
    )
