"""Where this process is: on which machine, under which kernel, in which namespaces. Pids mean something only there."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from tether.linux import identity, proc
from tether.model import Identity

__all__ = ["Whereabouts", "here", "is_shared", "lives", "uptime_s"]

_SHARED = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "gfs2",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "prl_fs",
        "pvfs2",
        "smb3",
        "smbfs",
        "vboxsf",
        "virtiofs",
        "wekafs",
    }
)


@dataclass(frozen=True)
class Whereabouts:
    """Where a process is or was; empty text for what is not known.

    Attributes:
        machine: the machine id. Containers and hosts that boot one image may share it.
        host: the host name.
        boot: the id of the boot, which is the kernel's.
        pid_ns, time_ns: the namespaces in which its pid and its start time are counted.
    """

    machine: str = ""
    host: str = ""
    boot: str = ""
    pid_ns: str = ""
    time_ns: str = ""

    def counts_like(self, other: Whereabouts) -> bool:
        """Whether pid and start time mean the same process for both. What is not known of an old record is taken for equal."""
        return self.boot == other.boot and all(
            mine == theirs or not mine or not theirs
            for mine, theirs in ((self.pid_ns, other.pid_ns), (self.time_ns, other.time_ns))
        )

    def is_same_machine(self, other: Whereabouts) -> bool:
        """Whether both are surely the same machine, by id and by name."""
        return bool(self.machine) and (self.machine, self.host) == (other.machine, other.host)


def _machine_id() -> str:
    """Source: machine-id(5)."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            found = proc.read(path).decode(errors="replace").strip()
        except OSError:
            continue
        if found and found != "uninitialized":
            return found
    return ""


def _namespace(kind: str) -> str:
    """Return the number of one of this process's namespaces; empty on a kernel without. Source: namespaces(7)."""
    try:
        return os.readlink(f"/proc/self/ns/{kind}")
    except OSError:
        return ""


def here() -> Whereabouts:
    """Return where this process is. Asked anew each time: a process may have been moved or forked into other namespaces."""
    return Whereabouts(_machine_id(), os.uname().nodename, identity.boot_id(), _namespace("pid"), _namespace("time"))


def uptime_s() -> float:
    """Return the seconds since boot, time asleep included: a clock that nobody sets. Source: clock_gettime(2), CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def is_shared(folder: str) -> bool:
    """Whether another kernel may use this folder at the same time, by the type of its file system. Source: proc(5), mountinfo."""
    real = os.path.realpath(folder)
    found = ("", "")
    try:
        lines = proc.read("/proc/self/mountinfo").decode(errors="surrogateescape").splitlines()
    except OSError:
        return False
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(found[0]):
            found = (point, right.split()[0])
    return found[1] in _SHARED or found[1].startswith("fuse")


def lives(who: Identity) -> bool | None:
    """Whether the very process of an identity that was taken here runs; None if that can't be looked at now.

    Where descriptors have run out or /proc is not to be had, every process looks as if it had gone.
    """
    if not identity.same_boot(who):
        return False
    try:
        stat = proc.parse_stat(proc.read(f"/proc/{who.pid}/stat"))
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return False if _sees_itself() else None
    except OSError:
        return None
    return stat.start == who.start and stat.running


def _sees_itself() -> bool:
    try:
        return proc.read("/proc/self/stat").startswith(b"%d " % os.getpid())
    except OSError:
        return False
