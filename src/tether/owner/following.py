"""The output of a resource as lines of text, also while it is written."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tether.ledger import logs
from tether.life.driver import HasOutput
from tether.life.managed import Managed
from tether.linux import inotify

__all__ = ["Following", "Splitter", "lines"]

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


class Following:
    """Reads logs of a resource until that has ended. The kernel says when there is something new, the watcher when it has ended.

    Attributes:
        fd: a descriptor that can be read when there may be something new; also a moment too often.
        hears: whether the kernel says so; where it can't now, `wait` looks now and again.

    Raises:
        OSError: a log can't be read.
    """

    def __init__(self, managed: Managed, paths: tuple[Path, ...], tail: int | None) -> None:
        self._managed = managed
        self._paths = paths
        self._over = False
        with ExitStack() as stack:
            self._logs = [logs.Log(path) for path in paths]
            for log in self._logs:
                stack.callback(log.close)
            self._splitters = [Splitter() for _ in paths]
            self._first = [log.last(tail) for log in self._logs]
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            stack.callback(self._hang_up)
            self._forget = managed.on_end(self._ring)
            epoll = select.epoll()
            stack.callback(epoll.close)
            epoll.register(self._bell, select.EPOLLIN)
            self.fd = epoll.fileno()
            self._epoll = epoll
            self._told = -1
            with suppress(OSError):
                self._told = inotify.opened()
                stack.callback(os.close, self._told)
                epoll.register(self._told, select.EPOLLIN)
            self.hears = self._told >= 0
            self._stack = stack.pop_all()

    def _ring(self) -> None:
        if self._bell >= 0:
            os.eventfd_write(self._bell, 1)

    def _hang_up(self) -> None:
        # It is rung under this lock, and must not ring what has its number by then.
        with self._managed.condition:
            if hasattr(self, "_forget"):
                self._forget()
            os.close(self._bell)
            self._bell = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def take(self) -> list[str] | None:
        """Return the lines that came, maybe none; None when no more will come. Never waits."""
        if self._over:
            return None
        # Looked at first, and asked first: nothing that is written meanwhile is missed.
        self._over = self._managed.is_over
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
        if self._told < 0:
            return
        inotify.written(self._told)
        try:
            for path in self._paths:
                inotify.once_written(self._told, path)
        except FileNotFoundError:
            # Somebody removed it: nothing more will come but the end.
            return
        except OSError:
            self.hears = False

    def wait(self) -> None:
        """Wait until there may be something new."""
        self._epoll.poll(None if self.hears else _PAUSE_S)


def lines(managed: Managed, *, follow: bool, tail: int | None) -> Iterator[str]:
    """Yield the lines of a resource's output, with ``follow`` until it has ended. See `tether.Resource.lines`."""
    paths = tuple(path for path in managed.log_paths if path.exists())
    if managed.handle is not None and isinstance(managed.driver, HasOutput):
        yield from _kept_elsewhere(managed, follow=follow, tail=tail)
    elif follow and paths:
        with Following(managed, paths, tail) as following:
            while (found := following.take()) is not None:
                yield from found
                following.wait()
    else:
        yield from managed.log(tail).splitlines()


def _kept_elsewhere(managed: Managed, *, follow: bool, tail: int | None) -> Iterator[str]:
    splitter = Splitter()
    driver, handle = managed.driver, managed.handle
    if handle is None or not isinstance(driver, HasOutput):
        return
    yield from splitter.take(driver.read_log(handle, tail))
    if follow:
        for data in driver.follow_log(handle):
            yield from splitter.take(data)
    yield from splitter.end()
