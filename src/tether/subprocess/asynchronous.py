"""asyncio's ``create_subprocess_exec`` and ``create_subprocess_shell``, whose processes are resources."""

from __future__ import annotations

import asyncio
from asyncio import base_subprocess
from asyncio.subprocess import Process, SubprocessStreamProtocol
from contextlib import suppress
from typing import Any

# By way of the module: who replaces its Popen, as tests do, has replaced it here.
from tether import subprocess as front
from tether.subprocess.popen import Popen

__all__ = ["create_subprocess_exec", "create_subprocess_shell"]

_LIMIT = 1 << 16
"""As asyncio's: so many bytes its streams hold before the command has to wait."""


class _Transport(base_subprocess.BaseSubprocessTransport):
    """asyncio's own transport of a process, but for who starts it and who says that it has ended."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol: asyncio.SubprocessProtocol, *given: Any, **named: Any
    ) -> None:
        super().__init__(loop, protocol, *given, **named)
        process = self._process
        if process.resource is not None:
            # The watcher says so: no child watcher, and no thread of its own.
            process.resource._managed.on_end(self._heard, of="main")  # noqa: SLF001

    def _start(
        self,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        **more: Any,
    ) -> None:
        self._proc = front.Popen(args, shell=shell, stdin=stdin, stdout=stdout, stderr=stderr, bufsize=bufsize, **more)

    @property
    def _process(self) -> Popen:
        process = self._proc
        if not isinstance(process, Popen):
            raise ProcessLookupError
        return process

    def _heard(self) -> None:
        # A loop that was closed hears of nothing more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended)

    def _ended(self) -> None:
        # A transport that was closed meanwhile has let go of it.
        code = self._proc.poll() if isinstance(self._proc, Popen) else None
        if code is not None and self.get_returncode() is None:
            self._process_exited(code)

    def send_signal(self, signal: int) -> None:
        """Signal the command by its identity; raises ProcessLookupError once it has ended and that was told."""
        if self.get_returncode() is not None:
            raise ProcessLookupError
        self._process.send_signal(signal)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(15)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(9)


async def _create(args: Any, limit: int, *, shell: bool, **more: Any) -> Process:
    for name in ("universal_newlines", "text", "encoding", "errors", "bufsize"):
        if more.pop(name, None):
            raise ValueError(f"{name}= can't be given: asyncio's streams are of bytes, and not buffered")
    loop = asyncio.get_running_loop()
    protocol = SubprocessStreamProtocol(limit=limit, loop=loop)
    waiter = loop.create_future()
    given = {name: more.pop(name, None) for name in ("stdin", "stdout", "stderr")}
    transport = _Transport(loop, protocol, args, shell, *given.values(), 0, waiter=waiter, **more)
    try:
        await waiter
    except BaseException:
        transport.close()
        raise
    return Process(transport, protocol, loop)


async def create_subprocess_exec(program: Any, *args: Any, limit: int = _LIMIT, **more: Any) -> Process:
    """As `asyncio.create_subprocess_exec`; what it starts ends with the app. See `tether.subprocess.Popen`.

    Raises:
        OSError, ValueError, TypeError: as asyncio does.
        TetherError: it could not be recorded or guarded; nothing was started.
    """
    return await _create((program, *args), limit, shell=False, **more)


async def create_subprocess_shell(cmd: str | bytes, limit: int = _LIMIT, **more: Any) -> Process:
    """As `asyncio.create_subprocess_shell`; what it starts ends with the app. Raises as `create_subprocess_exec`."""
    if not isinstance(cmd, str | bytes):
        raise ValueError("cmd must be text or bytes")  # noqa: TRY004 - as in asyncio
    return await _create(cmd, limit, shell=True, **more)  # noqa: S604 - what it is for
