"""Asks a server by HTTP, with one limit for all of it: name, connection, TLS, request and answer, however that trickles in."""

from __future__ import annotations

import io
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote

from tether.life.connections import connect, left
from tether.life.probes import Asked
from tether.redaction import redact_text

__all__ = ["ask", "context"]

_MOST_OF_A_BODY = 1 << 20
_MOST_SAID = 200
_IN_A_PATH = "/?&=%:;,@!$'()*+~#[]-._|^{}\"<>\\`"
"""What is sent as it is; quote() leaves letters and digits alone."""


def context(asked: Asked) -> ssl.SSLContext:
    """Return how a server's certificate is checked. Raises OSError if the authorities can't be read."""
    made = ssl.create_default_context(cafile=asked.ca_file)
    if not asked.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made


class _Answer(io.RawIOBase):
    """What a connection brings, none of it after the deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(left(self._deadline))
        return self._sock.recv_into(buffer)


class _Line:
    """A connection as http.client takes one."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(left(self._deadline))
        self._sock.sendall(data)

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_Answer(self._sock, self._deadline))

    def close(self) -> None:
        """Leave that to who connected: an answer may still be read when http.client has no more use for the connection."""


def ask(
    asked: Asked, hosts: Sequence[str], port: int, *, tls: ssl.SSLContext | None, limit_s: float
) -> tuple[str, str]:
    """Ask once.

    Args:
        asked: what.
        hosts: addresses of the server, of which the first that accepts a connection is asked.
        port: its port.
        tls: how its certificate is checked; None for a server without TLS.
        limit_s: the time limit for all of it.

    Returns:
        What is missing, empty for nothing, and the host that accepted the connection.
    """
    question = f"{asked.method} {asked.shown_path} on port {port}"
    deadline = time.monotonic() + limit_s
    host = ""
    try:
        sock, host = connect(hosts, port, deadline)
        with sock:
            if tls is not None:
                sock.settimeout(left(deadline))
                sock = tls.wrap_socket(sock, server_hostname=host.strip("[]"))
            with sock:
                return _answered(
                    asked, question, HTTPConnection(host, port), _Line(sock, deadline), tls is not None
                ), host
    except TimeoutError as error:
        return (
            f"{question} does not answer: nothing whole within {limit_s:.3g} s{f', {error}' if str(error) else ''}",
            host,
        )
    except (OSError, HTTPException, ValueError) as error:
        said = redact_text(f"{type(error).__name__}: {error}")[:_MOST_SAID]
        return f"{question} does not answer: {said}", host


def _answered(asked: Asked, question: str, connection: HTTPConnection, line: _Line, by_tls: bool) -> str:
    connection.sock = line
    connection.auto_open = 0
    if by_tls:
        # Else the header Host names the port that everybody means.
        connection.default_port = 443
    connection.request(asked.method, quote(asked.path, safe=_IN_A_PATH), body=asked.body, headers=dict(asked.headers))
    with connection.getresponse() as response:
        if not _says_yes(asked.takes, response.status):
            wanted = sorted(asked.status) if isinstance(asked.status, frozenset) else []
            return f"{question} answered {response.status}" + (
                f", not {' or '.join(map(str, wanted))}" if wanted else ""
            )
        if asked.expects is None:
            return ""
        body = response.read(_MOST_OF_A_BODY)
    is_fine = _says_yes(asked.expects if callable(asked.expects) else asked.expects.search, body)
    return "" if is_fine else f"{question} answered {response.status}, with another body than is expected"


def _says_yes(function: Callable[[Any], Any], value: object) -> bool:
    """Ask a function that may be the user's: what it can't cope with is a "not yet", as with `call`."""
    try:
        return bool(function(value))
    except Exception:
        return False
