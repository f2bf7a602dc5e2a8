"""Events, in the loop."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

from tether.aio import loops
from tether.notices import Notice

__all__ = ["Watch", "in_loop"]

_log = logging.getLogger("tether")


def in_loop(loop: loops.Loop, function: Callable[..., object]) -> Callable[..., bool]:
    """Return what has a function called in a loop, from any thread. One that raises is logged; False if the loop is over."""

    def called(*args: Any) -> None:
        try:
            function(*args)
        except Exception:
            _log.exception("a function that was to be told something failed")

    return lambda *args: loop.call(called, *args)


class Watch:
    """An asynchronous iterator of events, from its beginning until the owner was shut down or it is closed.

    Belongs to the loop that made it. Several tasks may share one: each event goes to one of them. Also a context manager, ``with``
    and ``async with``.
    """

    def __init__(self, end: Callable[[Watch], None]) -> None:
        self._end = end
        self._loop = loops.current()
        self._notices: deque[Notice | None] = deque()
        self._bell = self._loop.event()
        self._over = False

    def put(self, notice: Notice | None) -> None:
        """Take in a notice, in whatever thread it happens; None for the end."""
        self._notices.append(notice)
        if not self._loop.call(self._ring):
            # The loop is over, and nobody hears it any more.
            self._end(self)

    def _ring(self) -> None:
        self._bell.set()

    def __aiter__(self) -> AsyncIterator[Notice]:
        return self

    async def __anext__(self) -> Notice:
        notice = await self.next()
        if notice is None:
            raise StopAsyncIteration
        return notice

    async def next(self, timeout: float | None = None) -> Notice | None:  # noqa: ASYNC109 - the same names as tether.notices.Watch
        """Wait for the next event, at most so many seconds; None if there was none, or there will be none any more."""
        deadline = None if timeout is None else time.monotonic() + timeout
        await self._loop.checkpoint()
        while not self._over:
            if self._bell.is_set():
                self._bell = self._loop.event()
            if self._notices:
                notice = self._notices.popleft()
                self._over = notice is None
                return notice
            left = None if deadline is None else deadline - time.monotonic()
            if not await self._loop.wait(self._bell, left):
                return None
        # Others may wait for the same.
        self._ring()
        return None

    def close(self) -> None:
        """End it: no event that has not been taken yet is heard, and who waits for the next one hears that there is none."""
        self._end(self)
        self._over = True
        self._loop.call(self._ring)

    async def aclose(self) -> None:
        """As `close`, for ``contextlib.aclosing`` and anyio."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
