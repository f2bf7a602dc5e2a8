"""A resource in the loop: waits without threads, ends that queue behind nobody."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest

from aio.conftest import Run
from tether import DeadlineExceeded, Process, State, aio, http
from tether.aio import beginning
from tether.aio.threads import Threads

SLEEP = Process(["sleep", "100"])
STUBBORN = Process(["sh", "-c", "trap '' TERM; echo up; sleep 100 & wait; sleep 100"], stdout="pipe", stop_grace=0.5)


def _listeners(resource: aio.Resource) -> int:
    return len(resource._resource._managed._on_end)


def test_waits_take_no_thread(run: Run, private_state: Path) -> None:
    """A thousand of them, and everything else goes on: an end, a question, the shutdown, which completes them."""
    codes = []

    async def main() -> None:
        async with aio.Owner("waits") as owner, anyio.create_task_group() as group:
            resources = [await owner.start(SLEEP) for _ in range(10)]
            before = threading.active_count()

            async def wait(resource: aio.Resource) -> None:
                codes.append(await resource.wait())

            for number in range(1000):
                group.start_soon(wait, resources[number % 10])
            await anyio.wait_all_tasks_blocked()
            assert threading.active_count() <= before
            assert sum(map(_listeners, resources)) == 1000
            with anyio.fail_after(20):
                await resources[0].stop()
                assert len((await owner.status())["resources"]) == 9
                await owner.shutdown()

    run(main)
    assert codes == [-15] * 1000


def test_a_wait_that_is_given_up_leaves_nothing(run: Run, private_state: Path) -> None:
    """Cancelled, or after its time; the next one is right all the same."""

    async def main() -> None:
        async with aio.Owner("waits") as owner:
            resource = await owner.start(SLEEP)
            for _ in range(20):
                with anyio.move_on_after(0.001) as scope:
                    await resource.wait()
                assert scope.cancelled_caught
            with pytest.raises(DeadlineExceeded, match="sleep is still ready after 0.01 s"):
                await resource.wait(0.01)
            assert _listeners(resource) == 0
            await resource.kill()
            assert await resource.wait() == await resource.wait(0) == -9

    run(main)


def test_a_loop_that_is_closed_with_waits_pending(private_state: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Harms neither the end nor other loops."""
    owner = aio.Owner("closed")

    async def wait_for_ever(resource: aio.Resource) -> None:
        await resource.wait()

    async def begin() -> tuple[aio.Resource, list[asyncio.Task[None]]]:
        resource = await owner.start(SLEEP)
        tasks = [asyncio.create_task(wait_for_ever(resource)) for _ in range(10)]
        await asyncio.sleep(0)
        resource.on_end(lambda: None)
        return resource, tasks

    loop = asyncio.new_event_loop()
    resource, tasks = loop.run_until_complete(begin())
    loop.close()
    assert _listeners(resource) == 11
    asyncio.run(resource.kill())
    assert _listeners(resource) == 0
    assert asyncio.run(resource.wait()) == -9
    asyncio.run(owner.shutdown())
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined] # that is what is tested
    del tasks, task
    gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_the_loops_own_executor_is_not_used(private_state: Path) -> None:
    """It may be full of whatever the app waits for."""
    go = threading.Event()

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        blocked = asyncio.create_task(asyncio.to_thread(go.wait, 60))
        async with asyncio.timeout(20), aio.Owner("executor") as owner:
            resource = await owner.start(Process(["sh", "-c", "sleep 0.01; exit 3"]))
            assert await resource.wait() == 3
            await owner.start(SLEEP)
            assert len(await owner.pids()) == 1
        go.set()
        assert await blocked

    asyncio.run(main())


