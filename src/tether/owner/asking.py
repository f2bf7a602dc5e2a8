"""Asking a living owner to clean up one of its plugins, from another process: only the plugin knows how.

The owner listens on a socket in the state directory's ``run`` folder, which its user alone can enter; who connects is checked
besides. One request and one answer a connection, each a line of JSON.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.errors import DeadlineExceeded, Gone, PluginError

__all__ = ["Answer", "Near", "end_plugin", "is_allowed", "listen", "path_of", "receive", "send"]

_LONGEST = 1 << 20


def path_of(state_dir: Path, owner: str) -> Path:
    """Return where the owner with this id listens, while it has plugins."""
    return state_dir / "run" / f"{owner}.ask"


@dataclass(frozen=True)
class Answer:
    """What came of it.

    Attributes:
        plugin: its name.
        errors: what could not be done, a sentence each; empty if all was.
        left: the pids of its that are still there.
        note: in words, what was seen.
    """

    plugin: str
    errors: tuple[str, ...]
    left: tuple[int, ...]
    note: str

    @property
    def ended(self) -> bool:
        """Whether nothing of it was seen to be left, and nothing went wrong."""
        return not self.errors and not self.left


def end_plugin(
    state_dir: Path, owner: str, plugin: str, *, force: bool = False, timeout: float | None = 120.0
) -> Answer:
    """Have a living owner clean up a plugin, and return when it has.

    Args:
        state_dir: the state directory of both.
        owner: the owner's id.
        plugin: the plugin's name, or the id of its row.
        force: kill what a `ManagedPlugin` runs; else it ends by its own specs.
        timeout: seconds until an answer must have come; None to wait for ever.

    Raises:
        Gone: the owner does not listen: it has ended, or has no plugin any more.
        PluginError: the owner has no such plugin.
        DeadlineExceeded: no answer came in time; the owner goes on with it.
    """
    path = path_of(state_dir, owner)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            with Near(path) as near:
                connection.connect(near)
            send(connection, {"do": "end plugin", "plugin": plugin, "force": force, "pid": os.getpid()})
            answer = receive(connection)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"plugin {plugin}: its owner has not answered within {timeout:g} s, and goes on cleaning it up"
            ) from error
        except (OSError, ValueError) as error:
            raise Gone(
                f"plugin {plugin}: its owner does not answer ({error}): it has ended, or was shut down just now; see 'tether ps'"
            ) from error
    if answer.get("unknown"):
        raise PluginError(
            f"plugin {plugin} is not registered with that owner; it has: {answer['unknown']}", plugin=plugin
        )
    return Answer(answer["plugin"], tuple(answer["errors"]), tuple(answer["left"]), answer["note"])


class Near:
    """A path of a socket that is short enough for the kernel (107 bytes), however deep the state directory is."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._name = path.name

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._fd}/{self._name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def listen(path: Path) -> socket.socket:
    """Return a listening socket at ``path``, which nobody but this user can connect to. Raises OSError."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with Near(path) as near:
            listener.bind(near)
            path.chmod(0o600)
        listener.listen(16)
    except BaseException:
        listener.close()
        raise
    return listener


def is_allowed(connection: socket.socket) -> bool:
    """Whether who connected is this user, or root. Source: unix(7), SO_PEERCRED."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return uid in (0, os.geteuid())


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send one message. Raises OSError."""
    connection.sendall(json.dumps(message).encode() + b"\n")


def receive(connection: socket.socket) -> dict[str, Any]:
    """Receive one message. Raises OSError, and ValueError for what is none."""
    data = bytearray()
    while not data.endswith(b"\n"):
        chunk = connection.recv(65536)
        if not chunk:
            raise ValueError("the connection was closed without an answer")
        data += chunk
        if len(data) > _LONGEST:
            raise ValueError("a message of over a megabyte")
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")  # noqa: TRY004 - what came is wrong, not what was passed
    return message
