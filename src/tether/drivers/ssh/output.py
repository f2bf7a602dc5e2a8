"""The output of what runs on another host: read from there while it runs, fetched when it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_all
from pathlib import Path

from tether.drivers.ssh.agent import FarError
from tether.drivers.ssh.host import Host, Loop
from tether.errors import DriverUnavailable
from tether.guard.wire import Kind
from tether.ledger import logs, place

__all__ = ["Output"]

_SAVED_BYTES = 1 << 20
_FOLLOW_PAUSE_S = 0.3
_FORGET_S = 5.0
_FINISH_S = 60.0


class Output:
    """Reads and fetches in the loop's thread. What has ended is fetched after its end is on record: no size of output delays that.

    Crash:
        What was not fetched stays there, with its receipt, and is forgotten after two weeks.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._running: dict[str, Future[None]] = {}

    def pieces(self, host: Host, tag: str, offset: int) -> Iterator[bytes]:
        """Yield the log there from an offset to its end. Raises DriverUnavailable."""
        while True:
            try:
                offset, _, data = self._loop.run(host.log(tag, offset, _SAVED_BYTES))
            except FarError as error:
                raise DriverUnavailable(f"host {host.where} refused: {error.said} {error.filename}") from error
            if not data:
                return
            offset += len(data)
            yield data

    def read(self, host: Host, tag: str, saved: Path, lines: int | None) -> bytes:
        """Return the last lines, or all: of one that has ended, what was fetched. Raises DriverUnavailable."""
        if saved.exists():
            data = saved.read_bytes()
        else:
            data = b"".join(self.pieces(host, tag, 0 if lines is None else -max(1 << 16, 512 * lines)))
            if not data and saved.exists():
                # It was fetched, and removed there, in this moment.
                data = saved.read_bytes()
        return logs.last_lines(data, lines)

    def follow(self, host: Host, tag: str, is_alive: Callable[[], bool]) -> Iterator[bytes]:
        """Yield what is written there from now on, until it ends. Raises DriverUnavailable."""
        offset = self._loop.run(host.log(tag, 0, 0))[1]
        while True:
            alive = is_alive()
            for data in self.pieces(host, tag, offset):
                offset += len(data)
                yield data
            if not alive:
                return
            time.sleep(_FOLLOW_PAUSE_S)

    def fetch(self, host: Host, tag: str, saved: Path) -> Future[None]:
        """Fetch the end of a log into a file, then clear up there; once, however often it is asked for."""
        with self._lock:
            running = self._running.get(tag)
            if running is None or running.done():
                running = asyncio.run_coroutine_threadsafe(_collect(host, tag, saved), self._loop.loop)
                self._running[tag] = running
            return running

    def put_aside(self, tag: str, saved: Path) -> None:
        """Put aside what an earlier life with this tag has written."""
        with self._lock:
            running = self._running.pop(tag, None)
        if running is not None:
            wait_all([running], timeout=_FORGET_S)
            running.cancel()
        with contextlib.suppress(OSError):
            saved.replace(saved.with_name(f"{saved.name}.1"))

    def finish(self) -> None:
        """Wait for all; each gives up when its host is silent for too long, and none holds up an end for ever."""
        with self._lock:
            running = list(self._running.values())
            self._running.clear()
        _, late = wait_all(running, timeout=_FINISH_S)
        for each in late:
            each.cancel()


async def _collect(host: Host, tag: str, saved: Path) -> None:
    """Raises DriverUnavailable, FarError."""
    offset, size, data = await host.log(tag, -_SAVED_BYTES, _SAVED_BYTES)
    parts = [data]
    while data and offset + len(data) < size:
        offset, _, data = await host.log(tag, offset + len(data), _SAVED_BYTES)
        parts.append(data)
    if size:
        with contextlib.suppress(OSError):
            # A full disk here keeps nothing there.
            place.write_private(saved, b"".join(parts))
    try:
        await host.call(Kind.CLEAR, tag=tag)
    except FarError as error:
        raise DriverUnavailable(f"host {host.where} could not clear up: {error.said} {error.filename}") from error
