"""The supervisor carries out what the state machine decides; with a driver that starts nothing and a clock that costs no time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tether
from support import eventually
from tether import DeadlineExceeded, StartError, State
from tether.drivers import Context
from tether.errors import Busy, DriverUnavailable, Gone, NotCreated
from tether.ledger import place
from tether.ledger.store import Ledger
from tether.ledger.writer import Writer
from tether.life import registry
from tether.life.machine import StopAsked, Unreachable
from tether.life.supervisor import Supervisor
from tether.linux import identity
from tether.model import Handle
from tether.notices import Notice, Telemetry
from tether.testing import FakeClock, FakeDriver, FakeSpec


class Rig:
    """A supervisor with fakes around it."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(place.prepare(folder))
        me = identity.identify()
        assert me is not None
        self.record = Writer(folder, "o")
        self.record.add_owner("app", me, None)
        self.clock = FakeClock()
        self.notices: list[Notice] = []
        telemetry = Telemetry()
        telemetry.subscribe(self.notices.append)
        registry.register("fake", FakeDriver)
        self.supervisor = Supervisor("o", self.record, telemetry, lambda emit: Context(folder, emit=emit), self.clock)

    @property
    def driver(self) -> FakeDriver:
        """The driver."""
        driver = self.supervisor.drivers.of("fake")
        assert isinstance(driver, FakeDriver)
        return driver

    def start(self, spec: FakeSpec):  # type: ignore[no-untyped-def]  # noqa: ANN201
        """Start something."""
        return self.supervisor.start(spec, "kill", lambda _: None)

    def said(self) -> list[str]:
        """What happened, in order."""
        return [notice.what for notice in self.notices]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A rig, whose ledger is closed at the end."""
    made = Rig(tmp_path / "state")
    yield made
    made.record.close()
    made.ledger.close()


def test_a_course_of_life_is_recorded_as_it_happens(rig: Rig) -> None:
    """Every state is in the ledger by the time the call returns."""
    managed = rig.start(FakeSpec(name="db"))
    assert [row.state for row in rig.ledger.resources()] == [State.READY]
    rig.supervisor.stop(managed, "asked")
    assert rig.ledger.resources() == []
    assert rig.said() == ["created", "ready", "stop", "gone"]
    assert rig.driver.calls == [("start", managed.tag), ("stop", managed.tag)]


def test_a_failed_start_is_on_record_and_the_name_is_free(rig: Rig) -> None:
    """FAILED with the reason."""
    with pytest.raises(StartError, match="told to fail"):
        rig.start(FakeSpec(name="db", fails={"start": 1}))
    (row,) = rig.ledger.resources(ended=True)
    assert (row.state, "told to fail" in row.reason) == (State.FAILED, True)
    assert rig.start(FakeSpec(name="db")).state is State.READY


def test_a_probe_has_its_time_and_no_more(rig: Rig) -> None:
    """A minute passes without taking one; then the resource is ended, and has failed for that."""
    asked: list[object] = []
    before = rig.clock.now
    with pytest.raises(StartError, match=r"not ready within 60 s: .* returned None"):
        rig.start(FakeSpec(name="slow", ready=tether.call(asked.append, timeout=60)))
    assert 60 <= rig.clock.now - before < 61
    assert len(asked) > 100
    assert rig.said() == ["created", "not ready", "failed"]


def test_an_interrupted_start_leaves_nothing(rig: Rig) -> None:
    """Ctrl-C while it waits for readiness."""

    def interrupt(_: object) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rig.start(FakeSpec(name="it", ready=tether.call(interrupt)))
    assert rig.driver.calls[-1][0] == "destroy"
    assert rig.supervisor.live() == []


def test_what_could_not_be_ended_stays_on_record_and_is_tried_again(rig: Rig) -> None:
    """STOPPING with the reason; the second try succeeds."""
    managed = rig.start(FakeSpec(name="db", fails={"stop": 1}))
    with pytest.raises(DeadlineExceeded, match="told to stay"):
        rig.supervisor.stop(managed, "asked")
    assert managed.state is State.STOPPING
    assert [row.state for row in rig.ledger.resources()] == [State.STOPPING]
    rig.supervisor.stop(managed, "asked again")
    assert managed.life.reason == "asked again"
    assert rig.said() == ["created", "ready", "stop", "stuck", "gone"]


def test_a_server_whose_command_ends_takes_the_rest_along(rig: Rig) -> None:
    """It is stopped in a thread of its own, and has failed."""
    managed = rig.start(FakeSpec(name="db"))
    rig.driver.exit(managed.tag, 0, all_of_it=False)
    rig.supervisor.wait(managed, None)
    assert (managed.state, managed.life.reason) == (State.FAILED, "ended by itself, exit code 0")
    assert rig.driver.calls[-1][0] == "stop"


def test_news_that_come_too_early_or_too_late_are_no_fault(rig: Rig) -> None:
    """After the end, or of nobody, an event changes nothing."""
    managed = rig.start(FakeSpec(name="db"))
    rig.driver.exit(managed.tag, 3)
    rig.driver.exit(managed.tag, 4)
    rig.driver.exit("nobody", 4)
    assert managed.life.exit_code == 3


def test_waiting_has_a_time_limit(rig: Rig) -> None:
    """By the clock that it was given."""
    managed = rig.start(FakeSpec(name="db"))
    with pytest.raises(DeadlineExceeded, match="still ready after 3600 s"):
        rig.supervisor.wait(managed, 3600)


def test_starts_from_many_threads_get_one_name_each(rig: Rig) -> None:
    """Default names are told apart under the lock."""
    threads = [threading.Thread(target=lambda: rig.start(FakeSpec())) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({managed.name for managed in rig.supervisor.live()}) == 20


def test_a_kind_without_driver_says_what_there_is(rig: Rig) -> None:
    """And how to get one."""
    with pytest.raises(
        DriverUnavailable,
        match=r"no driver for 'steam' here \(there are: client, .*conda, container, fake, .*ssh\)",
    ):
        rig.supervisor.drivers.of("steam")


def test_a_listener_that_raises_keeps_nobody_from_anything(rig: Rig) -> None:
    """It is logged."""
    telemetry = Telemetry()
    telemetry.subscribe(lambda _: 1 / 0)
    heard: list[Notice] = []
    telemetry.subscribe(heard.append)
    telemetry.publish(Notice("o", None, "x", "failed", "y"))
    assert len(heard) == 1


def test_stopped_while_somebody_creates_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A creation that takes long is not waited for without end; when it is done after all, what it made is ended."""
    begun, go_on = threading.Event(), threading.Event()
    create = rig.driver.start

    def slow(*arguments: Any) -> Handle:
        begun.set()
        assert go_on.wait(20)
        return create(*arguments)

    monkeypatch.setattr(rig.driver, "start", slow)
    thread = threading.Thread(target=rig.start, args=(FakeSpec(name="slow"),))
    thread.start()
    assert begun.wait(20)
    managed = rig.supervisor.by_name("slow")
    assert managed is not None
    with pytest.raises(DeadlineExceeded, match="slow is still stopping after 30 s"):
        rig.supervisor.stop(managed, "enough")
    go_on.set()
    thread.join(20)
    rig.supervisor.wait(managed, None)
    assert (managed.state, managed.life.reason) == (State.GONE, "enough")
    assert rig.driver.find(managed.tag) == []


