"""Servers that somebody else runs: probed, shown, and never ended."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

from tether.drivers import Context
from tether.errors import SpecError
from tether.life.machine import Reached, Unreachable
from tether.life.probes import Target
from tether.model import Handle, OnDeath, Progress, Ready, State, Status, Usage
from tether.protocol import PluginExecutionMode
from tether.spec import SpecBase

__all__ = ["Service", "ServiceDriver"]

_VERSION = 1
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ONE_TRY_S = 5.0


@dataclass(frozen=True)
class Service(SpecBase):
    """A server that somebody else runs.

    Args:
        url: where it answers: "http://host:port", "https://host" or "tcp://host:port".
        name: what it is called here; by default made from the host.
        health: the path that is asked whether it lives, for HTTP: a status below 400 is a yes.
        ready: another readiness probe than that, for instance ``call(function)``; its time limit is how long a start waits.
        check_every: seconds between two looks at its health while it is in use.
        needs: as for `Process`.

    It is LOST while it does not answer, and READY again when it does. Its end is only that it is let go of.

    Raises:
        SpecError: the url can't be one, or has a password in it.
    """

    url: str
    name: str | None = None
    health: str = "/"
    ready: Ready | None = None
    check_every: float = 5.0
    needs: Sequence[str] | None = None
    on_death: OnDeath | None = field(default=None, init=False)
    keep_for: float = field(default=1.0, init=False)
    stop_grace: float = field(default=0.0, init=False)
    kind: str = field(default="service", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right."""
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
        except (ValueError, AttributeError) as error:
            raise SpecError(f"{self.url!r} is no address of a service: {error}") from error
        if parts.password is not None:
            raise SpecError("a service's url is recorded, so it can't have a password in it; leave that to who uses it")
        if parts.scheme not in ("http", "https", "tcp") or not host or port is None:
            raise SpecError(
                f"{self.url!r} is no address of a service; write http://host:port, https://host or tcp://host:port"
            )
        if not self.health.startswith("/"):
            raise SpecError(f"health={self.health!r} must be a path that begins with '/'")
        if not self.check_every > 0:
            raise SpecError(f"check_every={self.check_every!r} must be more than 0 seconds")
        if self.ready is None:
            object.__setattr__(self, "ready", Ready("health", None, 30.0))
        elif self.ready.kind == "log":
            raise SpecError("a service's log is not to be seen from here; use another probe")
        self._check_common()

    @property
    def default_name(self) -> str:
        """The host."""
        return urlsplit(self.url).hostname or self.kind

    @property
    def stays_up(self) -> bool:
        """It is a server."""
        return True

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger: the url without its query, which may be a token."""
        return {"url": _bare(self.url), "health": self.health, "stays_up": True}


def _bare(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


class ServiceDriver:
    """See `tether.drivers.Driver`. The handle has the url and the path of its health."""

    kind: ClassVar[str] = "service"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.EXTERNAL_SERVICE})
    has_pids: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self._watched: dict[str, threading.Event] = {}

    def start(self, spec: Service, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Begin to watch it; whether it answers, the probe of its start will tell."""
        handle = Handle(self.kind, tag, {"url": _bare(spec.url), "health": spec.health}, _VERSION)
        let_go = self._watched[tag] = threading.Event()
        threading.Thread(
            target=self._watch, args=(handle, spec.check_every, let_go), name=f"tether-service-{tag}", daemon=True
        ).start()
        return handle

    def _watch(self, handle: Handle, pause_s: float, let_go: threading.Event) -> None:
        """Say when its health changes. The probe of its start has the first word."""
        lost = False
        while not let_go.wait(pause_s):
            missing = look(handle.data["url"], handle.data["health"])
            if bool(missing) != lost:
                lost = bool(missing)
                self._context.emit(handle.tag, Unreachable(missing) if lost else Reached())

    def find(self, tag: str) -> list[Handle]:
        """Return nothing: nothing is created for a service."""
        return []

    def inspect(self, handle: Handle) -> Status:
        """Ask for its health once."""
        missing = look(handle.data["url"], handle.data["health"])
        return Status(State.LOST, reason=missing) if missing else Status(State.READY)

    def stop(self, handle: Handle, grace: float) -> None:
        """Let go of it."""
        self.destroy(handle)

    def destroy(self, handle: Handle) -> None:
        """Let go of it."""
        let_go = self._watched.pop(handle.tag, None)
        if let_go is not None:
            let_go.set()

    def usage(self, handle: Handle) -> Usage:
        """Nothing is known of what it uses."""
        return Usage()

    def url(self, handle: Handle) -> str | None:
        """Return its url."""
        return str(handle.data["url"])

    def target(self, handle: Handle) -> Target:
        """Probe it where it is; its own health is what `healthy` asks for."""
        parts = urlsplit(handle.data["url"])
        return Target(
            host=parts.hostname or "",
            port=parts.port or _DEFAULT_PORTS.get(parts.scheme),
            health=lambda: look(handle.data["url"], handle.data["health"]),
        )

    def is_attached(self, handle: Handle) -> bool:
        """It always was there before."""
        return True


def look(url: str, health: str) -> str:
    """Ask a service for its health once, and return what is missing; empty if nothing is."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    try:
        if parts.scheme == "tcp":
            import socket

            socket.create_connection((host, port), _ONE_TRY_S).close()
            return ""
        connection = (
            HTTPSConnection(host, port, timeout=_ONE_TRY_S, context=ssl.create_default_context())
            if parts.scheme == "https"
            else HTTPConnection(host, port, timeout=_ONE_TRY_S)
        )
        try:
            connection.request("GET", health if health != "/" else parts.path or "/")
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, HTTPException) as error:
        return f"{url} does not answer: {type(error).__name__}: {error}"
    return "" if status < 400 else f"GET {health} of {url} answered {status}"
