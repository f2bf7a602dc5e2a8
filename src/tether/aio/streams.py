"""The pipes of a resource, in the loop. Shaped like the byte streams of anyio, and taken for them where anyio is installed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from tether.aio import loops
from tether.aio.threads import ask

__all__ = [
    "BrokenResourceError",
    "BusyResourceError",
    "ClosedResourceError",
    "EndOfStream",
    "ReceiveStream",
    "SendStream",
]

try:
    from anyio import BrokenResourceError, BusyResourceError, ClosedResourceError, EndOfStream
except ImportError:

    class BrokenResourceError(Exception):  # type: ignore[no-redef]
        """The other side has closed it."""

    class BusyResourceError(Exception):  # type: ignore[no-redef]
        """Another task is at it."""

        def __init__(self, action: str) -> None:
            super().__init__(f"another task is already {action} this resource")

    class ClosedResourceError(Exception):  # type: ignore[no-redef]
        """It was closed here."""

    class EndOfStream(Exception):  # type: ignore[no-redef]
        """Nothing more will come."""


_PART = 65536

_File = TypeVar("_File", bound=Any)


class _Stream(Generic[_File]):
    """One end of a pipe.

    Args:
        file: as `tether.Resource` hands it out. Where its descriptor can be waited for, it is not read or written otherwise from
            now on.
    """

    def __init__(self, file: _File) -> None:
        self.file = file
        self._loop = loops.current()
        self._busy = False
        self._closed = False
        # Others (the connection to an engine) are shared with threads that must be able to wait in them.
        self._waits_here = False
        with suppress(OSError, ValueError):
            fd = file.fileno()
            self._waits_here = stat.S_ISFIFO(os.fstat(fd).st_mode) or os.isatty(fd)
            if self._waits_here:
                os.set_blocking(fd, False)

    def _fd(self) -> int:
        if self._closed or self.file.closed:
            raise ClosedResourceError
        return int(self.file.fileno())

    async def _begin(self, action: str) -> None:
        if self._busy:
            raise BusyResourceError(action)
        self._fd()
        self._busy = True
        try:
            await self._loop.checkpoint()
        except BaseException:
            self._busy = False
            raise

    async def aclose(self) -> None:
        """Close it; a task that is at it hears that. What was closed already is left alone."""
        if not self._closed and not self.file.closed:
            if self._waits_here:
                self._loop.closing(self.file.fileno())
            self._closed = True
            with suppress(OSError):
                self.file.close()
        await self._loop.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class ReceiveStream(_Stream[Any]):
    """What a resource writes to its standard output or error. ``async for`` yields it in pieces, as they come."""

    _kept = b""

    async def receive(self, max_bytes: int = _PART) -> bytes:
        """Return what has come, at least one byte and at most so many; waits for it.

        Raises:
            EndOfStream: nothing more will come.
            ClosedResourceError: it was closed here, maybe meanwhile.
            BusyResourceError: another task is receiving.
        """
        await self._begin("receiving from")
        try:
            data = await self._receive(max_bytes)
        finally:
            self._busy = False
        if not data:
            raise EndOfStream
        return data

    async def readline(self) -> bytes:
        """Return the next line with its end, the last one maybe without; empty at the end of all. Raises as `receive`."""
        await self._begin("receiving from")
        try:
            parts: list[bytes] = []
            while data := await self._receive(_PART):
                line, end, rest = data.partition(b"\n")
                parts += [line, end]
                if end:
                    self._kept = rest
                    break
        except BaseException:
            # A line that was not handed out is not lost.
            self._kept = b"".join(parts)
            raise
        finally:
            self._busy = False
        return b"".join(parts)

    async def _receive(self, max_bytes: int) -> bytes:
        """Empty at the end."""
        if self._kept:
            data, self._kept = self._kept[:max_bytes], self._kept[max_bytes:]
            return data
        if not self._waits_here:
            # What has come, and no more than one piece of it, as a pipe.
            return await ask(getattr(self.file, "read1", self.file.read), max_bytes)
        while True:
            fd = self._fd()
            try:
                return os.read(fd, max_bytes)
            except BlockingIOError:
                await self._loop.readable(fd)
            except OSError as error:
                # So a terminal says that nobody has its other end open. Source: Linux, drivers/tty/n_tty.c.
                if error.errno == errno.EIO:
                    return b""
                raise BrokenResourceError from error

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.receive()
        except EndOfStream:
            raise StopAsyncIteration from None


class SendStream(_Stream[Any]):
    """What a resource reads from its standard input. Closing it is an end of file there."""

    async def send(self, item: bytes) -> None:
        """Write all of it, and wait until it is taken. How much was written of one that is cancelled is not known.

        Raises:
            BrokenResourceError: nobody reads it any more.
            ClosedResourceError: it was closed here, maybe meanwhile.
            BusyResourceError: another task is sending.
        """
        await self._begin("sending to")
        try:
            await self._send(memoryview(item))
        except (BrokenPipeError, ConnectionError) as error:
            raise BrokenResourceError from error
        finally:
            self._busy = False

    async def _send(self, left: memoryview) -> None:
        if not self._waits_here:
            await ask(self.file.write, left)
            return
        while left:
            fd = self._fd()
            try:
                left = left[os.write(fd, left) :]
            except BlockingIOError:
                await self._loop.writable(fd)


with suppress(ImportError):
    from anyio.abc import ByteReceiveStream, ByteSendStream

    ByteReceiveStream.register(ReceiveStream)
    ByteSendStream.register(SendStream)