def test_what_is_lost_is_not_asked_for_its_processes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its host may take long to answer; a snapshot of an app must not."""
    managed = rig.start(FakeSpec(name="far"))
    rig.supervisor.emit(managed.tag, Unreachable("cut"))
    monkeypatch.setattr(rig.driver, "inspect", lambda _: pytest.fail("asked"))
    assert managed.pids() == ()


def test_a_stop_that_is_late_does_not_end_the_next_life(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads, one stops and one restarts: the stop that returns after the restart says nothing of the life that began."""
    managed = rig.start(FakeSpec(name="db"))
    asked, may_return = threading.Event(), threading.Event()
    stop = rig.driver.stop

    def slow_stop(handle: Handle, grace: float) -> None:
        stop(handle, grace)
        if threading.current_thread() is late:
            asked.set()
            assert may_return.wait(10)

    monkeypatch.setattr(rig.driver, "stop", slow_stop)
    errors: list[BaseException] = []

    def stop_late() -> None:
        try:
            rig.supervisor.stop(managed, "late")
        except BaseException as error:
            errors.append(error)

    late = threading.Thread(target=stop_late)
    late.start()
    assert asked.wait(10)
    rig.supervisor.restart(managed, None, lambda _: None)
    may_return.set()
    late.join(10)
    assert errors == []
    assert managed.state is State.READY
    assert rig.said().count("ready") == 2
    rig.supervisor.stop(managed, "over")


