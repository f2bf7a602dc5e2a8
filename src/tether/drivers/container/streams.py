"""Answers of an engine that go on for long, with the socket beneath: so that they can be ended from another thread."""

from __future__ import annotations

import io
import json
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["STDERR", "STDOUT", "Attached", "Stdin", "end_input", "events", "frames", "socket_of"]

_GOING_S = 1.0


def socket_of(client: Any, response: Any) -> socket.socket:
    """Return the socket of an answer that is still coming."""
    # The client's library has no public way to it, and its own stream can't be ended while it waits for the first byte.
    stream = client._get_raw_response_socket(response)  # noqa: SLF001
    found: socket.socket = getattr(stream, "_sock", stream)
    return found


@contextmanager
def events(client: Any, limit_s: float) -> Iterator[tuple[Iterator[bytes], socket.socket]]:
    """Ask for the events about containers: their lines, and the socket. Raises what the client's library does."""
    from docker.errors import create_api_error_from_http_exception
    from requests.exceptions import HTTPError

    # No filter by event: podman 4.3 knows them by other names, and passes nothing on then.
    url = f"{client.base_url}/v{client.api_version}/events"
    wanted = {"filters": json.dumps({"type": ["container"]})}
    with client.get(url, params=wanted, stream=True, timeout=limit_s) as response:
        try:
            response.raise_for_status()
        except HTTPError as error:
            create_api_error_from_http_exception(error)
        yield response.iter_lines(), socket_of(client, response)


_HEADER = struct.Struct(">BxxxL")
STDOUT, STDERR = 1, 2


def frames(read: Callable[[int], bytes]) -> Iterator[tuple[int, bytes]]:
    """Take apart what an engine sends of several streams in one: pairs of stream and bytes.

    Source: the Engine API, "Stream format" of the endpoint that attaches: eight bytes of header, then so many bytes as it says.

    Args:
        read: returns exactly so many bytes, fewer at the end.
    """
    while len(header := read(_HEADER.size)) == _HEADER.size:
        stream, length = _HEADER.unpack(header)
        data = read(length)
        yield stream, data
        if len(data) < length:
            return


def end_input(attached: socket.socket) -> None:
    """Say that nothing more comes, while the other direction stays open. TLS has no way to say that, so there it is not said."""
    if not isinstance(attached, ssl.SSLSocket):
        with suppress(OSError):
            attached.shutdown(socket.SHUT_WR)


class Stdin(io.RawIOBase):
    """The pipe to a container's standard input. To close it is an end of file there; its output still comes.

    Args:
        attached: the socket of the engine.
    """

    def __init__(self, attached: socket.socket) -> None:
        self._socket = attached

    def writable(self) -> bool:
        """It is for writing."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def write(self, data: Any) -> int:
        """Write all of it. Raises BrokenPipeError if the container has ended."""
        if self.closed:
            raise ValueError("write to a closed stream")
        self._socket.sendall(data)
        return memoryview(data).nbytes

    def close(self) -> None:
        """Say that nothing more comes."""
        if not self.closed:
            end_input(self._socket)
        super().close()


class Attached:
    """The standard streams of a container, attached before it starts.

    Attributes:
        stdin, stdout: for the user; what it writes to its standard error is in its log.

    Args:
        client: the engine's.
        container: its id.
    """

    def __init__(self, client: Any, container: str) -> None:
        asked = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        # The answer owns the socket, and would close it if it were collected.
        self._stream = client.attach_socket(container, params=asked)
        self._socket: socket.socket = getattr(self._stream, "_sock", self._stream)
        self._socket.settimeout(None)
        ours, its = os.pipe()
        self.stdin = Stdin(self._socket)
        self.stdout = open(ours, "rb")  # noqa: SIM115, PTH123 - a descriptor, which the user closes
        self._thread = threading.Thread(target=self._pass_on, args=(its,), name="tether-attached", daemon=True)
        self._thread.start()

    def _pass_on(self, its: int) -> None:
        with suppress(OSError), self._socket.makefile("rb") as coming, open(its, "wb", buffering=0) as pipe:
            for stream, data in frames(coming.read):
                if stream == STDOUT:
                    pipe.write(data)

    def close(self) -> None:
        """Let go of the engine; what has come can still be read."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.stdin.close()
        self.stdout.close()
        self._thread.join(_GOING_S)
        with suppress(OSError):
            self._socket.close()
