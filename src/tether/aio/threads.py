"""Threads for what blocks, apart from the loop's own: that has few, and whoever waits in them keeps everybody else from them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

from tether import threads
from tether.aio import loops

__all__ = ["Threads", "ask", "begin_end", "finish", "outcome", "over"]

_log = logging.getLogger("tether")

_MOST_AT_ONCE = 256

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _carry_out(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def _prepared(work: Callable[[], _T]) -> tuple[Future[_T], Callable[[], None]]:
    """Return a future, and what fulfils it, in the context of the caller."""
    future: Future[_T] = Future()
    return future, partial(copy_context().run, _carry_out, future, work)


class Threads:
    """Threads made as they are needed, one for each piece of work; beyond so many at once work waits for its turn.

    Args:
        what: for the names of the threads.
        at_most: how many at once.
    """

    def __init__(self, what: str, at_most: int = _MOST_AT_ONCE) -> None:
        self._what = what
        self._at_most = at_most
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def begin(self, work: Callable[[], _T]) -> Future[_T]:
        """Have it done in a thread; what waits for its turn may be cancelled.

        Raises:
            RuntimeError: no thread can be made now, and there is none whose turn could come.
        """
        future, carry_out = _prepared(work)
        with self._lock:
            if self._running < self._at_most and self._make(carry_out):
                self._running += 1
            elif self._running:
                self._waiting.append(carry_out)
            else:
                raise RuntimeError(f"no thread can be made now for this {self._what}; nothing of it was begun")
        return future

    def _make(self, carry_out: Callable[[], None]) -> bool:
        return threads.begin(lambda: self._run(carry_out), f"tether-{self._what}") is not None

    def _run(self, carry_out: Callable[[], None] | None) -> None:
        while carry_out is not None:
            carry_out()
            with self._lock:
                carry_out = self._waiting.popleft() if self._waiting else None
                if carry_out is None:
                    self._running -= 1


_questions = Threads("question")


async def ask(work: Callable[_P, _T], *args: _P.args, **more: _P.kwargs) -> _T:
    """Have something done that may block, and return what comes of it. One that is cancelled goes on, unless it had not begun."""
    future = _questions.begin(partial(work, *args, **more))
    try:
        return await outcome(future)
    finally:
        future.cancel()


def begin_end(work: Callable[_P, _T], *args: _P.args, **more: _P.kwargs) -> Future[_T]:
    """Have an end done in a thread of its own: it waits for nobody's turn. Where no thread can be made, here and now."""
    future, carry_out = _prepared(partial(work, *args, **more))
    if not threads.begin(carry_out, "tether-end"):
        carry_out()
    return future


async def outcome(future: Future[_T]) -> _T:
    """Wait for what a thread does, and return or raise what comes of it."""
    loop = loops.current()
    await loop.wait(_done(loop, future))
    return future.result()


async def over(future: Future[Any]) -> None:
    """Wait until a thread has done something, also if the task is cancelled meanwhile, which is raised after it."""
    loop = loops.current()
    await loop.insist(_done(loop, future))


async def finish(work: Callable[_P, object], *args: _P.args, **more: _P.kwargs) -> None:
    """Have an end done, and return when it is, also if the task is cancelled meanwhile, which is raised after it."""
    future = begin_end(work, *args, **more)
    try:
        await over(future)
    except BaseException:
        if future.done() and future.exception() is not None:
            _log.error("%s", future.exception())
        raise
    future.result()


def _done(loop: loops.Loop, future: Future[Any]) -> loops.Event:
    event = loop.event()
    future.add_done_callback(lambda _: loop.call(event.set))
    return event
