"""When a resource counts as ready, and how that is found out.

A probe of a process proves identity too: it passes only if the socket that listens on the port belongs to a member of the tree. An
orphan of yesterday that answers 200 on the old port fools nobody.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tether.errors import SpecError, TetherError
from tether.linux import sockets
from tether.model import Ready

__all__ = ["FOREIGN", "Target", "call", "healthy", "http", "log", "passes", "tcp"]

_ONE_TRY_S = 2.0

FOREIGN = "is held by a process outside its tree"
"""What a probe says when somebody else listens on the port."""


@dataclass(frozen=True)
class Target:
    """What is probed.

    Attributes:
        host, port: where it listens; port None for what has none.
        missing: says what is missing before a connection is tried, where that is not to be seen in this machine's socket tables.
        direct: where a connection is tried instead, if what listens at the port may be somebody's proxy.
        pids: lists the live members of its tree; None if it is no process tree of this machine.
        log: returns its output.
        health: says what is missing by its own health check, empty for nothing; None if it has no such check.
        subject: what a `call` probe is called with.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    missing: Callable[[], str] | None = None
    direct: tuple[str, int] | None = None
    pids: Callable[[], tuple[int, ...]] | None = None
    log: Callable[[], bytes] = bytes
    health: Callable[[], str] | None = None
    subject: Any = None


def http(path: str = "/", *, timeout: float = 60.0) -> Ready:
    """Ready when a GET of ``path`` on the resource's port answers with a status below 400, within ``timeout`` seconds."""
    if not isinstance(path, str) or not path.startswith("/"):
        raise SpecError(f"http() takes a path that begins with '/', not {path!r}")
    return Ready("http", path, timeout)


def tcp(*, timeout: float = 60.0) -> Ready:
    """Ready when the resource's port accepts a connection, within ``timeout`` seconds."""
    return Ready("tcp", None, timeout)


def log(pattern: str, *, timeout: float = 60.0) -> Ready:
    """Ready when the regular expression ``pattern`` is found in the resource's log, within ``timeout`` seconds."""
    try:
        compiled = re.compile(pattern.encode(), re.MULTILINE)
    except (re.error, AttributeError) as error:
        raise SpecError(f"log() takes a regular expression, and {pattern!r} is none: {error}") from error
    return Ready("log", compiled, timeout)


def healthy(*, timeout: float = 60.0) -> Ready:
    """Ready when the health check of a container's image says "healthy", within ``timeout`` seconds."""
    return Ready("health", None, timeout)


def call(function: Callable[[Any], Any], *, timeout: float = 60.0) -> Ready:
    """Ready when ``function(resource)`` returns something true, within ``timeout`` seconds; an exception is a "not yet"."""
    if not callable(function):
        raise SpecError(f"call() takes a function, not {function!r}")
    return Ready("call", function, timeout)


def _stranger(target: Target) -> str:
    """Say that somebody else holds the port; empty if nobody listens, or a member does."""
    if target.port is None or target.pids is None:
        return ""
    inodes = sockets.listening_inodes(target.port)
    if inodes and not sockets.holds_socket(target.pids(), inodes):
        return f"port {target.port} {FOREIGN}"
    return ""


def _listens(target: Target) -> str:
    """Say why the port is not the resource's yet; empty if it is."""
    if target.missing is not None:
        try:
            return target.missing()
        except TetherError as error:
            return str(error)
    if target.pids is None:
        return ""
    if not sockets.listening_inodes(target.port or 0):
        return f"nothing listens on port {target.port}"
    return _stranger(target)


def _tcp(_: Ready, target: Target) -> str:
    missing = _listens(target)
    if missing:
        return missing
    host, port = target.direct or (target.host, target.port or 0)
    try:
        socket.create_connection((host, port), _ONE_TRY_S).close()
    except OSError as error:
        return f"no connection to {host}:{port}: {error}"
    return ""


def _http(ready: Ready, target: Target) -> str:
    missing = _listens(target)
    if missing:
        return missing
    # With what it needs it takes longer to import than all of the rest, and most owners probe nothing by HTTP.
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(target.host, target.port, timeout=_ONE_TRY_S)
    try:
        connection.request("GET", ready.target)
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"GET {ready.target} on port {target.port}: {type(error).__name__}: {error}"
    finally:
        connection.close()
    return "" if status < 400 else f"GET {ready.target} on port {target.port} answered {status}"


def _log(ready: Ready, target: Target) -> str:
    try:
        text = target.log()
    except (OSError, TetherError) as error:
        return f"its log can't be read: {error}"
    return "" if ready.target.search(text) else f"{ready.target.pattern.decode()!r} is not in its log"


def _health(_: Ready, target: Target) -> str:
    return target.health() if target.health is not None else "it has no health check"


def _call(ready: Ready, target: Target) -> str:
    try:
        answer = ready.target(target.subject)
    except Exception as error:
        return f"{ready.target!r} raised {type(error).__name__}: {error}"
    return "" if answer else f"{ready.target!r} returned {answer!r}"


_PROBES: dict[str, Callable[[Ready, Target], str]] = {
    "tcp": _tcp,
    "http": _http,
    "log": _log,
    "call": _call,
    "health": _health,
}


def passes(ready: Ready, target: Target) -> str:
    """Probe once; empty if the resource is ready, else what is missing, in words."""
    return _PROBES[ready.kind](ready, target)
