"""A start that is cancelled leaves nothing: no process, no name."""

from __future__ import annotations

import asyncio
import itertools
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

import tether
from aio.conftest import Run
from tether import Process, State, aio, http
from tether.aio import beginning
from tether.aio.beginning import Beginning
from tether.aio.threads import Threads
from tether.life import registry
from tether.linux import tree
from tether.model import Handle, OnDeath, Progress
from tether.testing import FakeDriver, FakeSpec

NEVER = ["sh", "-c", "trap '' TERM; sleep 100; : {port}"]


@pytest.mark.slow
@pytest.mark.parametrize("ready", [http("/"), None])
def test_a_hundred_cancelled_starts_leave_nothing(run: Run, private_state: Path, ready: Any) -> None:
    """Cancelled before anything is on record, while it is created, and while it comes up. Slow: two hundred processes."""

    async def start(owner: aio.Owner, number: int) -> None:
        started: aio.Resource | None = None
        on_record = number % 3 == 1
        with anyio.CancelScope() as scope:
            if number % 3 == 0:
                scope.deadline = anyio.current_time() + 0.002 * (number % 7)
            started = await owner.start(
                Process(NEVER, name=f"never-{number}", ready=ready),
                held=lambda _: scope.cancel() if on_record else None,
                on_progress=lambda _: scope.cancel(),
            )
        if started is not None:
            # Without a probe it may be quicker than that.
            assert ready is None
            await started.kill()
        assert f"never-{number}" not in [each.name for each in owner.resources]

    async def main() -> None:
        async with aio.Owner("cancelled") as owner:
            await owner.start(Process(["sleep", "100"], name="other"))
            async with anyio.create_task_group() as group:
                for number in range(100):
                    group.start_soon(start, owner, number)
            assert [each.name for each in owner.resources] == ["other"]
            assert len(await owner.pids()) == 1
            again = await owner.start(Process(["sleep", "100"], name="never-1"))
            assert again.state is State.READY

    run(main)


def test_asyncio_cancels_starts(private_state: Path) -> None:
    """By a time limit, by hand, several times, and together with the loop; the names are free."""

    async def main() -> None:
        async with aio.Owner("cancelled") as owner:
            spec = Process(NEVER, name="never", ready=http("/"))
            for limit in (0, 0.003, 0.02, 0.1):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(owner.start(spec), limit)
                assert owner.resources == []
            held = asyncio.Event()
            task = asyncio.create_task(owner.start(spec, held=lambda _: held.set()))
            await held.wait()
            for _ in range(5):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert owner.resources == []
            assert [event.what for event in await owner.events()].count("created") >= 1

    asyncio.run(main())

    async def left() -> None:
        asyncio.create_task(owner.start(Process(NEVER, name="never", ready=http("/"))))  # noqa: RUF006
        await asyncio.sleep(0.1)

    owner = aio.Owner("left")
    asyncio.run(left())
    assert owner.resources == []
    asyncio.run(owner.shutdown())


def test_a_start_that_nobody_can_wait_for(private_state: Path) -> None:
    """Its coroutine is closed, and its end comes all the same."""

    async def main() -> None:
        async with aio.Owner("closed") as owner:
            held = asyncio.Event()
            start = owner.start(Process(NEVER, name="never", ready=http("/")), held=lambda _: held.set())
            start.send(None)
            await held.wait()
            (resource,) = owner.resources
            start.close()
            await resource.wait(60)
            assert owner.resources == []

    asyncio.run(main())


