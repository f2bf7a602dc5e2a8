"""What answers on another host: the agent of far.py, sent there over a connection."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncssh

__all__ = ["Far", "FarAgent", "FarError"]

_START_S = 15.0

_FAR = Path(__file__).with_name("far.py")
_NO_PYTHON = "tether: no python"
_LOADER = (
    "import os,sys; sys.version_info<(3,8) and sys.exit(os.write(1,b'" + _NO_PYTHON + "\\n'))\n"
    "s=b''\n"
    "while len(s)<%d: s+=os.read(0,%d-len(s)) or sys.exit()\n"
    "exec(compile(s,'tether-far','exec'))"
)
# In a POSIX shell, whatever the login shell is.
_START = 'exec sh -c \'command -v python3 >/dev/null && exec python3 -I -S -c "$1"; echo "%s"\' sh %s'


class FarError(Exception):
    """The other host refused: as an `OSError` there. Attributes: number, said, filename."""

    def __init__(self, number: int, said: str, filename: str) -> None:
        super().__init__(number, said, filename)
        self.number = number
        self.said = said
        self.filename = filename


class Far(Protocol):
    """What answers on the other host: the agent of far.py, or the weaker one in sh."""

    async def call(self, request: dict[str, Any]) -> Any:
        """Have one thing done there. Raises FarError; OSError if the connection breaks."""
        ...


class FarAgent:
    """The agent of far.py on one connection.

    Attributes:
        hello: what it said of its host first.

    Args:
        process: the agent there.
        hello: what it said.
        event: called with each event from there.
    """

    def __init__(
        self,
        process: asyncssh.SSHClientProcess[bytes],
        hello: dict[str, Any],
        event: Callable[[dict[str, Any]], None],
    ) -> None:
        self.hello = hello
        self._process = process
        self._event = event
        self._numbers = iter(range(1, 1 << 62))
        self._pending: dict[int, asyncio.Future[Any]] = {}

    @classmethod
    async def start(
        cls, connection: asyncssh.SSHClientConnection, event: Callable[[dict[str, Any]], None]
    ) -> FarAgent | None:
        """Send far.py over and have it run; None where there is no Python.

        Raises:
            OSError: it can't work there (no room, no home), or the connection broke.
            ValueError: something else answered.
        """
        program = _FAR.read_bytes()
        loader = _LOADER % (len(program), len(program))
        process = await connection.create_process(_START % (_NO_PYTHON, shlex.quote(loader)), encoding=None)
        process.stdin.write(program)
        line = await asyncio.wait_for(_first_word(process.stdout), _START_S)
        if line.strip() == _NO_PYTHON.encode():
            process.close()
            return None
        if not line:
            said = (await process.stderr.read(2000)).decode(errors="replace").strip()
            raise ValueError(said or "it closed the session at once")
        hello = json.loads(line)
        if "errno" in hello:
            raise OSError(hello["errno"], f"{hello['said']}: {hello['filename']} there")
        return cls(process, hello, event)

    async def call(self, request: dict[str, Any]) -> Any:
        """See `Far`."""
        number = next(self._numbers)
        future = self._pending[number] = asyncio.get_running_loop().create_future()
        try:
            self._process.stdin.write(json.dumps({**request, "id": number}).encode() + b"\n")
            return await future
        finally:
            self._pending.pop(number, None)

    async def listen(self) -> None:
        """Take in answers and events until the connection breaks."""
        try:
            while line := await self._process.stdout.readline():
                message = json.loads(line)
                if "event" in message:
                    self._event(message)
                    continue
                future = self._pending.get(message["id"])
                if future is None or future.done():
                    continue
                if "errno" in message:
                    future.set_exception(FarError(message["errno"], message["said"], message["filename"]))
                else:
                    future.set_result(message["value"])
        finally:
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(ConnectionResetError("the connection broke before it answered"))


async def _first_word(stdout: asyncssh.SSHReader[bytes]) -> bytes:
    """Return the first line that is ours: some logins write a greeting before it. Empty if there is none."""
    while line := await stdout.readline():
        if line.startswith((b'{"hello"', b'{"errno"', _NO_PYTHON.encode())):
            return line
    return b""
