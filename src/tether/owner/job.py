"""What is no plugin, and is answered for like one: the pids of a job manager, and a process that exists already."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from tether import calls
from tether.errors import PluginError
from tether.linux import members, proc, signals, tree
from tether.protocol import PluginExecutionMode

__all__ = ["Job", "Watched"]

_GRACE_S = 5.0


def _identities(pids: Iterable[int]) -> list[tuple[int, int]]:
    return [(pid, start) for pid in pids if pid > 1 and (start := proc.start_time(pid)) is not None]


def _end(found: list[tuple[int, int]], grace_s: float) -> None:
    """SIGTERM, and SIGKILL to what is there after the grace; each to a verified identity."""
    for pid, start in found:
        with suppress(PermissionError):
            signals.send(pid, start, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    for pid, start in found:
        if not signals.wait_end(pid, start, deadline - time.monotonic()):
            with suppress(PermissionError):
                signals.send(pid, start, signal.SIGKILL)
            signals.wait_end(pid, start, _GRACE_S)


class Job:
    """A plugin made of two functions. See `Owner.register`."""

    def __init__(
        self,
        pids: Callable[[], Iterable[int]] | Iterable[int] | None,
        cleanup: Callable[[], object] | None,
    ) -> None:
        self._pids = pids if callable(pids) else None
        # Pids that are given once are those of now: one that is handed out again later is another process.
        self._fixed = [] if pids is None or callable(pids) else _identities(list(pids))
        self._cleanup = cleanup

    @property
    def program(self) -> str:
        """What it is called by default: the name of one of its functions."""
        named = [getattr(each, "__qualname__", "") for each in (self._cleanup, self._pids)]
        return next((name.replace("<lambda>", "job").replace("<locals>", "") for name in named if name), "job")

    def get_execution_mode(self) -> PluginExecutionMode:
        """See `LifecycleAwarePlugin`."""
        return PluginExecutionMode.SUBPROCESS

    def get_child_pids(self) -> list[int]:
        """See `LifecycleAwarePlugin`."""
        fixed = [pid for pid, start in self._fixed if proc.start_time(pid) == start and tree.is_running(pid)]
        return [*fixed, *(self._pids() if self._pids is not None else ())]

    def get_managed_resources(self) -> dict[str, Any]:
        """See `LifecycleAwarePlugin`."""
        pids = self.get_child_pids()
        return {"is_running": bool(pids), "pid": pids[0] if pids else None, "pids": pids}

    def force_cleanup(self) -> None:
        """See `LifecycleAwarePlugin`."""
        if self._cleanup is not None:
            self._cleanup()
            return
        ours = set(tree.descendants(os.getpid()))
        _end(_identities(pid for pid in self.get_child_pids() if pid in ours), _GRACE_S)


class Watched:
    """A process that existed before it was watched. See `Owner.watch`."""

    def __init__(self, process: Any, owner: str, grace_s: float) -> None:
        pid = process if type(process) is int else getattr(process, "pid", None)
        if type(pid) is not int:
            raise PluginError(
                f"{calls.shown(process)} can't be watched: it has no pid; give a Popen, or a pid", plugin="Watched"
            )
        stat = proc.read_stat(pid)
        if stat is None or not stat.running:
            raise PluginError(f"process {pid} can't be watched: it has ended already", plugin="Watched")
        if pid not in tree.descendants(os.getpid()) and not members.carries(proc.environ(pid), {owner}):
            raise PluginError(
                f"process {pid} can't be watched: this app did not start it, so it is not this app's to end",
                plugin="Watched",
            )
        self.pid = pid
        self.program = stat.name.decode(errors="replace")
        self._start = stat.start
        self._process = process
        self._grace_s = grace_s

    def __repr__(self) -> str:
        return f"<Watched {self.program} (pid {self.pid}{', ended' if self.has_ended else ''})>"

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, by itself or by a cleanup."""
        stat = proc.read_stat(self.pid)
        return stat is None or stat.start != self._start or not stat.running

    def get_execution_mode(self) -> PluginExecutionMode:
        """See `LifecycleAwarePlugin`."""
        return PluginExecutionMode.SUBPROCESS

    def get_child_pids(self) -> list[int]:
        """See `LifecycleAwarePlugin`."""
        return [] if self.has_ended else [self.pid]

    def get_managed_resources(self) -> dict[str, Any]:
        """See `LifecycleAwarePlugin`."""
        return {"is_running": not self.has_ended, "pid": None if self.has_ended else self.pid, "program": self.program}

    def force_cleanup(self) -> None:
        """See `LifecycleAwarePlugin`: SIGTERM, and SIGKILL after the grace."""
        _end([(self.pid, self._start)], self._grace_s)
        poll = getattr(self._process, "poll", None)
        if callable(poll):
            # So that its Popen knows the exit code, and no zombie stays.
            poll()
