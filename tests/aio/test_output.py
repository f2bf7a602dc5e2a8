"""What a command writes and reads, in the loop; its signals, and waiting for it alone."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from tether import DeadlineExceeded, Process, aio


def test_lines_are_followed_in_the_loop(tmp_path: Path) -> None:
    """Each is there when it is written; who gives up leaves nothing behind."""
    gate = tmp_path / "gate"

    async def go() -> None:
        async with aio.Owner("test") as owner:
            job = await owner.start(
                Process(["sh", "-c", f"echo one; while [ ! -e {gate} ]; do sleep 0.05; done; echo two"])
            )
            seen = []
            async for line in job.lines(follow=True):
                seen.append(line)
                gate.touch()
            assert seen == ["one", "two"]
            assert [line async for line in job.lines(tail=1)] == ["two"]
            silent = await owner.start(Process(["sleep", "100"]))
            waiting = asyncio.ensure_future(anext(silent.lines(follow=True)))
            assert await asyncio.wait([waiting], timeout=0.2) == (set(), {waiting})
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await silent.kill()

    asyncio.run(go())


def test_a_command_can_be_talked_to_and_waited_for_alone() -> None:
    """With the same words as without the loop."""

    async def go() -> None:
        async with aio.Owner("test") as owner:
            job = await owner.start(Process(["cat"], stdin="pipe", stdout="pipe", text=True))
            with pytest.raises(DeadlineExceeded):
                await owner.resources[0].wait(0.05, of="main")
            assert await job.communicate("hello\n") == ("hello\n", None)
            assert job.poll() == 0
            leaving = await owner.start(Process(["sh", "-c", "sleep 100 & exit 0"]))
            assert await leaving.wait(10, of="main") == 0
            with pytest.raises(DeadlineExceeded):
                await leaving.wait(0.05)
            await leaving.kill()
            code = "import signal, sys; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7)); print('ready', flush=True); signal.pause()"
            asked = await owner.start(Process([sys.executable, "-c", code]))
            async for _ in asked.lines(follow=True):
                asked.send_signal(signal.SIGUSR1)
            assert await asked.wait(10) == 7

    asyncio.run(go())