class SlowDriver(FakeDriver):
    """Takes for ever to create anything, and says so again and again, as one does that fetches an image."""

    kind = "slow"

    def start(self, spec: FakeSpec, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        for number in itertools.count():
            progress(f"{number} layers")
            threading.Event().wait(0.001)
        raise AssertionError


class SilentDriver(FakeDriver):
    """Creates when it is told to, and says nothing meanwhile."""

    kind = "silent"
    go = threading.Event()

    def start(self, spec: FakeSpec, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        assert self.go.wait(20)
        return super().start(spec, tag, on_death, lambda _: None)


@dataclass(frozen=True)
class SlowSpec(FakeSpec):
    """For `SlowDriver`."""

    kind: str = field(default="slow", init=False)


@dataclass(frozen=True)
class SilentSpec(FakeSpec):
    """For `SilentDriver`."""

    kind: str = field(default="silent", init=False)


@pytest.fixture(autouse=True)
def drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have them found, by these tests only."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    registry.register("slow", SlowDriver)
    registry.register("silent", SilentDriver)


def test_one_that_is_long_in_the_making_is_interrupted(run: Run, private_state: Path) -> None:
    """Where its driver says what it is doing."""

    async def main() -> None:
        said: list[str] = []
        async with aio.Owner("slow") as owner:
            with anyio.CancelScope() as scope:

                def say(text: str) -> None:
                    said.append(text)
                    scope.cancel()

                await owner.start(SlowSpec(name="slow"), on_progress=say)
            assert said[0] == "0 layers"
            assert owner.resources == []

    run(main)


def test_what_is_just_being_created_is_ended_by_force(run: Run, private_state: Path) -> None:
    """As soon as it is there, and not politely: nobody has seen it."""
    SilentDriver.go.clear()

    async def main() -> None:
        async with aio.Owner("silent") as owner:
            with anyio.CancelScope() as scope:

                def held(_: aio.Resource) -> None:
                    scope.cancel()
                    threading.Timer(0.05, SilentDriver.go.set).start()

                await owner.start(SilentSpec(name="silent"), held=held)
            assert owner.resources == []
            driver: Any = owner._owner._supervisor.drivers.of("silent")
            assert {method for method, _ in driver.calls} == {"start", "destroy"}

    run(main)


def test_before_its_turn_nothing_is_begun(run: Run, private_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is on record."""
    starts = Threads("start", at_most=1)
    monkeypatch.setattr(beginning, "_starts", starts)
    go = threading.Event()

    async def main() -> None:
        async with aio.Owner("turn") as owner:
            taken = starts.begin(lambda: go.wait(20))
            with anyio.move_on_after(0.05):
                await owner.start(Process(["sleep", "100"]))
            go.set()
            assert taken.result(20)
            assert [event.what for event in await owner.events()] == ["owner began"]

    run(main)


def test_what_was_adopted_is_not_ended(private_state: Path) -> None:
    """An earlier owner kept it; this start did not begin it."""
    with tether.Owner("kept") as owner:
        resource = owner.start(Process(["sleep", "60"], name="it", stop_grace=1))

        async def main() -> None:
            start = Beginning(lambda _: None)

            def work() -> None:
                start.hold(resource)
                held.set()
                assert go.wait(20)

            held, go = threading.Event(), threading.Event()
            task = asyncio.create_task(start.done(work))
            await asyncio.to_thread(held.wait, 20)
            task.cancel()
            await asyncio.sleep(0)
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert resource.state is State.READY

        asyncio.run(main())
        assert tree.is_running(resource.pid or 0)


def test_an_end_that_fails_is_said(run: Run, private_state: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What can't be ended stays on record; the start is cancelled all the same."""
    SilentDriver.go.set()

    async def main() -> None:
        owner = aio.Owner("stuck")
        spec = SilentSpec(name="silent", fails={"destroy": 2}, ready=tether.call(lambda _: False))
        with anyio.CancelScope() as scope:
            await owner.start(spec, on_progress=lambda _: scope.cancel())
        assert scope.cancelled_caught
        (resource,) = owner.resources
        assert resource.state is State.STOPPING
        await resource.kill()
        await owner.shutdown()

    run(main)
    assert "a start was cancelled, and what it began could not be ended" in caplog.text


def test_fifty_start_at_once(run: Run, private_state: Path) -> None:
    """On any machine: none waits for another to be ready."""

    async def main() -> None:
        arrived: set[str] = set()
        async with aio.Owner("many") as owner:

            def all_are_there(resource: Any) -> bool:
                arrived.add(resource.name)
                return len(arrived) == 50

            async with anyio.create_task_group() as group:
                for number in range(50):
                    spec = Process(
                        ["sleep", "100"], name=f"many-{number}", ready=tether.call(all_are_there, timeout=60)
                    )
                    group.start_soon(owner.start, spec)
            assert [resource.state for resource in owner.resources] == [State.READY] * 50

    run(main)


def test_many_are_started_by_needs_and_none_is_left_of_a_cancelled_start(run: Run, private_state: Path) -> None:
    """Those that were ready by then end as well, and what waited for others is not begun."""

    async def main() -> None:
        async with aio.Owner("many") as owner:
            api, db = await owner.start_all(
                [
                    Process(["sleep", "100"], name="api", needs=["db"]),
                    Process(["sleep", "100"], name="db"),
                ]
            )
            assert (api.name, db.name) == ("api", "db")
            with anyio.CancelScope() as scope:
                await owner.start_all(
                    [
                        Process(["sleep", "100"], name="ready"),
                        Process(NEVER, name="never", ready=http("/"), needs=["ready"]),
                        Process(["sleep", "100"], name="waits", needs=["never"]),
                    ],
                    on_progress=lambda _: scope.cancel(),
                )
            assert scope.cancelled_caught
            assert [each.name for each in owner.resources] == ["db", "api"]
            with pytest.raises(tether.StartError, match="cannot start fails"):
                await owner.start_all(
                    [Process(["sleep", "100"], name="x"), Process(["false"], name="fails", ready=http("/"), port=1)]
                )
            assert [each.name for each in owner.resources] == ["db", "api"]

    run(main)
