"""Events in the loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from aio.conftest import Run
from tether import Notice, Process, aio

if TYPE_CHECKING:
    import pytest

SLEEP = Process(["sleep", "100"], name="it")


def test_events_come_until_the_shutdown(run: Run, private_state: Path) -> None:
    """From the beginning of the watch; each with the state after it."""

    async def main() -> None:
        async with aio.Owner("events") as owner:
            async with owner.watch() as watch:
                resource = await owner.start(SLEEP)
                first = await watch.next(20)
                assert first is not None
                assert (first.what, first.state) == ("created", "ready")
                await resource.kill()
                await owner.shutdown()
                assert [notice.what async for notice in watch] == ["ready", "kill", "exited", "gone"]
                assert await watch.next() is None
            assert [notice async for notice in owner.watch()] == []

    run(main)


def test_a_watch_is_closed(run: Run, private_state: Path) -> None:
    """Who waits for the next event hears that there is none; time limits; several tasks share one, and each event is one's."""

    async def main() -> None:
        async with aio.Owner("events") as owner:
            watch, heard = owner.watch(), []
            assert await watch.next(0.01) is None

            async def listen() -> None:
                heard.extend([notice.what async for notice in watch])

            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(listen)
                resource = await owner.start(SLEEP)
                await resource.kill()
                await resource.wait()
                await anyio.wait_all_tasks_blocked()
                watch.close()
            assert sorted(heard) == ["created", "exited", "gone", "kill", "ready"]
            assert await watch.next() is None
            await watch.aclose()
            assert owner._owner.telemetry._watches == ()

    run(main)


def test_a_loop_that_is_over_hears_nothing(private_state: Path) -> None:
    """It is forgotten with the first event after that."""
    owner = aio.Owner("events")
    heard: list[Notice] = []

    async def begin() -> None:
        owner.watch()
        owner.on_change(heard.append)
        await owner.start(SLEEP)
        await asyncio.sleep(0)

    asyncio.run(begin())
    telemetry, before = owner._owner.telemetry, len(heard)
    assert before
    assert (len(telemetry._watches), len(telemetry._listeners)) == (1, 1)
    asyncio.run(owner.shutdown())
    assert (len(telemetry._watches), len(telemetry._listeners)) == (0, 0)
    assert len(heard) == before


def test_a_listener_is_called_in_the_loop(run: Run, private_state: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Until it leaves; one that raises is logged, and harms neither the loop nor others."""

    async def main() -> None:
        async with aio.Owner("events") as owner:
            here, heard = threading.get_ident(), []

            def listen(notice: Notice) -> None:
                assert threading.get_ident() == here
                heard.append(notice.what)

            leave = owner.on_change(listen)
            owner.on_change(lambda _: 1 // 0)
            resource = await owner.start(SLEEP)
            await anyio.wait_all_tasks_blocked()
            leave()
            await resource.kill()
            await anyio.wait_all_tasks_blocked()
            assert heard == ["created", "ready"]

    run(main)
    assert "a function that was to be told something failed" in caplog.text