def test_a_stop_beside_a_restart_holds(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for after the old life has ended and before the next begins: there is no next one, and the name is free."""
    managed = rig.start(FakeSpec(name="db"))
    begin = rig.record.begin_life

    def stop_then_begin(tag: str, fence: int) -> int:
        rig.supervisor.stop(managed, "by another thread")
        return begin(tag, fence)

    monkeypatch.setattr(rig.record, "begin_life", stop_then_begin)
    with pytest.raises(Gone, match="was stopped while it was being restarted, and stays so"):
        rig.supervisor.restart(managed, None, lambda _: None)
    assert managed.state is State.GONE
    assert rig.supervisor.live() == []
    assert rig.start(FakeSpec(name="db")).state is State.READY


def test_a_restart_beside_a_shutdown_begins_nothing(rig: Rig) -> None:
    """What ends the owner sees all that there will be."""
    managed = rig.start(FakeSpec(name="db"))
    rig.supervisor.refuse_starts()
    with pytest.raises(Gone, match="is being shut down"):
        rig.supervisor.restart(managed, None, lambda _: None)
    with pytest.raises(Gone, match="is being shut down"):
        rig.start(FakeSpec(name="other"))
    # It is not ended for a restart that can't be: the shutdown ends it.
    assert managed.state is State.READY
    rig.supervisor.stop(managed, "")
    assert rig.supervisor.live() == []


def test_whoever_waits_is_told_of_the_life_that_it_waited_for(rig: Rig) -> None:
    """A restart in another thread is the end of that life."""
    managed = rig.start(FakeSpec(name="db"))
    ended: list[object] = []
    waiting = threading.Thread(target=lambda: ended.append(rig.supervisor.wait(managed, None)))
    waiting.start()
    rig.supervisor.restart(managed, None, lambda _: None)
    waiting.join(10)
    assert [getattr(life, "state", None) for life in ended] == [State.GONE]
    assert managed.state is State.READY


def test_an_event_waits_for_nobody(rig: Rig) -> None:
    """Somebody holds the resource, as a signal handler may that waits for others: it is taken in when that lets go."""
    managed = rig.start(FakeSpec(name="db"))
    with managed.condition:
        hearing = threading.Thread(target=lambda: rig.driver.exit(managed.tag, 3))
        hearing.start()
        hearing.join(10)
        assert not hearing.is_alive()
        assert managed.state is State.READY
    assert rig.supervisor.wait(managed, None).exit_code == 3


def test_who_waits_for_an_end_is_called(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Once, when its name is free, also if another listener raises; not who left; at once if it has ended."""
    managed = rig.start(FakeSpec(name="db"))
    heard: list[object] = []
    managed.on_end(lambda: 1 // 0)
    managed.on_end(lambda: heard.append(rig.supervisor.by_name("db")))
    leave = managed.on_end(lambda: heard.append("left"))
    leave()
    leave()
    rig.supervisor.stop(managed, "over")
    assert heard == [None]
    managed.on_end(lambda: heard.append("late"))()
    assert heard == [None, "late"]
    assert "a listener for its end failed" in caplog.text
    rig.supervisor.restart(managed, None, lambda _: None)
    managed.on_end(lambda: heard.append("again"))
    rig.driver.exit(managed.tag, 0)
    assert heard == [None, "late", "again"]


def test_a_start_waits_for_no_end_that_cannot_be_had(rig: Rig) -> None:
    """It did not come up, was killed, and is still there: that is said, and it stays on record."""
    spec = FakeSpec(name="stuck", ready=tether.call(lambda _: False, timeout=5), fails={"stop": 9, "destroy": 9})
    with pytest.raises(
        StartError, match=r"not ready within 5 s: .*; it is still there: .*told to stay.*; it stays on record"
    ):
        rig.start(spec)
    assert [row.state for row in rig.ledger.resources()] == [State.STOPPING]


def test_the_grace_that_was_asked_for_holds_for_what_is_being_created(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever creates it ends it with that, and not with its spec's; the next life knows nothing of it."""
    begun, go = threading.Event(), threading.Event()
    graces: list[float] = []
    start, stop = rig.driver.start, rig.driver.stop

    def start_slowly(*args: Any) -> Handle:
        begun.set()
        go.wait(30)
        return start(*args)

    def stop_and_note(handle: Handle, grace: float) -> None:
        graces.append(grace)
        stop(handle, grace)

    monkeypatch.setattr(rig.driver, "start", start_slowly)
    monkeypatch.setattr(rig.driver, "stop", stop_and_note)
    starting = threading.Thread(target=lambda: rig.start(FakeSpec(name="slow", stop_grace=100)))
    starting.start()
    begun.wait(30)
    managed = rig.supervisor.by_name("slow")
    assert managed is not None
    with pytest.raises(DeadlineExceeded):
        rig.supervisor.stop(managed, "asked", grace=1)
    go.set()
    starting.join(30)
    rig.supervisor.wait(managed, None)
    assert (managed.state, graces) == (State.GONE, [1])
    rig.supervisor.restart(managed, None, lambda _: None)
    rig.supervisor.stop(managed, "over")
    assert graces == [1, 100]


class KeptDriver(FakeDriver):
    """Its resources may outlive their owner; its service may be down."""

    down = False

    def adopt(self, handle: Handle, fence: int) -> int | None:
        """See `tether.drivers.CanAdopt`."""
        if self.down:
            raise DriverUnavailable("its service is down")
        return None

    def receipt(self, handle: Handle) -> None:
        """See `tether.drivers.CanAdopt`."""


def kept(rig: Rig, state: State) -> Any:
    """Put on record what an earlier owner left in a state."""
    registry.register("fake", KeptDriver)
    spec = FakeSpec(name="db", ready=tether.call(lambda _: True))
    rig.record.add_resource("t", "o", "db", "fake", spec.record(), "keep", 60)
    rig.record.write("t", 1, state, [], handle=Handle("fake", "t", {}))
    rig.record.flush()
    return rig.ledger.resource("t"), spec


def test_an_adoption_whose_service_is_down_is_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said; when the service is back it is adopted, and hears of its end."""
    row, spec = kept(rig, State.READY)
    monkeypatch.setattr(KeptDriver, "down", True)
    with pytest.raises(DriverUnavailable):
        rig.supervisor.adopt(row, spec)
    managed = rig.supervisor.by_name("db")
    assert managed is not None
    assert not managed.life.created
    monkeypatch.setattr(KeptDriver, "down", False)
    eventually(lambda: managed.life.created)
    rig.driver.exit("t", 0)
    assert managed.state is State.FAILED
    assert rig.start(FakeSpec(name="db")).state is State.READY


def test_what_is_adopted_while_it_starts_has_not_been_ready(rig: Rig) -> None:
    """It is asked to end more than once, as before: it may not hear yet. And no adoption takes a name that is in use."""
    row, spec = kept(rig, State.STARTING)
    managed = rig.supervisor.adopt(row, spec)
    assert (managed.state, managed.insists) == (State.STARTING, True)
    rig.supervisor.await_ready(managed, lambda _: None)
    assert (managed.state, managed.insists) == (State.READY, False)
    with pytest.raises(Busy, match="db is running already"):
        rig.supervisor.adopt(row, spec)


def test_a_second_attempt_to_end_it_is_not_given_up_for_the_first(rig: Rig) -> None:
    """It was stuck, and may have come loose since."""
    managed = rig.start(FakeSpec(name="db", fails={"stop": 1}))
    with pytest.raises(DeadlineExceeded):
        rig.supervisor.stop(managed, "asked")
    assert managed.has_ended("outcome")
    with managed.condition:
        rig.supervisor.apply(managed, StopAsked("asked again"))
        assert not managed.has_ended("outcome")
    rig.supervisor.stop(managed, "asked again")
    assert managed.state is State.GONE


def test_a_restart_that_is_refused_leaves_no_open_record(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next life was numbered, which makes it live on record, and then could not begin."""
    managed = rig.start(FakeSpec(name="db"))

    def refuse(*_: object) -> None:
        assert [row.state for row in rig.ledger.resources()] == [State.PENDING]
        raise NotCreated("there is no guard")

    monkeypatch.setattr(rig.supervisor._creation, "reserve", refuse)
    with pytest.raises(NotCreated):
        rig.supervisor.restart(managed, None, lambda _: None)
    (row,) = rig.ledger.resources(ended=True)
    assert (row.state, row.reason, managed.state) == (State.GONE, "restarted", State.GONE)
    assert rig.ledger.resources() == []