def test_an_end_queues_behind_no_start(run: Run, private_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where there is one thread for starts, and it is taken."""
    monkeypatch.setattr(beginning, "_starts", Threads("start", at_most=1))

    async def main() -> None:
        async with aio.Owner("queue") as owner:
            resource = await owner.start(SLEEP)
            async with anyio.create_task_group() as group:
                held = anyio.Event()
                never = Process(["sh", "-c", "sleep 100; : {port}"], name="never", ready=http("/"))
                group.start_soon(lambda: owner.start(never, held=lambda _: held.set()))
                with anyio.fail_after(20):
                    await held.wait()
                    group.start_soon(lambda: owner.start(Process(["sleep", "100"], name="queued")))
                    await anyio.wait_all_tasks_blocked()
                    await resource.stop()
                group.cancel_scope.cancel()
            assert owner.resources == []

    run(main)


def test_an_end_that_is_cancelled_goes_on(run: Run, private_state: Path) -> None:
    """Whoever asked for it does not wait any more, that is all."""

    async def main() -> None:
        async with aio.Owner("ends") as owner:
            resource = await owner.start(
                Process(
                    [
                        "sh",
                        "-c",
                        "trap 'echo asked' TERM; echo up; for i in 1 2 3; do read line && break; done; exit 3",
                    ],
                    stdin="pipe",
                    stdout="pipe",
                )
            )
            assert resource.stdin is not None
            assert resource.stdout is not None
            assert await resource.stdout.readline() == b"up\n"
            with anyio.CancelScope() as scope:
                owner.on_change(lambda notice: scope.cancel() if notice.what == "stop" else None)
                await resource.stop(grace=60)
            assert scope.cancelled_caught
            assert f"{resource.state}" == "stopping"
            assert await resource.stdout.readline() == b"asked\n"
            async with resource.stdin as stdin:
                await stdin.send(b"go\n")
            with anyio.fail_after(20):
                await resource.wait()
            assert (resource.state, resource.exit_code) == (State.GONE, 3)

    run(main)


def test_a_block_that_is_cancelled_ends_its_resource(run: Run, private_state: Path) -> None:
    """Before it is left, though its scope goes on cancelling."""
    seen: list[State] = []

    async def use(owner: aio.Owner, scope: anyio.CancelScope) -> None:
        resource = await owner.start(STUBBORN)
        try:
            async with resource:
                assert resource.stdout is not None
                await resource.stdout.readline()
                scope.cancel()
                await anyio.sleep(100)
        finally:
            seen.append(resource.state)

    async def main() -> None:
        async with aio.Owner("block") as owner:
            with anyio.CancelScope() as scope:
                await use(owner, scope)
            assert seen == [State.GONE]

    run(main)


def test_asyncio_cancels_a_block_twice(private_state: Path) -> None:
    """Its own cancellation comes once each time, and is not lost."""

    async def use(owner: aio.Owner, up: asyncio.Event, seen: list[State]) -> None:
        resource = await owner.start(STUBBORN)
        try:
            async with resource:
                assert resource.stdout is not None
                await resource.stdout.readline()
                up.set()
                await asyncio.sleep(100)
        finally:
            seen.append(resource.state)

    async def main() -> None:
        seen: list[State] = []
        async with aio.Owner("block") as owner:
            up = asyncio.Event()
            task = asyncio.create_task(use(owner, up, seen))
            await up.wait()
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0.01)
            assert not task.done()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert seen == [State.GONE]

    asyncio.run(main())


def test_who_asked_for_it_is_called_at_the_end(run: Run, private_state: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the loop, once, also if it has ended; not who left, and one that raises is logged."""

    async def main() -> None:
        here, heard = threading.get_ident(), []
        async with aio.Owner("on-end") as owner:
            resource = await owner.start(SLEEP)
            resource.on_end(lambda: heard.append(("first", threading.get_ident() == here)))
            leave = resource.on_end(lambda: heard.append(("left", True)))
            resource.on_end(lambda: 1 // 0)
            leave()
            leave()
            await resource.kill()
            told = anyio.Event()
            resource.on_end(lambda: heard.append(("late", threading.get_ident() == here)))
            resource.on_end(told.set)
            with anyio.fail_after(20):
                await told.wait()
        assert heard == [("first", True), ("late", True)]

    run(main)
    assert [record.message for record in caplog.records] == ["a function that was to be told something failed"]


def test_it_is_restarted(run: Run, private_state: Path) -> None:
    """With another life, whose pipes are others; who waited for the first heard of its end."""

    async def main() -> None:
        said: list[str] = []
        async with aio.Owner("restart") as owner, anyio.create_task_group() as group:
            resource = await owner.start(
                Process(
                    ["python3", "-m", "http.server", "--bind", "127.0.0.1", "{port}"],
                    ready=http("/"),
                    stdin="pipe",
                    cwd=private_state,
                )
            )
            pid, stdin, waited = resource.pid, resource.stdin, anyio.Event()

            async def wait() -> None:
                await resource.wait()
                waited.set()

            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await resource.restart(on_progress=said.append)
            await waited.wait()
            assert resource.state is State.READY
            assert resource.pid != pid
            assert resource.stdin is not stdin
            assert resource.stdin is resource.stdin
            assert said[-1] == "ready"

    run(main)


def test_a_restart_that_is_cancelled_ends_it(run: Run, private_state: Path) -> None:
    """In either of its lives."""

    async def main() -> None:
        async with aio.Owner("restart") as owner:
            for number in range(6):
                told = anyio.Event()
                once = "test -e once && exec sleep 100; touch once; exec python3 -m http.server --bind 127.0.0.1 {port}"
                (private_state / "once").unlink(missing_ok=True)
                resource = await owner.start(Process(["sh", "-c", once], name="it", ready=http("/"), cwd=private_state))
                async with anyio.create_task_group() as group:
                    group.start_soon(lambda: resource.restart(on_progress=lambda _: told.set()))  # noqa: B023
                    if number % 2:
                        await told.wait()
                    else:
                        await anyio.sleep(0.002 * number)
                    group.cancel_scope.cancel()
                assert resource.state.is_final
                assert owner.resources == []

    run(main)


def test_reprs_are_those_of_the_resource(run: Run, private_state: Path) -> None:
    """In notebooks as well."""

    async def main() -> None:
        async with aio.Owner("repr") as owner:
            resource = await owner.start(SLEEP)
            assert repr(resource) == f"<Resource sleep (process, ready, pid {resource.pid})>"
            assert "<td>sleep</td>" in resource._repr_html_()
            assert "owner repr" in owner._repr_html_()
            assert repr(owner).startswith("<Owner repr (pid ")
            assert (await resource.info())["pid"] == resource.pid
            assert resource.main is not None

    run(main)
