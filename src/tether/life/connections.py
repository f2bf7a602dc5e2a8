"""Connects to a server, with one limit for all of it: its name, and each of its addresses."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

__all__ = ["connect", "left"]


def left(deadline: float) -> float:
    """Return the seconds up to a moment of `time.monotonic`. Raises TimeoutError if it is over."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def connect(hosts: Sequence[str], port: int, deadline: float) -> tuple[socket.socket, str]:
    """Connect to the first of some hosts that accepts, and return the connection with that host. Raises OSError."""
    failed: OSError = OSError("it has no address")
    addresses = [(host, *found) for host in hosts for found in _addresses(host.strip("[]"), port, deadline)]
    for number, (host, family, address) in enumerate(addresses):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            # One that swallows everything leaves the others their share.
            sock.settimeout(left(deadline) / (len(addresses) - number))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failed = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock, host
    raise failed


def _addresses(host: str, port: int, deadline: float) -> list[tuple[socket.AddressFamily, Any]]:
    """Resolve a name; in a thread of its own, for nothing else can end that in time. Raises OSError."""
    if not any(character.isalpha() for character in host) or ":" in host:
        return _resolved(host, port)
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def resolve() -> None:
        try:
            answers.put(_resolved(host, port))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=resolve, name="tether-resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=left(deadline))
    except queue.Empty:
        raise TimeoutError("its name is not resolved in time") from None
    if isinstance(answer, OSError):
        raise answer
    return list(answer)


def _resolved(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    try:
        return [(each[0], each[4]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except UnicodeError:
        raise OSError("no host can have such a name") from None
