"""Where an owner hears that somebody outside wants a resource restarted: only the owner has the values of its environment.

It is one more socket that the owner's watching thread waits for: it costs nothing until somebody comes. Otherwise as
`tether.owner.asking`, whose messages these are.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

from tether import threads
from tether.errors import DeadlineExceeded, Gone, StartError, TetherError
from tether.owner import asking

__all__ = ["Door", "path_of", "restart"]

_log = logging.getLogger("tether")

_REQUEST_LIMIT_S = 10.0
_RESTART_LIMIT_S = 600.0


def path_of(state_dir: Path, owner: str) -> Path:
    """Return where the owner with this id hears, once it has started something."""
    return state_dir / "run" / f"{owner}.restart"


class Door:
    """The owner's side.

    Args:
        path: of the socket.
        restart: restarts the resource with an id, and returns its pid if it has one. Raises TetherError.
    """

    def __init__(self, path: Path, restart: Callable[[str], int | None]) -> None:
        self._path = path
        self._restart = restart
        self._is_open = False

    def open(self, watch: Callable[[socket.socket, Callable[[], bool]], None]) -> None:
        """Hear from now on, if not already. An owner that can't be asked is one all the same."""
        if self._is_open:
            return
        self._is_open = True
        try:
            listener = asking.listen(self._path)
            watch(listener, lambda: self._accept(listener))
        except (OSError, TetherError) as error:
            _log.debug("%s: nobody can ask from outside: %s", self._path, error)

    def close(self) -> None:
        """Take the socket away; the watching thread closes it at its own end."""
        if self._is_open:
            self._path.unlink(missing_ok=True)

    def _accept(self, listener: socket.socket) -> bool:
        """Answer in a thread of its own: a restart takes its time, and the watching thread has none."""
        try:
            connection, _ = listener.accept()
        except OSError:
            return True
        if not threads.begin(lambda: self._serve(connection), "tether-restart"):
            # No thread can be made: who asked sees the connection closed, and says so.
            connection.close()
        return True

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                if not asking.is_allowed(connection):
                    return
                connection.settimeout(_REQUEST_LIMIT_S)
                tag = str(asking.receive(connection).get("restart"))
                try:
                    answer: dict[str, object] = {"pid": self._restart(tag)}
                except TetherError as error:
                    answer = {"error": str(error)}
                asking.send(connection, answer)
            except (OSError, ValueError) as error:
                _log.warning("%s: what was asked from outside could not be answered: %s", self._path, error)


def restart(state_dir: Path, owner: str, tag: str, name: str) -> int | None:
    """Have a living owner restart a resource, and return its new pid when it is ready.

    Args:
        state_dir: the state directory of both.
        owner: the owner's id.
        tag: the resource's id.
        name: the resource's name, for messages.

    Raises:
        Gone: the owner does not hear.
        StartError: it did not come up; the message says why.
        DeadlineExceeded: no answer came in time; the owner goes on with it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_RESTART_LIMIT_S)
        try:
            with asking.Near(path_of(state_dir, owner)) as near:
                connection.connect(near)
            asking.send(connection, {"restart": tag, "pid": os.getpid()})
            answer = asking.receive(connection)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"resource {name}: its owner has not answered within {_RESTART_LIMIT_S:g} s, and goes on restarting it"
            ) from error
        except (OSError, ValueError) as error:
            raise Gone(f"resource {name} can't be restarted from here: its owner does not hear ({error})") from error
    if "error" in answer:
        raise StartError(f"resource {name} could not be restarted: {answer['error']}", resource=name)
    pid = answer.get("pid")
    return pid if isinstance(pid, int) else None
