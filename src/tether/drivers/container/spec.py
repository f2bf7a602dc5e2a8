"""The spec of a container: what may be said of one, and what is refused before anything is created."""

from __future__ import annotations

import re
import signal as _signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fsdecode
from typing import Any, Literal

from tether.errors import SpecError, require_extra
from tether.fitting import check_fields, shown
from tether.model import OnDeath, Ready
from tether.port import has_port
from tether.spec import SpecBase, checked_env, checked_words, redact

__all__ = ["Container", "ContainerRef", "HealthCheck", "Mount"]

_SIZE = re.compile(r"\d+[bkmgBKMG]?")
_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Mount:
    """What is seen at a path of the container.

    Attributes:
        source: an absolute path of the engine's machine, the name of a volume that exists, or None for a volume that is made for
            the container and goes with it.
        read_only: whether the container may not write there.
        create: of a name: make the volume if it is not there; if it was made, it goes with the container.
    """

    source: str | PathLike[str] | None = None
    read_only: bool = False
    create: bool = False

    def __post_init__(self) -> None:
        """Refuse what is of another type than its field."""
        check_fields(self)


@dataclass(frozen=True)
class HealthCheck:
    """A health check of one's own, which the engine carries out in the container; `healthy` waits for it.

    Attributes:
        command: what is executed; healthy is what ends with 0.
        interval, timeout, start_period: in seconds.
        retries: so many failures in a row make it unhealthy.
    """

    command: Sequence[str]
    interval: float = 5.0
    timeout: float = 5.0
    retries: int = 3
    start_period: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what can't be right."""
        check_fields(self)
        object.__setattr__(self, "command", tuple(self.command))
        if not self.command:
            raise SpecError("a health check needs a command")
        if not (self.interval >= 0.001 and self.timeout >= 0.001 and self.start_period >= 0 and self.retries > 0):
            raise SpecError("the times of a health check must be at least a millisecond, and its retries more than 0")


