"""Threads as they are needed: a turn for everybody, and none for an end."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

from aio.conftest import Run
from tether.aio import threads
from tether.aio.threads import Threads, ask, begin_end


def test_beyond_the_limit_work_waits_for_its_turn() -> None:
    """And is done in the order in which it came; no thread stays."""
    few, go, done = Threads("few", at_most=2), threading.Event(), []
    blocked = [few.begin(lambda: go.wait(20)) for _ in range(2)]
    later = [few.begin(lambda number=number: done.append(number)) for number in range(5)]  # type: ignore[misc]
    assert not any(each.done() for each in later)
    assert later[2].cancel()
    go.set()
    assert all(each.result(20) for each in blocked)
    for number in (0, 1, 3, 4):
        later[number].result(20)
    assert sorted(done) == [0, 1, 3, 4]


def test_an_end_waits_for_nobodys_turn() -> None:
    """However many go on."""
    go = threading.Event()
    slow = [begin_end(go.wait, 20) for _ in range(300)]
    assert begin_end(lambda: "ended").result(20) == "ended"
    go.set()
    assert all(each.result(20) for each in slow)


def test_where_no_thread_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """An end is done all the same, here and now; other work waits for one that there is, or is refused."""
    few, go = Threads("start", at_most=2), threading.Event()
    blocked = few.begin(lambda: go.wait(20))

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert begin_end(threading.current_thread).result(0) is threading.current_thread()
        waiting = few.begin(threading.current_thread)
        with pytest.raises(RuntimeError, match="no thread can be made now for this question; nothing of it was begun"):
            Threads("question").begin(lambda: None)
    assert not waiting.done()
    go.set()
    assert waiting.result(20) is not threading.current_thread()
    assert blocked.result(20)


def test_an_error_is_the_callers(run: Run) -> None:
    """As if it had been called in the loop; the variables of its context are there as well."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def main() -> None:
        variable.set("mine")
        assert await ask(variable.get) == "mine"
        with pytest.raises(ZeroDivisionError):
            await ask(lambda: 1 // 0)

    run(main)


def test_what_is_cancelled_before_its_turn_is_not_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What had begun goes on, and its loop does not wait for it."""
    monkeypatch.setattr(threads, "_questions", Threads("question", at_most=1))
    began, go, done = threading.Event(), threading.Event(), []

    def first() -> None:
        began.set()
        go.wait(20)
        done.append("first")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(ask, first)
            assert await anyio.to_thread.run_sync(began.wait, 20)
            group.start_soon(ask, done.append, "second")
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        go.set()
        await ask(done.append, "third")

    run(main)
    assert done == ["first", "third"]


def test_a_loop_that_is_over_is_told_nothing(run: Run) -> None:
    """And nobody fails for that."""
    go = threading.Event()
    futures: list[Any] = []

    async def main() -> None:
        future = Threads("late").begin(lambda: go.wait(20))
        futures.append(future)
        with anyio.move_on_after(0.01):
            await threads.outcome(future)

    run(main)
    go.set()
    assert futures[0].result(20)
