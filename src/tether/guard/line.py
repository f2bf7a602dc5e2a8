"""The owner's side of the guard: its reaper, started when first needed and again if it is killed, and the thread that hears it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tether.errors import Gone, TetherError
from tether.guard.launch import Reaper, ShimChannel
from tether.guard.watcher import Watcher
from tether.linux import cgroup, members
from tether.model import Terminal

__all__ = ["Guard"]

_REAPER_END_S = 5.0
_ORPHANS_S = 10.0


class Guard:
    """What ends everything should this process die.

    Args:
        owner: the owner's id.
        name: the owner's name, for the thread.
        state_dir: the state directory.
        note: told of what happens to the guard itself: what, and the detail.

    Attributes:
        cgroup: the folder for the owner's trees, or None.
        terminal: how commands share this process's terminal, or None.
    """

    def __init__(self, owner: str, name: str, state_dir: Path, note: Callable[[str, str], None]) -> None:
        self.cgroup = cgroup.owner_folder(owner)
        self.terminal: Terminal | None = None
        self._owner = owner
        self._name = name
        self._state_dir = state_dir
        self._note = note
        self._lock = threading.RLock()
        self._closed = False
        self._watcher: Watcher | None = None
        self._reaper: Reaper | None = None
        # One for the owner's whole life: its end is the owner's death to every shim, also of a reaper that was killed.
        self._lifeline, self._lifeline_held = os.pipe()
        self._orphans = threading.Condition()
        self._ended_orphans: set[int] = set()

    def arm(self) -> Reaper:
        """Return the reaper, started if there is none. Raises ReaperError."""
        with self._lock:
            if self._closed:
                raise Gone(f"owner {self._name} was shut down; make a new one")
            if self._reaper is None:
                if self._watcher is None:
                    self._watcher = Watcher(self._name)
                # Its own environment carries no tag: it is no stray of its owner's.
                tags = (members.OWNER, members.RESOURCE)
                environ = {name: value for name, value in os.environ.items() if name not in tags}
                new_session = self.terminal is None
                reaper = Reaper(
                    self._owner, self._state_dir, environ, self.cgroup, self._lifeline, new_session=new_session
                )
                self._reaper = reaper
                self._watcher.watch(reaper.control, lambda: self._hear(reaper))
            return self._reaper

    @property
    def tier(self) -> str | None:
        """How trees are held; None before the first start."""
        return self._reaper.tier if self._reaper else None

    @property
    def pid(self) -> int | None:
        """The reaper's pid; None before the first start."""
        return self._reaper.pid if self._reaper else None

    @contextmanager
    def shim(self) -> Iterator[ShimChannel]:
        """Lend a shim. The next one is forked when its command runs: before, the two would only share the processor."""
        reaper = self.arm()
        try:
            yield reaper.shim()
        finally:
            reaper.prepare()

    def armed_lifeline(self) -> int:
        """The descriptor for a tree that is adopted, which is guarded by this owner's reaper from then on."""
        self.arm()
        return self._lifeline

    def watch(self, sock: socket.socket, readable: Callable[[], bool]) -> None:
        """Have the watching thread call ``readable`` whenever ``sock`` can be read, until it returns False."""
        if self._watcher is None:
            raise Gone(f"owner {self._name} was shut down")
        self._watcher.watch(sock, readable)

    def _hear(self, reaper: Reaper) -> bool:
        """Take in a message of the reaper; False when it has gone. Runs in the watching thread."""
        message = reaper.receive()
        if message is None:
            self._reaper_ended(reaper)
            return False
        if "lost" in message:
            with self._orphans:
                self._ended_orphans.add(message["lost"])
                self._orphans.notify_all()
        elif "stuck" in message:
            self._note("stuck", ", ".join(f"pid {pid} in {channel}" for pid, channel in message["stuck"]))
        return True

    def _reaper_ended(self, reaper: Reaper) -> None:
        """The reaper was killed. Its shims go on by themselves; what is started from now on needs another."""
        with self._lock:
            if self._reaper is not reaper:
                return
            self._reaper = None
            closing = self._closed
        with self._orphans:
            self._orphans.notify_all()
        reaper.wait(_REAPER_END_S)
        reaper.release()
        if not closing:
            self._note("reaper lost", f"pid {reaper.pid} ended; its shims go on, another reaper is started")
            try:
                self.arm()
            except TetherError as error:
                self._note("reaper lost", f"another could not be started, the next start tries again: {error}")

    def await_orphans(self, shim: int) -> None:
        """Wait until the reaper said that it ended the tree of a shim that was killed, or has gone itself."""
        reaper = self._reaper
        if reaper is None or shim not in reaper.forked:
            return
        with self._orphans:
            self._orphans.wait_for(
                lambda: shim in self._ended_orphans or self._reaper is not reaper, timeout=_ORPHANS_S
            )

    def disarm(self, *, orderly: bool, empty: bool) -> None:
        """Let go of reaper and shims.

        Args:
            orderly: nothing is left to settle; else the reaper takes this for the owner's death, and settles.
            empty: no shim has a tree any more, so that the reaper ends at once, and is waited for.
        """
        with self._lock:
            self._closed = True
            reaper, self._reaper = self._reaper, None
            watcher, self._watcher = self._watcher, None
        if reaper is not None and orderly:
            reaper.say_bye()
        if watcher is not None:
            watcher.close()
        self._end_lifeline()
        if reaper is not None:
            reaper.close()
            if orderly and empty:
                reaper.wait(_REAPER_END_S)
                if self.cgroup is not None:
                    # Shims of a reaper that was killed may end a moment later; what they are in goes with the next sweep.
                    cgroup.remove(self.cgroup)

    def _end_lifeline(self) -> None:
        for fd in (self._lifeline_held, self._lifeline):
            if fd >= 0:
                os.close(fd)
        self._lifeline = self._lifeline_held = -1

    def release_in_fork(self) -> None:
        """In a fork of the owner: let go of every line to reaper and shims, so that only the owner's own count."""
        self._closed = True
        self._end_lifeline()
        if self._reaper is not None:
            self._reaper.close()
        if self._watcher is not None:
            self._watcher.release()
