"""Who uses an environment now: a shared lock on its mark, which the kernel takes from the dead."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from tether.drivers.conda import folder, locks
from tether.linux import proc

__all__ = ["Uses", "is_unused", "processes_in"]


class Uses:
    """The environments that this process uses."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}

    def begin(self, tag: str, prefix: Path) -> bool:
        """Keep others from removing an environment; whether it is whole, and not being removed just now."""
        fd = locks.share(prefix / folder.MARK)
        if fd is None:
            return False
        if folder.mark_of(prefix) is None:
            os.close(fd)
            return False
        self._replace(tag, fd)
        return True

    def end(self, tag: str) -> None:
        """Let go of what one resource uses."""
        self._replace(tag, None)

    def _replace(self, tag: str, fd: int | None) -> None:
        with self._lock:
            old = self._held.pop(tag, None)
            if fd is not None:
                self._held[tag] = fd
        if old is not None:
            os.close(old)

    def close(self) -> None:
        """Let go of all."""
        for tag in list(self._held):
            self.end(tag)


def is_unused(prefix: Path) -> bool:
    """Whether nobody uses an environment: no owner holds it, and no process runs in it."""
    fd = locks.share(prefix / folder.MARK, fcntl.LOCK_EX)
    if fd is None:
        return False
    os.close(fd)
    return not processes_in(prefix)


def processes_in(prefix: Path) -> list[int]:
    """Return the processes whose program or working directory is in a folder, or that have it activated."""
    inside = os.path.realpath(prefix)
    activated = b"CONDA_PREFIX=" + os.fsencode(prefix)
    found = []
    for pid in proc.all_pids():
        places = []
        for what in ("exe", "cwd"):
            try:
                places.append(str(Path(f"/proc/{pid}/{what}").readlink()))
            except OSError:
                # It has ended, or is a kernel thread, or another user's.
                continue
        if any(place == inside or place.startswith(f"{inside}/") for place in places) or activated in _environ(pid):
            found.append(pid)
    return found


def _environ(pid: int) -> list[bytes]:
    try:
        return proc.environ(pid).split(b"\0")
    except OSError:
        return []
