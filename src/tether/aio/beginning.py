"""A start that can be cancelled: what it began is ended then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from tether.aio import loops
from tether.aio.threads import Threads, begin_end, outcome, over
from tether.errors import DeadlineExceeded
from tether.model import State
from tether.owner.resource import Resource
from tether.owner.together import Starts

__all__ = ["Beginning", "together"]

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
        self._ending: Future[None] | None = None
        self._tell: Callable[[], object] = bool

    async def done(self, work: Callable[[], _T]) -> _T:
        """Have it done in a thread, and return what comes of it; if it is cancelled, end what it began before that is raised.

        Args:
            work: starts it, and calls `say` and `hold` meanwhile.
        """
        loop = loops.current()
        event = loop.event()
        self._tell = lambda: loop.call(event.set)
        future = _starts.begin(lambda: self._do(work))
        future.add_done_callback(lambda _: self._tell())
        try:
            await loop.wait(event)
        except GeneratorExit:
            # The loop is over, so nobody can wait for that.
            self._withdraw(future)
            raise
        except BaseException:
            self._withdraw(future)
            # How its start ends now is no news.
            try:
                await loop.insist(event)
            finally:
                if self._ending is not None:
                    await over(self._ending)
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
        if self._began is not None and self._ending is None:
            self._ending = begin_end(self._end, self._began)

    def _end(self, resource: Resource) -> None:
        """End what was begun; whoever started it waits for its end, unless that can't be had."""
        while True:
            try:
                resource.kill()
            except DeadlineExceeded as error:
                if resource._managed.handle is None:  # noqa: SLF001 - nobody else needs to know
                    # It is still being created, and ended as soon as it is there.
                    continue
                self._give_up(error)
            except Exception as error:
                self._give_up(error)
            return

    def _give_up(self, error: Exception) -> None:
        # It stays on record, and is tried again.
        _log.error("a start was cancelled, and what it began could not be ended: %s", error)
        self._tell()

    # -- in the thread that starts -------------------------------------------------------------------------------------

    def _do(self, work: Callable[[], _T]) -> _T:
        result = work()
        # What has no probe is handed out as soon as it was created, also if its end was asked for by then; and who restarts may
        # have begun the next life after that.
        if self._withdrawn and self._began is not None:
            self._end(self._began)
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


async def together(starts: Starts) -> list[Resource]:
    """Have many started in a thread, and return them; if it is cancelled, all that it began is ended before that is raised."""
    future = _starts.begin(starts.carry_out)
    try:
        return await outcome(future)
    except BaseException:
        if not future.cancel():
            await over(begin_end(starts.withdraw))
        raise
