"""The loop that runs now: what threads tell it, and what tasks wait for in it. asyncio, or trio where a program runs that."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

__all__ = ["Event", "Loop", "current"]


class Event(Protocol):
    """What tasks wait for; set in the loop only, once."""

    def is_set(self) -> bool:
        """Whether it was set."""
        ...

    def set(self) -> object:
        """Let those go on who wait."""
        ...


class Loop(Protocol):
    """What is needed of a loop."""

    def call(self, function: Callable[..., object], *args: Any) -> bool:
        """Have a function called in the loop soon, from any thread; never waits. False if the loop is over."""
        ...

    def event(self) -> Event:
        """Return a new event."""
        ...

    async def checkpoint(self) -> None:
        """Let others have their turn."""
        ...

    async def wait(self, event: Event, timeout_s: float | None = None) -> bool:
        """Wait for an event; False if it was not set in time."""
        ...

    async def insist(self, event: Event) -> None:
        """Wait for an event also if the task is cancelled meanwhile; that is raised after it."""
        ...

    async def readable(self, fd: int) -> None:
        """Wait until a descriptor can be read, or is about to be closed; one task at a time."""
        ...

    async def writable(self, fd: int) -> None:
        """Wait until a descriptor can be written, or is about to be closed; one task at a time."""
        ...

    def closing(self, fd: int) -> None:
        """Let those go on who wait for a descriptor that will be closed."""
        ...


def current() -> Loop:
    """Return the loop that runs in this thread. Raises RuntimeError if there is none."""
    trio = sys.modules.get("trio")
    # Partly imported, it has no such thing yet, and runs nothing.
    if trio is not None and hasattr(trio, "lowlevel") and trio.lowlevel.in_trio_run():
        return _Trio(trio)
    return _Asyncio(asyncio.get_running_loop())


class _Asyncio:
    """See `Loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[tuple[int, Callable[[int], object]], asyncio.Event] = {}

    def call(self, function: Callable[..., object], *args: Any) -> bool:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return False
        return True

    def event(self) -> Event:
        return asyncio.Event()

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)

    async def wait(self, event: Any, timeout_s: float | None = None) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return bool(event.is_set())
        return True

    async def insist(self, event: Any) -> None:
        cancelled: asyncio.CancelledError | None = None
        with _shield():
            while not event.is_set():
                try:
                    await event.wait()
                except asyncio.CancelledError as error:
                    cancelled = error
        if cancelled is not None:
            raise cancelled

    async def readable(self, fd: int) -> None:
        await self._ready(fd, self._loop.add_reader, self._loop.remove_reader)

    async def writable(self, fd: int) -> None:
        await self._ready(fd, self._loop.add_writer, self._loop.remove_writer)

    async def _ready(self, fd: int, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        event = self._waiting[fd, remove] = asyncio.Event()
        add(fd, event.set)
        try:
            await event.wait()
        finally:
            # Unless it was closed: its number may be another's by now.
            if self._waiting.pop((fd, remove), None) is not None and not self._loop.is_closed():
                remove(fd)

    def closing(self, fd: int) -> None:
        for number, remove in [each for each in self._waiting if each[0] == fd]:
            event = self._waiting.pop((number, remove))
            remove(number)
            event.set()


def _shield() -> AbstractContextManager[Any]:
    """What keeps anyio from cancelling over and over, where it is in use."""
    anyio = sys.modules.get("anyio")
    return nullcontext() if anyio is None else anyio.CancelScope(shield=True)


class _Trio:
    """See `Loop`."""

    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()

    def call(self, function: Callable[..., object], *args: Any) -> bool:
        try:
            self._token.run_sync_soon(function, *args)
        except self._trio.RunFinishedError:
            return False
        return True

    def event(self) -> Event:
        event: Event = self._trio.Event()
        return event

    async def checkpoint(self) -> None:
        await self._trio.lowlevel.checkpoint()

    async def wait(self, event: Any, timeout_s: float | None = None) -> bool:
        with self._trio.move_on_after(math.inf if timeout_s is None else max(0.0, timeout_s)):
            await event.wait()
        return bool(event.is_set())

    async def insist(self, event: Any) -> None:
        with self._trio.CancelScope(shield=True):
            await event.wait()

    async def readable(self, fd: int) -> None:
        await self._ready(fd, self._trio.lowlevel.wait_readable)

    async def writable(self, fd: int) -> None:
        await self._ready(fd, self._trio.lowlevel.wait_writable)

    async def _ready(self, fd: int, wait: Callable[[int], Any]) -> None:
        # It says so where the descriptor is about to be closed.
        try:
            await wait(fd)
        except self._trio.ClosedResourceError:
            return

    def closing(self, fd: int) -> None:
        self._trio.lowlevel.notify_closing(fd)
