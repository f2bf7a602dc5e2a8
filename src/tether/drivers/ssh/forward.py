"""A port of this machine that leads to one of another host, by whichever of its loopback addresses a server listens on there."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncssh

__all__ = ["Forward", "refusal"]

_PIECE = 1 << 18
_THERE = ("127.0.0.1", "::1")


async def refusal(connection: asyncssh.SSHClientConnection, port: int) -> str:
    """Return why the sshd there forwards nothing to a port; empty if it would. Raises OSError."""
    import asyncssh

    try:
        _, writer = await connection.open_connection(_THERE[0], port, encoding=None)
        writer.close()
    except asyncssh.ChannelOpenError as error:
        if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            return f"its sshd refuses to forward ports ({error.reason}); see AllowTcpForwarding and PermitOpen in sshd_config there"
    return ""


class Forward:
    """One forwarded port.

    Attributes:
        port: of this machine.
        refused: why the last connection could not be made there; empty if it could.

    Args:
        connection: to the host.
        inside: the port there.
    """

    def __init__(self, connection: asyncssh.SSHClientConnection, inside: int) -> None:
        self.port = 0
        self.refused = ""
        self._connection = connection
        self._inside = inside
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self, outside: int) -> None:
        """Listen on a port of 127.0.0.1, 0 for a free one. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", outside)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Listen no more, and close what is open."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            there = await self._connect()
            if there is not None:
                far_reader, far_writer = there
                await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
                far_writer.close()
        finally:
            self._open.discard(writer)
            writer.close()

    async def _connect(self) -> tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]] | None:
        import asyncssh

        for address in _THERE:
            try:
                found = await self._connection.open_connection(address, self._inside, encoding=None)
            except asyncssh.ChannelOpenError as error:
                self.refused = f"port {self._inside} there: {error.reason or 'the connection was refused'}"
                if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
                    self.refused = f"its sshd refuses to forward to port {self._inside} there: {error.reason}"
                continue
            except (OSError, asyncssh.Error) as error:
                self.refused = str(error)
                return None
            self.refused = ""
            return found
        return None


async def _pump(
    reader: asyncio.StreamReader | asyncssh.SSHReader[bytes],
    writer: asyncio.StreamWriter | asyncssh.SSHWriter[bytes],
) -> None:
    import asyncssh

    with contextlib.suppress(OSError, asyncssh.Error):
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, asyncssh.Error):
        if writer.can_write_eof():
            writer.write_eof()
