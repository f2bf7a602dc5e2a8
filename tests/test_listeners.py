"""What users gave to be called may take its time, and end what it hears of."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from support import eventually
from tether import Notice, Owner, Process, State, threads
from tether.listeners import Listener, Listeners

if TYPE_CHECKING:
    import pytest


def test_one_after_the_other_in_another_thread() -> None:
    """In the order in which they were due; one that raises keeps nobody from anything, one that has left is not called."""
    listeners = Listeners()
    heard: list[object] = []
    go = threading.Event()
    left = Listener(lambda: heard.append("left"))
    listeners.call(lambda: go.wait(60))
    listeners.call(lambda: 1 // 0)
    listeners.call(left)
    for number in range(100):
        listeners.call(lambda number=number: heard.append((number, threading.current_thread().name)))  # type: ignore[misc]
    left.leave()
    left.leave()
    assert heard == []
    go.set()
    listeners.finish(60)
    assert heard == [(number, "tether-listeners") for number in range(100)]
    eventually(lambda: not [each for each in threading.enumerate() if each.name == "tether-listeners"])


def test_where_no_thread_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the one who tells, also what is told meanwhile."""
    monkeypatch.setattr(threads, "begin", lambda *_: None)
    listeners, heard = Listeners(), []

    def first() -> None:
        listeners.call(lambda: heard.append("second"))
        heard.append("first")

    listeners.call(first)
    assert sorted(heard) == ["first", "second"]
    listeners.finish(60)


def test_none_is_lost_between_many_threads() -> None:
    """A thread that finds nothing to do ends; what comes in that moment has another."""
    listeners, heard = Listeners(), []

    def tell() -> None:
        for _ in range(500):
            listeners.call(lambda: heard.append(1))

    many = [threading.Thread(target=tell) for _ in range(4)]
    for each in many:
        each.start()
    for each in many:
        each.join(60)
    eventually(lambda: len(heard) == 2000, 60)


def test_a_listener_ends_another(owner: Owner) -> None:
    """In on_end: what stops another waits for that, and holds up nobody's end meanwhile."""
    first, second, third = (owner.start(Process(["sleep", "60"], name=name)) for name in ("first", "second", "third"))
    third.on_end(lambda: None)
    heard: list[object] = []

    def end_second() -> None:
        second.stop()
        heard.append((second.state, second.wait(60)))

    first.on_end(end_second)
    first.kill()
    third.kill()
    assert third.state is State.GONE
    eventually(lambda: heard == [(State.GONE, -15)])


def test_a_listener_restarts_what_failed(make_owner: Callable[..., Owner], tmp_path: os.PathLike[str]) -> None:
    """As the page for those who come from supervisord says."""
    owner = make_owner()
    server = owner.start(
        Process(
            ["sh", "-c", "test -e up || { touch up; read line; exit 3; }; sleep 60"],
            stdin="pipe",
            name="it",
            cwd=tmp_path,
        )
    )

    def restart(notice: Notice) -> None:
        if notice.what == "failed":
            server.restart()

    owner.on_change(restart)
    former = server.pid
    assert server.stdin is not None
    server.stdin.close()
    eventually(lambda: server.state is State.READY and server.pid not in (None, former))


def test_a_listener_shuts_down(make_owner: Callable[..., Owner]) -> None:
    """It does not wait for itself; what ends later is told after it."""
    owner = make_owner()
    first, second = (owner.start(Process(["sleep", "60"], name=name)) for name in ("first", "second"))
    heard: list[str] = []

    def shut_down(notice: Notice) -> None:
        if (notice.name, notice.what) == ("first", "gone"):
            owner.shutdown()
            heard.append("through")
        elif notice.what == "gone":
            heard.append(notice.name)

    owner.on_change(shut_down)
    first.kill()
    eventually(lambda: heard == ["through", "second"])
    assert second.state is State.GONE


def test_shutdown_waits_for_what_is_due(make_owner: Callable[..., Owner]) -> None:
    """Whoever looks after it has heard all."""
    owner = make_owner()
    ended: list[str] = []
    for number in range(5):
        resource = owner.start(Process(["sleep", "60"], name=f"r{number}"))
        resource.on_end(lambda resource=resource: ended.append(resource.name))  # type: ignore[misc]
    owner.shutdown()
    assert sorted(ended) == [f"r{number}" for number in range(5)]


def test_a_fork_calls_nobody(owner: Owner) -> None:
    """What is due in the parent is called there, and once."""
    go = threading.Event()
    heard: list[str] = []

    def listen(notice: Notice) -> None:
        go.wait(60)
        heard.append(notice.what)

    owner.on_change(listen)
    owner.start(Process(["sleep", "60"]))
    child = os.fork()
    if child == 0:
        owner.telemetry.listeners.finish(1)
        os._exit(len(heard))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    go.set()
    eventually(lambda: heard == ["created", "ready"])
