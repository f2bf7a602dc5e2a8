"""Servers that somebody else runs: probed, shown, and never ended."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from urllib.parse import urlsplit

from tether.drivers import Context
from tether.errors import SpecError
from tether.life import looks
from tether.life.addresses import bare
from tether.life.machine import Reached, Unreachable
from tether.life.probes import Target, http, tcp
from tether.model import Handle, OnDeath, Progress, Ready, State, Status, Usage
from tether.protocol import PluginExecutionMode
from tether.redaction import redact_text
from tether.spec import SpecBase

__all__ = ["Service", "ServiceDriver"]

_VERSION = 2
_DEFAULT_PORTS = {"http": 80, "https": 443}
_START_S = 30.0
_LOOK_S = 5.0


@dataclass(frozen=True, repr=False)
class Service(SpecBase):
    """A server that somebody else runs.

    Args:
        url: where it answers: "http://host:port", "https://host" or "tcp://host:port".
        name: what it is called here; by default made from the host.
        health: the path that is asked whether it lives, for HTTP: a status below 400 is a yes. By default that of the url.
        ready: another probe than that, for instance ``http("/up", headers=..., ca_file=..., status=204)``; its time limit is how
            long a start waits. It is what is asked afterwards as well, unless ``health`` says something else.
        check_every: seconds between two looks at its health while it is in use.
        misses: how many looks in a row must fail before it is LOST.
        needs: as for `Process`.

    It is LOST while it does not answer, and READY again when it does. Its end is only that it is let go of. Its address is shown
    and recorded without its query; a user or password goes into headers.

    Raises:
        SpecError: the url can't be one, or has a user or password in it.
    """

    url: str
    name: str | None = None
    health: str | None = None
    ready: Ready | None = None
    check_every: float = 5.0
    misses: int = 1
    needs: Sequence[str] | None = None
    on_death: OnDeath | None = field(default=None, init=False)
    keep_for: float = field(default=1.0, init=False)
    stop_grace: float = field(default=0.0, init=False)
    kind: str = field(default="service", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right."""
        scheme = _checked(self.url)
        if self.health is not None and (not isinstance(self.health, str) or not self.health.startswith("/")):
            raise SpecError(f"health={redact_text(repr(self.health))} must be a path that begins with '/'")
        if not self.check_every > 0:
            raise SpecError(f"check_every={self.check_every!r} must be more than 0 seconds")
        if isinstance(self.misses, bool) or not isinstance(self.misses, int) or self.misses < 1:
            raise SpecError(f"misses={self.misses!r} must be 1 or more looks")
        if self.health is not None or self.ready is None:
            # What the path can't be is refused now.
            _ = self.own_probe
        if self.ready is None:
            object.__setattr__(self, "ready", Ready("health", None, _START_S))
        elif self.ready.first_of("log"):
            raise SpecError("a service's log is not to be seen from here; use another probe")
        elif scheme != "https" and self.ready.by_tls:
            raise SpecError(f"ready={self.ready!r} asks by https, and the service is at {self.address}")
        self._check_common()

    @property
    def own_probe(self) -> Ready:
        """What asks for its health where nothing else is said."""
        parts = urlsplit(self.url)
        if parts.scheme == "tcp":
            return tcp()
        query = f"?{parts.query}" if parts.query else ""
        return http(self.health or f"{parts.path or '/'}{query}")

    @property
    def alive(self) -> Ready:
        """What is asked whether it lives, once it was ready."""
        wanted = self.ready
        return self.own_probe if wanted is None or wanted.kind == "health" or self.health is not None else wanted

    @property
    def address(self) -> str:
        """Where it answers, as it may be shown and recorded."""
        return _bare(self.url)

    def __repr__(self) -> str:
        """Show it without what its address and paths may hold of secrets."""
        health = None if self.health is None else self.health.partition("?")[0]
        return SpecBase.__repr__(replace(self, url=self.address, health=health))

    @property
    def default_name(self) -> str:
        """The host, as it is looked up."""
        return (urlsplit(self.url).hostname or self.kind).encode("idna").decode("ascii")

    @property
    def stays_up(self) -> bool:
        """It is a server."""
        return True

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger: no query, which may be a token."""
        return {"url": self.address, "health": self.alive.kind, "stays_up": True}


def _checked(url: str) -> str:
    """Return the scheme of an address, or raise SpecError. What is refused is not repeated: it may have a secret anywhere."""
    wanted = "write http://host:port, https://host or tcp://host:port"
    if not isinstance(url, str):
        raise SpecError(f"a {type(url).__name__} is no address of a service; {wanted}")
    _, separator, behind = url.partition("://")
    if "@" in (re.split(r"[/?#]", behind, maxsplit=1)[0] if separator else url):
        raise SpecError(
            "a service's address is recorded, so it can't have a user or password in it; send them: "
            'ready=http(headers={"Authorization": ...})'
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
        # As it is looked up: not every label that a person may write can be one.
        host.encode("idna")
        url.encode()
    except ValueError:
        raise SpecError(f"this is no address of a service, its host or port can't be one; {wanted}") from None
    if parts.scheme not in ("http", "https", "tcp") or not host or port is None:
        raise SpecError(f"{redact_text(bare(url).partition('?')[0])!r} is no address of a service; {wanted}")
    return parts.scheme


def _bare(url: str) -> str:
    return redact_text(bare(url)).rstrip("/")


class ServiceDriver:
    """See `tether.drivers.Driver`. The handle has the address; what else is asked with stays in this process."""

    kind: ClassVar[str] = "service"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.EXTERNAL_SERVICE})
    has_pids: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self._specs: dict[str, Service] = {}
        self._watched: dict[str, threading.Event] = {}

    def start(self, spec: Service, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Begin to watch it; whether it answers, the probe of its start will tell."""
        handle = Handle(self.kind, tag, {"url": spec.address}, _VERSION)
        let_go = self._watched[tag] = threading.Event()
        self._specs[tag] = spec
        threading.Thread(
            target=self._watch, args=(handle, spec, let_go), name=f"tether-service-{tag}", daemon=True
        ).start()
        return handle

    def _watch(self, handle: Handle, spec: Service, let_go: threading.Event) -> None:
        """Say when its health changes. The probe of its start has the first word."""
        lost = False
        missed = 0
        look = None
        while not let_go.wait(spec.check_every):
            look = look or looks.begin(spec.alive, self._subject_of(handle))
            missing = look(_LOOK_S).missing
            missed = missed + 1 if missing else 0
            if (missed >= spec.misses) if not lost else not missing:
                lost = not lost
                self._context.emit(handle.tag, Unreachable(f"{spec.address}: {missing}") if lost else Reached())

    def _subject_of(self, handle: Handle) -> Target:
        return replace(self.target(handle), subject=self._context.subject(handle.tag))

    def find(self, tag: str) -> list[Handle]:
        """Return nothing: nothing is created for a service."""
        return []

    def inspect(self, handle: Handle) -> Status:
        """Ask for its health once; who does not own it only looks whether it accepts connections."""
        spec = self._specs.get(handle.tag)
        look = looks.begin(tcp() if spec is None else spec.alive, self._subject_of(handle))
        missing = look(_LOOK_S).missing
        return Status(State.LOST, reason=f"{handle.data['url']}: {missing}") if missing else Status(State.READY)

    def stop(self, handle: Handle, grace: float) -> None:
        """Let go of it."""
        self.destroy(handle)

    def destroy(self, handle: Handle) -> None:
        """Let go of it."""
        self._specs.pop(handle.tag, None)
        let_go = self._watched.pop(handle.tag, None)
        if let_go is not None:
            let_go.set()

    def usage(self, handle: Handle) -> Usage:
        """Nothing is known of what it uses."""
        return Usage()

    def url(self, handle: Handle) -> str | None:
        """Return its address."""
        return str(handle.data["url"])

    def target(self, handle: Handle) -> Target:
        """Probe it where it is; its own health is what `healthy` asks for."""
        parts = urlsplit(handle.data["url"])
        place = Target(
            host=parts.hostname or "", port=parts.port or _DEFAULT_PORTS.get(parts.scheme), tls=parts.scheme == "https"
        )
        spec = self._specs.get(handle.tag)
        if spec is None:
            return place
        own = looks.begin(spec.own_probe, place)
        return replace(place, health=lambda: own(_LOOK_S).missing)

    def is_attached(self, handle: Handle) -> bool:
        """It always was there before."""
        return True
