"""The owner in the loop."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import tether
from aio.conftest import Run
from tether import Budget, Gone, NotFound, Process, State, TetherError, aio

ITS_OWN = {
    "hand_over": "puts the guard in the place of this process, loop and all",
    "share_terminal": "for a program that does so",
    "release_in_fork": "called in a fork, where no loop runs",
    "telemetry": "its rooms speak to each other by it",
}
"""Public names of `tether.Owner` that a program with a loop has no use for."""


def _public(it: Any) -> set[str]:
    return {name for name in dir(it) if not name.startswith("_")}


def test_it_has_the_same_names(private_state: Path) -> None:
    """Every one of `Owner` and `Resource`, with the same parameters, and says itself what it does."""
    with tether.Owner("sync") as owner:
        wanted = _public(owner) - set(ITS_OWN)
    assert _public(tether.Owner) <= wanted | set(ITS_OWN)
    assert wanted - _public(aio.Owner) == set()
    assert _public(tether.Resource) - _public(aio.Resource) == set()
    for ours, theirs in ((aio.Owner, tether.Owner), (aio.Resource, tether.Resource)):
        for name in {*_public(theirs) - set(ITS_OWN), "__init__"} - ({"__init__"} if ours is aio.Resource else set()):
            here, there = inspect.getattr_static(ours, name), inspect.getattr_static(theirs, name)
            assert isinstance(here, property) == isinstance(there, property), name
            if not isinstance(here, property):
                assert _parameters(here) == _parameters(there), name
    for each in (aio.Owner, aio.Resource, aio.Watch, aio.ReceiveStream, aio.SendStream):
        for name in _public(each):
            said = inspect.getdoc(inspect.getattr_static(each, name)) or ""
            assert said, name
            assert not said.lower().startswith("see "), name


def test_anyio_is_imported_for_pipes_only() -> None:
    """And trio not at all; without anyio its errors have the same names."""
    code = (
        "import sys; sys.modules['anyio.abc'] = sys.modules['anyio'] = None; from tether import aio\n"
        "assert 'tether.aio.streams' not in sys.modules and 'trio' not in sys.modules\n"
        "print(aio.EndOfStream.__module__, aio.ReceiveStream.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["tether.aio.streams", "tether.aio.streams"]
    assert aio.EndOfStream is anyio.EndOfStream
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        aio.nonsense  # noqa: B018


def _parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]


def test_nothing_blocks_the_loop(run: Run, private_state: Path) -> None:
    """And everything is awaited."""

    async def main() -> None:
        async with aio.Owner("async", budget=Budget(usd=1)) as owner:
            assert owner.state_dir == private_state
            assert (owner.name, owner.on_death, owner.strays) == ("async", "kill", "warn")
            async with await owner.start(Process(["sleep", "60"], name="it")) as resource:
                assert (await owner.status())["pids"] == await resource.pids() == [resource.pid]
                assert owner.resource("it").id == resource.id
                await resource.resume()
                assert (await resource.usage()).processes == 1
                with pytest.raises(tether.SpecError, match="nothing can be executed in it"):
                    await resource.exec(["true"])
            assert resource.state is State.GONE
            with pytest.raises(NotFound):
                owner.resource("it")
            jobs = [await owner.start(Process(["sh", "-c", f"echo {code}; exit {code}"])) for code in range(3)]
            assert [await job.wait(10) for job in jobs] == [0, 1, 2]
            assert [await job.logs() for job in jobs] == ["0\n", "1\n", "2\n"]
            with pytest.raises(TetherError):
                await owner.adopt("nothing")
            assert owner.id == (await owner.status())["id"]

    run(main)


def test_plugins_are_answered_for(run: Run, private_state: Path) -> None:
    """And processes that exist, those of asyncio as well."""

    async def main() -> None:
        async with aio.Owner("plugins") as owner:
            ended: list[str] = []
            job = await owner.register(pids=list, cleanup=lambda: ended.append("job"), name="job")
            assert owner.plugins == {"job": job}
            async with await anyio.open_process(["sleep", "60"]) as process:
                watched = await owner.watch(process)
                assert await owner.pids() == [process.pid]
                await owner.unregister(job)
                assert list(owner.plugins.values()) == [watched]
                await owner.shutdown()
            assert ended == []
            assert watched.has_ended

    run(main)


def test_a_kept_resource_is_adopted(run: Run, private_state: Path) -> None:
    """As by `tether.Owner`; who waits for it where it was left is told of that."""

    async def main() -> None:
        async with aio.Owner("kept", on_death="keep") as first, anyio.create_task_group() as tasks:
            resource = await first.start(Process(["sleep", "60"], name="it", keep_for=60))
            tasks.start_soon(wait, resource)
            await anyio.wait_all_tasks_blocked()
            await first.shutdown()
        assert resource.state is State.LOST
        async with aio.Owner("kept") as second:
            adopted = await second.adopt("it")
            assert adopted.id == resource.id
            await adopted.kill()

    async def wait(resource: aio.Resource) -> None:
        with pytest.raises(Gone, match="left to the next owner"):
            await resource.wait()

    run(main)


def test_whoever_asks_for_the_shutdown_waits_for_it(run: Run, private_state: Path) -> None:
    """Also the second one, while it goes on; after a cancelled one it goes on."""

    async def main() -> None:
        owner = aio.Owner("shutdown")
        resource = await owner.start(
            Process(
                ["sh", "-c", "trap 'echo asked' TERM; echo up; for i in 1 2 3; do read line && break; done"],
                stdin="pipe",
                stdout="pipe",
            )
        )
        assert resource.stdin is not None
        assert resource.stdout is not None
        assert await resource.stdout.readline() == b"up\n"
        with anyio.CancelScope() as scope:
            owner.on_change(lambda notice: scope.cancel() if notice.what == "stop" else None)
            await owner.shutdown(grace=60)
        assert scope.cancelled_caught
        assert not resource.state.is_final
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(owner.shutdown)
            assert await resource.stdout.readline() == b"asked\n"
            async with resource.stdin as stdin:
                await stdin.send(b"go\n")
        assert resource.state is State.GONE
        await owner.shutdown()
        with pytest.raises(tether.Gone):
            await owner.start(Process(["true"]))

    run(main)


def test_a_block_that_is_cancelled_ends_everything(run: Run, private_state: Path) -> None:
    """Before it is left."""

    async def main() -> None:
        resources: list[aio.Resource] = []
        with anyio.CancelScope() as scope:
            async with aio.Owner("block") as owner:
                resources += [await owner.start(Process(["sleep", "60"])) for _ in range(5)]
                scope.cancel()
                await anyio.sleep(100)
        assert [resource.state for resource in resources] == [State.GONE] * 5

    run(main)


def test_one_owner_in_several_loops(private_state: Path) -> None:
    """One after the other; what waits in one is completed there."""
    owner = aio.Owner("loops")
    resource = asyncio.run(owner.start(Process(["sleep", "60"])))

    async def both() -> list[int | None]:
        other = asyncio.to_thread(lambda: asyncio.run(resource.wait()))
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(resource.wait()), group.create_task(other)]
            await asyncio.sleep(0.05)
            await resource.kill()
        return [wait.result() for wait in waits]

    assert asyncio.run(both()) == [-9, -9]
    asyncio.run(owner.shutdown())
    asyncio.run(owner.shutdown())
