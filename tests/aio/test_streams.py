"""Pipes in the loop, as the byte streams of anyio."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteReceiveStream, ByteSendStream
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.text import TextReceiveStream

from aio.conftest import Run
from tether import Process, aio
from tether.aio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream, ReceiveStream
from tether.aio.streams import SendStream
from tether.drivers.container.streams import Stdin

CAT = Process(["cat"], stdin="pipe", stdout="pipe")


async def _cat(owner: aio.Owner, spec: Process = CAT) -> tuple[aio.Resource, SendStream, ReceiveStream]:
    resource = await owner.start(spec)
    assert resource.stdin is not None
    assert resource.stdout is not None
    return resource, resource.stdin, resource.stdout


def test_what_is_sent_comes_back(run: Run, private_state: Path) -> None:
    """In pieces as they come; closing the one is the end of the other. The rest of a piece waits for the next call."""

    async def main() -> None:
        async with aio.Owner("streams") as owner:
            resource, stdin, stdout = await _cat(owner)
            assert isinstance(stdin, ByteSendStream)
            assert isinstance(stdout, ByteReceiveStream)
            await stdin.send(b"hello\nwor")
            assert await stdout.receive(2) == b"he"
            assert await stdout.readline() == b"llo\n"
            assert await stdout.receive() == b"wor"
            await stdin.send(b"one\ntwo\nthree")
            await stdin.aclose()
            assert await stdout.readline() == b"one\n"
            assert [piece async for piece in stdout] == [b"two\nthree"]
            assert await stdout.readline() == b""
            with pytest.raises(EndOfStream):
                await stdout.receive()
            with pytest.raises(ClosedResourceError):
                await stdin.send(b"more")
            await stdin.aclose()
            assert await resource.wait(10) == 0
            assert resource.stderr is None

    run(main)


def test_more_than_a_pipe_holds(run: Run, private_state: Path) -> None:
    """Sending waits for who reads, and the loop goes on."""
    data = os.urandom(3_000_000)

    async def main() -> None:
        async with aio.Owner("streams") as owner:
            _, stdin, stdout = await _cat(owner)

            async def send() -> None:
                async with stdin:
                    await stdin.send(data)

            async with anyio.create_task_group() as group:
                group.start_soon(send)
                await anyio.wait_all_tasks_blocked()
                came = b"".join([piece async for piece in stdout])
            assert came == data

    run(main)


def test_anyios_wrappers_take_them(run: Run, private_state: Path) -> None:
    """Text and buffers."""

    async def main() -> None:
        async with aio.Owner("streams") as owner:
            _, stdin, stdout = await _cat(owner)
            await stdin.send("häll".encode() + "ö"[:1].encode()[:1])
            buffered = BufferedByteReceiveStream(stdout)  # type: ignore[arg-type] # a virtual subclass
            assert await buffered.receive_exactly(5) == "häll".encode()
            await stdin.send("ö".encode()[1:] + b"\n")
            assert await buffered.receive_until(b"\n", 10) == "ö".encode()
            await stdin.send("grüße".encode())
            await stdin.aclose()
            assert [text async for text in TextReceiveStream(stdout)] == ["grüße"]  # type: ignore[arg-type] # likewise

    run(main)


def test_a_task_that_waits_is_told(run: Run, private_state: Path) -> None:
    """That another one is at it, that it was closed, that nobody reads."""

    async def main() -> None:
        async with aio.Owner("streams") as owner:
            resource, stdin, stdout = await _cat(owner)
            heard: list[type] = []

            async def receive() -> None:
                with pytest.raises(ClosedResourceError):
                    await stdout.receive()
                heard.append(ClosedResourceError)

            async with anyio.create_task_group() as group:
                group.start_soon(receive)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(BusyResourceError):
                    await stdout.receive()
                with pytest.raises(BusyResourceError):
                    await stdout.readline()
                await stdout.aclose()
            assert heard == [ClosedResourceError]
            with pytest.raises(ClosedResourceError):
                await stdout.receive()
            await resource.kill()
            with pytest.raises(BrokenResourceError):
                await stdin.send(b"x" * 100)

    run(main)


def test_what_is_cancelled_loses_nothing(run: Run, private_state: Path) -> None:
    """A part of a line that had come is there for the next call."""

    async def main() -> None:
        async with aio.Owner("streams") as owner:
            _, stdin, stdout = await _cat(owner)
            for _ in range(3):
                with anyio.move_on_after(0.01) as scope:
                    await stdout.receive()
                assert scope.cancelled_caught
            await stdin.send(b"half")
            with anyio.move_on_after(0.2) as scope:
                await stdout.readline()
            assert scope.cancelled_caught
            await stdin.send(b" and half\nrest")
            assert await stdout.readline() == b"half and half\n"
            assert await stdout.receive() == b"rest"

    run(main)


def test_standard_error_has_a_pipe_of_its_own(run: Run, private_state: Path) -> None:
    """And a terminal is read and written as pipes are; when nobody has it open any more, that is the end."""

    async def main() -> None:
        async with aio.Owner("streams") as owner:
            resource = await owner.start(Process(["sh", "-c", "echo out; echo err >&2"], stdout="pipe", stderr="pipe"))
            assert resource.stdout is not None
            assert resource.stderr is not None
            assert [piece async for piece in resource.stderr] == [b"err\n"]
            assert [piece async for piece in resource.stdout] == [b"out\n"]
            _, stdin, stdout = await _cat(
                owner, Process(["sh", "-c", "read line; tty; echo got $line"], terminal="pty")
            )
            await stdin.send(b"word\n")
            said = b"".join([piece async for piece in stdout])
            assert b"/dev/pts/" in said
            assert said.endswith(b"got word\r\n")

    run(main)


def test_what_can_not_be_waited_for_has_a_thread(run: Run) -> None:
    """The connection to an engine, which its other users read while they wait in it."""
    ours, theirs = socket.socketpair()

    async def main() -> None:
        stdin = SendStream(Stdin(ours))
        await stdin.send(b"hello")
        assert ours.getblocking()
        coming = ReceiveStream(theirs.makefile("rb"))
        assert await coming.receive() == b"hello"
        await stdin.aclose()
        with pytest.raises(EndOfStream):
            await coming.receive()
        await coming.aclose()

    run(main)
    ours.close()
    theirs.close()