@dataclass(frozen=True, repr=False)
class Container(SpecBase):
    """A container to run, with the network and volumes that are made for it.

    Args:
        image: the image, as in ``docker run``.
        command: the command and its arguments; by default the image's.
        name: unique among the live resources of its owner; by default made from the image's.
        entrypoint: instead of the image's.
        env: variables of the container. Values never reach the ledger, but the engine shows them to whoever may use it.
        user: "name", "uid" or "uid:gid"; by default the image's.
        workdir: the working directory; by default the image's.
        port: the port on which the container listens. It is published on a free port of the loopback address, for ``url``.
        ports: more ports of the container to publish on the loopback address: each with the port there, or None for a free one.
        mounts: what is seen at a path of the container: a path, the name of a volume, None for a volume of its own, or a `Mount`.
        tmpfs: paths of the container that are kept in memory, each with the options of the mount, like "size=64m".
        files: what is copied to a path of the container before it starts: content as bytes, or a file or folder of this machine.
        network: "bridge", "host", "none", "own" for a network that is made for the container and goes with it, the name of one, or
            a `Network` that was started.
        aliases: further names of it in that network.
        gpus: how many, "all", or a list of device ids.
        memory: the limit, in bytes or like "2g".
        cpus: how many processors it may keep busy, for instance 1.5.
        pids_limit: how many processes and threads it may have.
        shm_size: of its /dev/shm, in bytes or like "1g".
        init: run a small init as its first process, which passes signals on and collects zombies.
        labels: labels of yours.
        health: a health check of your own, instead of the image's.
        stdin: "pipe" for a pipe to its standard input and one from its standard output: ``resource.stdin``, ``resource.stdout``.
        options: more of what the engine takes, by the names of its API, like ``{"HostConfig": {"CapAdd": ["NET_ADMIN"]}}``.
        pull: "missing" fetches the image if the engine has it not, "always" fetches it anew, "never" does not.
        engine: its address, like "unix:///run/docker.sock" or "ssh://user@host"; by default ``DOCKER_HOST``, else the docker
            context in use, else the first socket that is there.
        ready: when it counts as ready; None for as soon as it runs. `healthy` waits for the health check of the image.
        stop_signal: what asks it politely to end; by default the image's.
        stop_grace: seconds from that to the end by force; engines count whole ones.
        on_death, keep_for, needs: as for `Process`.

    ``{port}`` in the command and in values of ``env`` is replaced by the port inside the container: ``port``, else 8000.

    Raises:
        SpecError: something of it can't be right; nothing was created.
        DriverUnavailable: the extra is not installed.
    """

    image: str
    command: Sequence[str] = ()
    name: str | None = None
    entrypoint: Sequence[str] | None = None
    env: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    user: str | None = None
    workdir: str | None = None
    port: int | None = None
    ports: Mapping[int, int | None] = field(default_factory=dict)
    mounts: Mapping[str, str | PathLike[str] | Mount | None] = field(default_factory=dict)
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes | str | PathLike[str]] = field(default_factory=dict, repr=False)
    network: Any = "bridge"
    aliases: Sequence[str] = ()
    gpus: int | Literal["all"] | Sequence[str] | None = None
    memory: int | str | None = None
    cpus: float | None = None
    pids_limit: int | None = None
    shm_size: int | str | None = None
    init: bool = False
    labels: Mapping[str, str] = field(default_factory=dict, repr=False)
    health: HealthCheck | None = None
    stdin: Literal["null", "pipe"] = "null"
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    pull: Literal["missing", "always", "never"] = "missing"
    engine: str | None = None
    ready: Ready | None = None
    stop_signal: str | int | None = None
    stop_grace: float = 10.0
    on_death: OnDeath | None = None
    keep_for: float = 3600.0
    needs: Sequence[str] | None = None
    kind: str = field(default="container", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right, before anything is created."""
        require_extra("docker", "docker", "a Container")
        if not isinstance(self.image, str) or not self.image or any(each.isspace() for each in self.image):
            raise SpecError(f"{self.image!r} is no name of an image")
        for each in ("command", "entrypoint"):
            object.__setattr__(self, each, checked_words(getattr(self, each), each))
        object.__setattr__(self, "env", checked_env(self.env))
        object.__setattr__(self, "mounts", {path: _mount(path, source) for path, source in self.mounts.items()})
        object.__setattr__(self, "network", _network(self.network))
        object.__setattr__(self, "aliases", checked_words(self.aliases, "aliases"))
        self._check_common()
        self._check_insides()
        self._check_ports()
        self._check_limits()
        if any(label.startswith("tether.") for label in self.labels):
            raise SpecError("labels that begin with 'tether.' are tether's own")

    def _check_ports(self) -> None:
        for port in (self.port, *self.ports, *self.ports.values()):
            if port is not None and not (isinstance(port, int) and 0 < port < 65536):
                raise SpecError(f"{port!r} is no port")
        if self.network in ("host", "none") and self.ports:
            raise SpecError(f"a container with network={self.network!r} can't publish ports")
        if self.network == "none" and self.uses_port:
            raise SpecError("a container with network='none' has no port to be reached at")
        if self.ready is not None and (probe := self.ready.first_of("http", "tcp")) and not self.uses_port:
            raise SpecError(f"ready={probe}() needs a port to probe: give port=, or use {{port}} in command or env")

    def _check_insides(self) -> None:
        for what in ("tmpfs", "files"):
            for path in getattr(self, what):
                if not isinstance(path, str) or not path.startswith("/") or path.strip("/") == "":
                    raise SpecError(f"{what} takes absolute paths of the container, not {path!r}")
        if not all(isinstance(options, str) for options in self.tmpfs.values()):
            raise SpecError("tmpfs takes the options of each mount as text, like {'/run': 'size=64m'}, or '' for none")
        if not all(isinstance(source, bytes | str | PathLike) for source in self.files.values()):
            raise SpecError("files takes content as bytes, or a path of this machine")
        if self.aliases and self.network in ("bridge", "host", "none"):
            raise SpecError(f"a container with network={self.network!r} has no aliases: use 'own', or a Network")
        if self.health is not None and not isinstance(self.health, HealthCheck):
            raise SpecError(f"health={self.health!r} is none: write HealthCheck(['command', ...])")

    def _check_limits(self) -> None:
        for each in ("memory", "shm_size"):
            value = getattr(self, each)
            if isinstance(value, str) and not _SIZE.fullmatch(value):
                raise SpecError(f"{each}={value!r} is no size; write bytes, or a number with k, m or g")
        if self.cpus is not None and not self.cpus > 0:
            raise SpecError(f"cpus={self.cpus!r} must be more than 0")
        if isinstance(self.gpus, str) and self.gpus != "all":
            raise SpecError(f"gpus={self.gpus!r} is not known; use a number, 'all' or a list of device ids")
        if isinstance(self.stop_signal, int) and self.stop_signal not in _signal.valid_signals():
            raise SpecError(f"stop_signal={self.stop_signal!r} is no signal")

    @property
    def default_name(self) -> str:
        """The last part of the image's name."""
        return self.image.rpartition("/")[2].partition(":")[0].partition("@")[0]

    @property
    def uses_port(self) -> bool:
        """Whether it has a port that ``url`` points to."""
        values = (*self.command, *(value for value in self.env.values() if value is not None))
        return self.port is not None or any(has_port(value) for value in values)

    @property
    def stays_up(self) -> bool:
        """Whether it is a server (it has a readiness probe or a port): to end by itself is then to fail."""
        return self.ready is not None or self.uses_port

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger: no values of the environment, and no arguments that look like secrets."""
        return {
            "image": self.image,
            "command": redact(list(self.command)),
            "env": sorted(self.env),
            "network": self.network,
            "mounts": sorted(self.mounts),
            "files": sorted(self.files),
            "options": sorted(self.options),
            "ready": None if self.ready is None else self.ready.kind,
            "stop_grace": self.stop_grace,
            "stays_up": self.stays_up,
        }


def _mount(path: str, source: str | PathLike[str] | Mount | None) -> Mount:
    if not isinstance(path, str) or not path.startswith("/"):
        raise SpecError(f"mounts takes absolute paths of the container, not {path!r}")
    mount = source if isinstance(source, Mount) else Mount(source)
    where = None if mount.source is None else fsdecode(mount.source)
    if (
        where is not None
        and not where.startswith("/")
        and (isinstance(mount.source, PathLike) or not _VOLUME.fullmatch(where))
    ):
        raise SpecError(f"{where!r} can't be mounted at {path}: use an absolute path, or the name of a volume")
    if mount.create and (where is None or where.startswith("/")):
        raise SpecError(f"create=True at {path} is for the name of a volume; a folder of this machine is yours to make")
    return Mount(where, mount.read_only, mount.create)


def _network(network: Any) -> str:
    """Return the name of a network: as it was given, or of a `Network` that was started."""
    name = getattr(network, "details", {}).get("network") if not isinstance(network, str) else network
    if not isinstance(name, str) or not name:
        raise SpecError(f"network={shown(network)} is none: use a name, or a Network that was started")
    return name


@dataclass(frozen=True, repr=False)
class ContainerRef(SpecBase):
    """A container that is there already: watched and probed, and never ended.

    Args:
        ref: its name or id.
        name: what it is called here; by default its own name.
        port: a port of the container that it publishes, for ``url`` and the probe.
        engine: as for `Container`.
        ready: when it counts as ready; None for as soon as it was seen to run.
        needs: as for `Process`.
    """

    ref: str
    name: str | None = None
    port: int | None = None
    engine: str | None = None
    ready: Ready | None = None
    needs: Sequence[str] | None = None
    on_death: OnDeath | None = field(default=None, init=False)
    keep_for: float = field(default=1.0, init=False)
    stop_grace: float = field(default=0.0, init=False)
    kind: str = field(default="container", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right."""
        require_extra("docker", "docker", "a ContainerRef")
        if not isinstance(self.ref, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.ref):
            raise SpecError(f"{self.ref!r} is no name or id of a container")
        if self.name is None:
            object.__setattr__(self, "name", self.ref[:64])
        self._check_common()
        if self.ready is not None and (probe := self.ready.first_of("http", "tcp")) and self.port is None:
            raise SpecError(f"ready={probe}() needs port=, a port of the container that it publishes")

    @property
    def stays_up(self) -> bool:
        """It is somebody else's: that it stays up is expected."""
        return True

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger."""
        return {"ref": self.ref, "port": self.port, "stays_up": True}
