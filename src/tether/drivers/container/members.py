"""Which processes of this machine are a container's.

An engine numbers processes as it sees them, and may be in another pid namespace or on another machine, also behind a unix socket
(Docker Desktop, Lima, a socket forwarded by ssh). So its numbers are not believed: a process is a container's if this machine's
kernel says that it is in the container's cgroup. No engine is asked, so one that is frozen is no hindrance.
"""

from __future__ import annotations

import re
import threading
import time

from tether.linux import proc

__all__ = ["Members"]

_ID = re.compile(rb"[0-9a-f]{64}")
_FRESH_S = 0.02


class Members:
    """One look at all processes answers for all containers.

    Source: cgroups(7) on /proc/PID/cgroup; engines name a container's cgroup after its full id.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._found: dict[str, tuple[int, ...]] = {}

    def of(self, container: str) -> tuple[int, ...]:
        """Return the live pids of a container by its full id, its first process first; empty if it has none here."""
        with self._lock:
            if time.monotonic() - self._looked > _FRESH_S:
                self._found = _look()
                self._looked = time.monotonic()
            return self._found.get(container, ())


def _look() -> dict[str, tuple[int, ...]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for pid in proc.all_pids():
        try:
            said = proc.read(f"/proc/{pid}/cgroup")
        except OSError:
            # It has ended meanwhile.
            continue
        ids = _containers_in(said)
        stat = proc.read_stat(pid) if ids else None
        if stat is not None and stat.running:
            for each in ids:
                found.setdefault(each, []).append((stat.start, pid))
    # What started first is the container's first process: others came by it, or by `docker exec`.
    return {each: tuple(pid for _, pid in sorted(members)) for each, members in found.items()}


def _containers_in(said: bytes) -> set[str]:
    """Return the ids in the folders of a process's cgroups. Podman's monitor stands beside its container, not in it."""
    folders = {folder for line in said.split(b"\n") for folder in line.rpartition(b":")[2].split(b"/")}
    return {match[0].decode() for folder in folders if b"conmon" not in folder for match in _ID.finditer(folder)}
