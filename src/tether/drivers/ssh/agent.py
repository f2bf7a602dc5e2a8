"""What answers on another host: ``tether-guard hold``, spoken with over one session of a connection."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tether.drivers.ssh.bring import Reader, bring
from tether.guard import wire
from tether.guard.wire import Kind, Message

if TYPE_CHECKING:
    import asyncssh

__all__ = ["Far", "FarError", "Hello", "Seen", "identities", "receipt"]

_MOST = 4 << 20


class FarError(Exception):
    """The other host refused: as an `OSError` there. Attributes: number, said, filename."""

    def __init__(self, number: int, filename: str) -> None:
        said = os.strerror(number)
        super().__init__(number, said, filename)
        self.number = number
        self.said = said
        self.filename = filename


@dataclass(frozen=True)
class Hello:
    """What the guard there said of its host.

    Attributes:
        boot: which boot of the host this is.
        home: the folder there for logs and receipts.
        machine: its type.
        build: of the guard there.
        tier: how it holds trees.
    """

    boot: str
    home: str
    machine: str
    build: str
    tier: str


@dataclass(frozen=True)
class Seen:
    """How a tree is there.

    Attributes:
        known: whether anything of it is there.
        alive: whether its shim lives.
        members: its live processes there.
        cpu_s, memory: what they use.
        exited: the exit code of its command, if that has ended and its shim lives.
        ended: its receipt (status, why, said), if all of it has ended.
        boot: the boot in which it ran.
        fence: the number of the ownership that counts there.
    """

    known: bool
    alive: bool
    members: tuple[int, ...]
    cpu_s: float
    memory: int
    exited: int | None
    ended: dict[str, Any] | None
    boot: str
    fence: int

    @classmethod
    def told(cls, message: Message) -> Seen:
        """Take it out of an answer."""
        return cls(
            bool(message.fields.get("boot")),
            bool(message.number("alive")),
            tuple(message.numbers("member")),
            (message.number("cpu_ms") or 0) / 1000,
            message.number("memory") or 0,
            message.number("status"),
            receipt(message),
            message.text("boot"),
            message.number("fence") or 0,
        )


def receipt(message: Message) -> dict[str, Any] | None:
    """Return the receipt in a message: from a file there, or as a shim tells its own end; None if there is none."""
    if message.fields.get("receipt"):
        found: dict[str, Any] = json.loads(message.text("receipt"))
        return found
    if message.kind == Kind.ENDED:
        return {"status": message.number("status"), "why": message.text("why"), "said": message.text("said")}
    return None


def identities(who: Message) -> dict[str, Any]:
    """Pid and start time of shim and command there."""
    return {
        "shim": [who.number("shim"), who.number("shim_start")],
        "main": [who.number("pid"), who.number("start")],
    }


class Far:
    """The guard on one connection.

    Attributes:
        hello: what it said of its host first.

    Args:
        process: the session.
        reader: what comes from it.
        hello: what it said.
        event: called with each message that answers nothing.
    """

    def __init__(
        self,
        process: asyncssh.SSHClientProcess[bytes],
        reader: Reader,
        hello: Hello,
        event: Callable[[Message], None],
    ) -> None:
        self.hello = hello
        self._process = process
        self._reader = reader
        self._event = event
        self._numbers = iter(range(1, 1 << 62))
        self._pending: dict[int, asyncio.Future[Message]] = {}

    @classmethod
    async def start(
        cls,
        connection: asyncssh.SSHClientConnection,
        where: str,
        within: float,
        event: Callable[[Message], None],
    ) -> Far:
        """Have the guard run there, sent if need be.

        Raises:
            DriverUnavailable: it can't be executed there.
            OSError, TimeoutError: it can't work there (no room, no folder), or the connection broke.
            ValueError: something else answered.
        """
        process, reader = await bring(connection, where, within)
        message = await asyncio.wait_for(_message(reader), within)
        if message.kind != Kind.HELLO:
            number = message.number("errno") or 0
            raise OSError(number, f"{os.strerror(number)}: {message.text('filename')} there")
        names = ("boot", "home", "machine", "build", "tier")
        return cls(process, reader, Hello(**{name: message.text(name) for name in names}), event)

    async def call(self, kind: Kind, within: float, **fields: Any) -> Message:
        """Have one thing done there.

        Args:
            kind: what.
            within: seconds that the connection may be silent while the answer is waited for.
            fields: of the message.

        Raises:
            FarError: it was refused.
            TimeoutError, OSError: the connection is silent, or broke.
        """
        number = next(self._numbers)
        now = asyncio.get_running_loop().time
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        try:
            began = now()
            self._process.stdin.write(wire.encode(kind, {"id": number, **fields}))
            while not future.done():
                # Behind much else an answer may be late; what counts is whether anything comes.
                left = max(began, self._reader.heard) + within - now()
                if left <= 0:
                    raise TimeoutError(f"no word for {within:g} s")
                await asyncio.wait({future}, timeout=left)
            return future.result()
        finally:
            self._pending.pop(number, None)

    async def listen(self) -> None:
        """Take in answers and events until the connection breaks."""
        try:
            while kind := await self._reader.behind_mark():
                if kind != b"#":
                    continue
                message = await _message(self._reader)
                if message.kind != Kind.ANSWER:
                    self._event(message)
                    continue
                future = self._pending.get(message.number("id") or 0)
                if future is None or future.done():
                    continue
                number = message.number("errno")
                if number is not None:
                    future.set_exception(FarError(number, message.text("filename")))
                else:
                    future.set_result(message)
        finally:
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(ConnectionResetError("the connection broke before it answered"))


async def _message(reader: Reader) -> Message:
    size = int.from_bytes(await reader.exactly(4), "little")
    if size > _MOST:
        raise ValueError(f"a message of {size} bytes is none of ours")
    return wire.decode(await reader.exactly(size))
