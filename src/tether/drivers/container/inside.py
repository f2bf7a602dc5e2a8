"""What is done in a container that runs: commands executed in it, files copied into it and out of it."""

from __future__ import annotations

import os
import socket
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tether.drivers.archive import pack, unpack
from tether.drivers.container import limits, streams
from tether.drivers.container.engine import Absent, Engine, Engines
from tether.drivers.container.terminal import ExecTerminal
from tether.errors import DeadlineExceeded, DriverUnavailable, NotFound
from tether.model import Handle

__all__ = ["Inside"]


class Inside:
    """What a driver of containers can do in those that run. See `CanExecute` and `CanCopy`.

    Args:
        engines: those that it talks to.
    """

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def _container(self, handle: Handle) -> str:
        """Return the id of a handle's container."""
        return str(handle.data["container"])

    def execute(
        self,
        handle: Handle,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        user: str | None,
        workdir: str | None,
        sent: bytes,
        timeout_s: float | None,
        heard: Callable[[int, bytes], object] | None = None,
    ) -> tuple[int | None, bytes, bytes]:
        """Execute a command in a container, and return its exit code and what it wrote, as far as ``heard`` did not take it.

        Raises:
            DeadlineExceeded: it goes on after the time limit; nothing was done about it.
            DriverUnavailable: the engine does not answer, or refuses.
            Gone: the container has gone.
        """
        asked = {"environment": dict(env), "user": user or "", "workdir": workdir}
        written = {streams.STDOUT: bytearray(), streams.STDERR: bytearray()}

        def collect(stream: int, data: bytes) -> None:
            written.setdefault(stream, bytearray()).extend(data)

        engine = self._engines.of(handle.data)
        code = _execute(engine, self._container(handle), argv, asked, sent, timeout_s, heard or collect)
        return code, bytes(written[streams.STDOUT]), bytes(written[streams.STDERR])

    def open_terminal(
        self,
        handle: Handle,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        user: str | None,
        workdir: str | None,
        has_input: bool,
    ) -> ExecTerminal:
        """Execute a command with a terminal in a container. See `HasTerminals`. Raises DriverUnavailable, Gone."""
        asked = {"environment": dict(env), "user": user or "", "workdir": workdir}
        engine = self._engines.of(handle.data)
        return ExecTerminal(engine, self._container(handle), argv, asked, has_input=has_input)

    def copy_in(self, handle: Handle, source: bytes | str | os.PathLike[str], path: str) -> None:
        """Copy a file or folder of this machine, or content, to a path of a container.

        Raises:
            OSError: it can't be read here.
            DriverUnavailable: the engine does not answer, or refuses.
            Gone: the container has gone.
        """
        packed = pack(source, path.strip("/"))
        with self._engines.of(handle.data).asked(limits.WORK_S) as client:
            client.put_archive(self._container(handle), "/", packed)

    def copy_out(self, handle: Handle, path: str, target: Path) -> None:
        """Copy a file or folder of a container to a path of this machine; a folder that is there is added to.

        Raises:
            NotFound: there is nothing at that path.
            OSError: it can't be written here.
            DriverUnavailable: the engine does not answer, or refuses; or what it sends is no archive of one file or folder.
        """
        engine = self._engines.of(handle.data)
        try:
            with engine.asked(limits.WORK_S) as client, tempfile.TemporaryFile() as packed:
                chunks, _ = client.get_archive(self._container(handle), path)
                for chunk in chunks:
                    packed.write(chunk)
                packed.seek(0)
                unpack(packed, target)
        except Absent as error:
            raise NotFound(f"there is no {path} in resource {handle.tag}: {error}") from error
        except tarfile.TarError as error:
            raise DriverUnavailable(f"container engine {engine} sent no sound archive of {path}: {error}") from error


def _execute(
    engine: Engine,
    container: str,
    argv: Sequence[str],
    asked: Mapping[str, Any],
    sent: bytes,
    timeout_s: float | None,
    heard: Callable[[int, bytes], object],
) -> int | None:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with engine.asked(limits.WORK_S) as client:
        made = client.exec_create(container, list(argv), stdin=bool(sent), **asked)["Id"]
        if sent and engine.address.certificates:
            raise DriverUnavailable(
                f"container engine {engine} can't be told where the input of {argv[0]} ends: TLS has no way to say it; "
                "use ssh:// or a socket, or copy the input in as a file"
            )
        stream: Any = client.exec_start(made, socket=True)
        attached: socket.socket = getattr(stream, "_sock", stream)
        try:
            attached.settimeout(None)
            # Written apart from reading: both directions may be full.
            writer = threading.Thread(target=_send, args=(attached, sent), name="tether-exec", daemon=True)
            writer.start()
            for which, data in streams.frames(lambda size: _read(attached, size, deadline)):
                heard(which, data)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{argv[0]} goes on in container {container[:12]} after {timeout_s:g} s; nothing ends it but itself, or the end "
                "of the container"
            ) from error
        finally:
            with suppress(OSError):
                attached.shutdown(socket.SHUT_RDWR)
            attached.close()
        code: int | None = client.exec_inspect(made)["ExitCode"]
        return code


def _send(attached: socket.socket, sent: bytes) -> None:
    with suppress(OSError):
        if sent:
            attached.sendall(sent)
            streams.end_input(attached)


def _read(attached: socket.socket, size: int, deadline: float | None) -> bytes:
    """Read exactly so many bytes, fewer at the end. Raises TimeoutError."""
    data = b""
    while len(data) < size:
        if deadline is not None:
            attached.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            chunk = attached.recv(size - len(data))
        except TimeoutError:
            raise
        except OSError:
            break
        if not chunk:
            break
        data += chunk
    return data
