"""The output of a resource as lines of text, also while it is written."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tether.ledger import logs
from tether.life.driver import HasOutput
from tether.life.managed import Managed
from tether.linux import inotify
from tether.model import Handle

__all__ = ["Lines", "Splitter", "lines"]

_PAUSE_S = 0.2


class Splitter:
    """Cuts what comes in pieces into lines of text, without their ends."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def take(self, data: bytes) -> list[str]:
        """Return the lines that are complete by now."""
        self._rest += data
        *whole, rest = self._rest.split(b"\n") if b"\n" in data else [self._rest]
        self._rest = bytearray(rest)
        return [line.decode(errors="replace") for line in whole]

    def end(self) -> list[str]:
        """Return what is left: the last line, if it has no end."""
        rest, self._rest = self._rest, bytearray()
        return [rest.decode(errors="replace")] if rest else []


class Lines(Iterator[str]):
    """An iterator of lines. Whoever gives it up early may close it; a context manager.

    Attributes:
        fd: a descriptor that can be read when there may be something new, also a moment too often; None where only `wait` waits.

    Args:
        text: all that there will be.
    """

    fd: int | None = None

    def __init__(self, text: str = "") -> None:
        self._ready = deque(text.splitlines())

    def take(self) -> list[str] | None:
        """Return the lines that came, maybe none; None when no more will come."""
        found = list(self._ready)
        self._ready.clear()
        return found or None

    def wait(self) -> None:
        """Wait until there may be something new."""

    def __next__(self) -> str:
        while not self._ready:
            found = self.take()
            if found is None:
                self.close()
                raise StopIteration
            self._ready.extend(found)
            if not found:
                self.wait()
        return self._ready.popleft()

    def close(self) -> None:
        """Let go of what it reads from."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class _Kept(Lines):
    """What an engine or a host keeps, which tells of what is new by itself."""

    def __init__(self, driver: HasOutput, handle: Handle, *, follow: bool, tail: int | None) -> None:
        super().__init__()
        self._splitter = Splitter()
        self._pieces = self._read(driver, handle, follow=follow, tail=tail)
        self._over = False

    @staticmethod
    def _read(driver: HasOutput, handle: Handle, *, follow: bool, tail: int | None) -> Iterator[bytes]:
        yield driver.read_log(handle, tail)
        if follow:
            yield from driver.follow_log(handle)

    def take(self) -> list[str] | None:
        if self._over:
            return None
        data = next(self._pieces, None)
        if data is None:
            self._over = True
            return self._splitter.end()
        return self._splitter.take(data)


class _Following(Lines):
    """Logs of this machine until their resource has ended. The kernel says when there is something new, the watcher of that end.

    Where the kernel can't say so now (a user has so many watches), it is looked at now and again.

    Raises:
        OSError: a log can't be read.
    """

    def __init__(self, managed: Managed, paths: tuple[Path, ...], tail: int | None) -> None:
        super().__init__()
        self._managed = managed
        # A restart in another thread is the end of the life that is followed.
        self._begun = managed.begun
        self._paths = paths
        self._over = False
        self._bell = self._told = -1
        self._held = ExitStack()
        with ExitStack() as stack:
            self._logs = [logs.Log(path) for path in paths]
            for log in self._logs:
                stack.callback(log.close)
            self._splitters = [Splitter() for _ in paths]
            self._first = [log.last(tail) for log in self._logs]
            self._epoll = stack.enter_context(select.epoll())
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._epoll.register(self._bell, select.EPOLLIN)
            self._forget = managed.on_end(self._ring, waits=True)
            stack.callback(self._hang_up)
            with suppress(OSError):
                self._told = inotify.opened()
                stack.callback(os.close, self._told)
                self._epoll.register(self._told, select.EPOLLIN)
                self.fd = self._epoll.fileno()
            self._held = stack.pop_all()

    def _ring(self) -> None:
        if self._bell >= 0:
            os.eventfd_write(self._bell, 1)

    def _hang_up(self) -> None:
        # It is rung under this lock, and must not ring what has its number by then.
        with self._managed.lock:
            self._forget()
            os.close(self._bell)
            self._bell = -1

    def take(self) -> list[str] | None:
        if self._over:
            return None
        # Looked at first, and asked first: nothing that is written meanwhile is missed.
        managed = self._managed
        self._over = managed.is_over or managed.is_left or managed.begun != self._begun
        self._ask()
        found = []
        for log, first, splitter in zip(self._logs, self._first, self._splitters, strict=True):
            for data in first:
                found += splitter.take(data)
            while data := log.news():
                found += splitter.take(data)
            if self._over:
                found += splitter.end()
        return found

    def _ask(self) -> None:
        """Have the kernel say when one of the logs is written next."""
        if self.fd is None:
            return
        inotify.written(self._told)
        try:
            for path in self._paths:
                inotify.once_written(self._told, path)
        except FileNotFoundError:
            # Somebody removed it: nothing more will come but the end.
            return
        except OSError:
            self.fd = None

    def wait(self) -> None:
        if not self._over:
            self._epoll.poll(_PAUSE_S if self.fd is None else None)

    def close(self) -> None:
        self._held.close()


def lines(managed: Managed, *, follow: bool, tail: int | None) -> Lines:
    """Return the lines of a resource's output, with ``follow`` until it has ended. See `tether.Resource.lines`."""
    if managed.handle is not None and isinstance(managed.driver, HasOutput):
        return _Kept(managed.driver, managed.handle, follow=follow, tail=tail)
    paths = tuple(path for path in managed.log_paths if path.exists())
    return _Following(managed, paths, tail) if follow and paths else Lines(managed.log(tail))
