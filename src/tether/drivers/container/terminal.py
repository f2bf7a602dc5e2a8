"""A command in a container that has a terminal there, which somebody here types at."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tether.drivers.container import limits
from tether.drivers.container.engine import Engine
from tether.errors import DriverUnavailable, Gone

__all__ = ["ExecTerminal"]

_CHUNK = 65536
_RESIZES, _PAUSE_S = 20, 0.05


class ExecTerminal:
    """See `tether.drivers.FarTerminal`. The command goes on in the container when this is closed, as its engine has it.

    Args:
        engine: the container's.
        container: its id.
        argv: the command.
        asked: how it is to be executed, as the engine calls it.
        has_input: whether what is typed is passed on.

    Raises:
        DriverUnavailable: the engine does not answer, or refuses.
        Gone: the container has gone.
    """

    def __init__(
        self, engine: Engine, container: str, argv: Sequence[str], asked: Mapping[str, Any], *, has_input: bool
    ) -> None:
        self._engine = engine
        with engine.asked(limits.WORK_S) as client:
            self._id = client.exec_create(container, list(argv), tty=True, stdin=has_input, **asked)["Id"]
            # The answer owns the socket, and would close it if it were collected.
            stream: Any = client.exec_start(self._id, tty=True, socket=True)
        self._stream = stream
        self._socket: socket.socket = getattr(stream, "_sock", stream)
        self._socket.settimeout(None)

    def read(self) -> bytes:
        """Wait for what the terminal shows next; empty when the command has ended."""
        try:
            return self._socket.recv(_CHUNK)
        except OSError:
            return b""

    def write(self, data: bytes) -> None:
        """Type something; what comes after its end is lost."""
        with suppress(OSError):
            self._socket.sendall(data)

    def resize(self, rows: int, columns: int) -> None:
        """Say how large the terminal is by now; a command that has ended does not mind."""
        for _ in range(_RESIZES):
            try:
                with self._engine.asked() as client:
                    client.exec_resize(self._id, height=rows, width=columns)
                return
            except (DriverUnavailable, Gone):
                # The engine has said yes to a command that it is only just executing: there is no terminal yet.
                with suppress(DriverUnavailable, Gone):
                    if self.exit_code() is not None:
                        return
            time.sleep(_PAUSE_S)

    def exit_code(self) -> int | None:
        """Return how the command ended; None while it goes on. Raises DriverUnavailable, Gone."""
        with self._engine.asked() as client:
            code: int | None = client.exec_inspect(self._id)["ExitCode"]
            return code

    def close(self) -> None:
        """Let go of it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
