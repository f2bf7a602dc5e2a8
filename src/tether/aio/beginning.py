"""A start that can be cancelled: what it began is ended then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from tether.aio import loops
from tether.aio.threads import Threads, begin_end, over
from tether.model import State
from tether.owner.resource import Resource

__all__ = ["Beginning"]

_log = logging.getLogger("tether")

_starts = Threads("start")

_T = TypeVar("_T")


class _Withdrawn(BaseException):
    """Nobody wants it any more. Raised in the thread that starts it, where that says what it is doing."""


class Beginning:
    """One start, or restart.

    Args:
        progress: told what there is to say, in the thread that starts.
        began: what it is that is started, if that is known before.
    """

    def __init__(self, progress: Callable[[str], object], began: Resource | None = None) -> None:
        self._progress = progress
        self._began = began
        self._lock = threading.Lock()
        self._withdrawn = False
        self._end: Future[None] | None = None

    async def done(self, work: Callable[[], _T]) -> _T:
        """Have it done in a thread, and return what comes of it; if it is cancelled, end what it began before that is raised.

        Args:
            work: starts it, and calls `say` and `hold` meanwhile.
        """
        loop = loops.current()
        event = loop.event()
        future = _starts.begin(lambda: self._do(work))
        future.add_done_callback(lambda _: loop.call(event.set))
        try:
            await loop.wait(event)
        except GeneratorExit:
            # The loop is over, so nobody can wait for that.
            self._withdraw(future)
            raise
        except BaseException:
            self._withdraw(future)
            await self._over(future)
            raise
        return future.result()

    def _withdraw(self, future: Future[_T]) -> None:
        """Have it end as soon as may be: before its turn came, while it is being created, or after."""
        if future.cancel():
            return
        with self._lock:
            self._withdrawn = True
            self._kill()

    def _kill(self) -> None:
        if self._began is not None and self._end is None:
            self._end = begin_end(self._began.kill)

    async def _over(self, future: Future[_T]) -> None:
        """Wait until nothing is done for it any more; how its start ends now is no news."""
        try:
            await over(future)
        finally:
            if self._end is not None:
                await over(self._end)
                if self._end.exception() is not None:
                    # It stays on record, and is tried again.
                    _log.error("a start was cancelled, and what it began could not be ended: %s", self._end.exception())

    # -- in the thread that starts -------------------------------------------------------------------------------------

    def _do(self, work: Callable[[], _T]) -> _T:
        result = work()
        # What has no probe is handed out as soon as it was created, also if its end was asked for by then; and who restarts may
        # have begun the next life after that.
        if self._withdrawn and self._began is not None:
            self._began.kill()
        return result

    def say(self, text: str) -> None:
        """Pass on what there is to say, unless nobody wants it any more: this is where a long start is interrupted."""
        if self._withdrawn:
            raise _Withdrawn
        self._progress(text)

    def hold(self, resource: Resource) -> None:
        """Hear what it is that is started."""
        # What an earlier owner kept was not begun here, so it is not ended either.
        if resource.state in (State.PENDING, State.STOPPING):
            with self._lock:
                self._began = resource
                if self._withdrawn:
                    self._kill()
