"""The words of tether as plain data. Imports nothing of tether but its errors."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from tether.errors import SpecError

__all__ = [
    "Finding",
    "Handle",
    "Identity",
    "Inside",
    "OnDeath",
    "Progress",
    "Reachable",
    "Ready",
    "Recorded",
    "Spec",
    "State",
    "Status",
    "Terminal",
    "Usage",
    "altered",
    "check_name",
    "silent",
]

_Frozen = TypeVar("_Frozen")

OnDeath = Literal["kill", "stop", "keep"]
Progress = Callable[[str], None]


def silent(_: str) -> None:
    """Hear of progress, and say nothing."""


def altered(frozen: _Frozen, **values: Any) -> _Frozen:
    """As `dataclasses.replace`, for what has nothing to check: a start does it a dozen times, and that takes five times as long."""
    copy = object.__new__(type(frozen))
    vars(copy).update(vars(frozen), **values)
    return copy


class State(enum.StrEnum):
    """Where a resource is in its life. Unknown is said as unknown: never GONE for what was not seen to be gone."""

    PENDING = "pending"
    """On record, not created yet."""
    STARTING = "starting"
    """Created, not ready yet."""
    READY = "ready"
    """Up, as far as its readiness probe says."""
    STOPPING = "stopping"
    """On its way out; also a process in uninterruptible sleep that has been killed and is still there."""
    GONE = "gone"
    """Ended as wanted, and seen to be gone."""
    FAILED = "failed"
    """Ended by itself or could not start; the reason stands with it."""
    LOST = "lost"
    """Cannot be reached; tried again."""

    @property
    def is_final(self) -> bool:
        """Whether nothing of the resource is left and nothing more will happen to it."""
        return self in (State.GONE, State.FAILED)


@dataclass(frozen=True)
class Identity:
    """Who a pid is: a pid is recycled, this triple is not.

    Attributes:
        boot: the id of the boot.
        pid: the pid.
        start: when it started, in clock ticks since that boot.
    """

    boot: str
    pid: int
    start: int


@dataclass(frozen=True)
class Handle:
    """What a driver needs to find its resource again: small, ready for JSON, no secrets.

    Attributes:
        kind: the driver's kind.
        tag: the resource's id.
        data: the driver's own.
        version: of the form of ``data``; a newer one than the driver's is refused, never guessed.
    """

    kind: str
    tag: str
    data: Mapping[str, Any]
    version: int = 1


@dataclass(frozen=True)
class Status:
    """What a driver saw of a resource just now.

    Attributes:
        state: READY here means "is there and runs".
        exit_code: as in `subprocess`, negative for a signal; None if it runs or is not known.
        reason: in words.
        pids: of this machine, empty if it has none here.
    """

    state: State
    exit_code: int | None = None
    reason: str = ""
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Usage:
    """What a resource uses now. None where it is not known.

    Attributes:
        processes: how many there are.
        cpu_s: user and system time of the live ones, in seconds.
        memory_bytes: resident memory; pages that are shared count for each process.
    """

    processes: int | None = None
    cpu_s: float | None = None
    memory_bytes: int | None = None


_READY_KINDS = {
    "http": "http",
    "tcp": "tcp",
    "log": "log",
    "call": "call",
    "health": "healthy",
    "all": "all_of",
    "any": "any_of",
}
"""Kinds of probes, and what makes each."""


@dataclass(frozen=True, repr=False)
class Ready:
    """When a resource counts as ready; made by `tether.http`, `tcp`, `log`, `call`, `healthy`, `all_of` and `any_of`.

    Attributes:
        kind: which of the seven.
        target: what is asked, a pattern, a function, or the probes that are combined; None for tcp and health.
        timeout: the time limit, in seconds.
    """

    kind: Literal["http", "tcp", "log", "call", "health", "all", "any"]
    target: Any = None
    timeout: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what can't be right."""
        if self.kind not in _READY_KINDS:
            raise SpecError(f"{self.kind!r} is no kind of readiness probe; use one of {', '.join(_READY_KINDS)}")
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float) or not self.timeout > 0:
            raise SpecError(f"a readiness probe needs a time limit above 0 seconds, not {self.timeout!r}")
        if self.kind in ("all", "any"):
            probes = self.target if isinstance(self.target, tuple) else ()
            if not probes or not all(isinstance(each, Ready) for each in probes):
                raise SpecError(f"{_READY_KINDS[self.kind]}() takes readiness probes, not {self.target!r}")

    def __repr__(self) -> str:
        """Show it as it was made, without what it sends."""
        shown = getattr(self.target, "pattern", self.target)
        shown = shown.decode() if isinstance(shown, bytes) else shown
        words = [] if shown is None else [*map(repr, shown)] if isinstance(shown, tuple) else [repr(shown)]
        return f"{_READY_KINDS[self.kind]}({', '.join([*words, f'timeout={self.timeout:g}'])})"

    @property
    def parts(self) -> tuple[Ready, ...]:
        """The probes that it combines; itself, if it combines none."""
        if self.kind not in ("all", "any"):
            return (self,)
        return tuple(part for each in self.target for part in each.parts)

    @property
    def by_tls(self) -> bool:
        """Whether one of its parts says that the server speaks TLS."""
        return any(getattr(part.target, "scheme", None) == "https" for part in self.parts)

    def first_of(self, *kinds: str) -> str:
        """Return the first of these kinds that is among its parts; empty if none is."""
        return next((part.kind for part in self.parts if part.kind in kinds), "")


@dataclass(frozen=True)
class Finding:
    """One thing that ``tether doctor`` looked at.

    Attributes:
        what: what was looked at.
        good: whether it is as good as can be.
        found: what was found.
        follows: what follows from that.
    """

    what: str
    good: bool
    found: str
    follows: str


@dataclass(frozen=True)
class Terminal:
    """How a command shares the terminal of its owner.

    Attributes:
        group: the process group that it joins.
        ignored: signals that it goes on to ignore, as under nohup(1) or in a shell's background.
        mask: signals that it has blocked, a bit each, the lowest for signal 1.
    """

    group: int
    ignored: tuple[int, ...]
    mask: int = 0


@runtime_checkable
class Spec(Protocol):
    """What every spec has, whatever it starts."""

    @property
    def kind(self) -> str:
        """The driver's kind."""
        ...

    @property
    def name(self) -> str | None:
        """The resource's name within its owner; None to have one made."""
        ...

    @property
    def default_name(self) -> str:
        """What a name is made of if there is none."""
        ...

    @property
    def ready(self) -> Ready | None:
        """When it counts as ready; None for as soon as it is created."""
        ...

    @property
    def needs(self) -> Sequence[str] | None:
        """Names of resources that must outlive it; None for every one that was started before it."""
        ...

    @property
    def on_death(self) -> OnDeath | None:
        """What becomes of it when its owner dies; None for the owner's own rule."""
        ...

    @property
    def keep_for(self) -> float:
        """With on_death="keep": for how many seconds it waits to be adopted."""
        ...

    @property
    def stop_grace(self) -> float:
        """Seconds from the polite signal to the end by force."""
        ...

    @property
    def stays_up(self) -> bool:
        """Whether it is a server: then to end by itself is to fail, whatever the exit code."""
        ...

    def record(self) -> dict[str, Any]:
        """Return what of it goes into the ledger: ready for JSON, no secrets."""
        ...

    def fingerprint(self, key: bytes) -> str:
        """Return what is equal for equal specs, and tells nothing of their values to who has not the key."""
        ...


@runtime_checkable
class Inside(Protocol):
    """A resource in which commands can run: an environment."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    def inside(self, argv: Sequence[str], env: Mapping[str, str | None] | None = None) -> list[str]:
        """Return the command that runs ``argv`` in it, with ``env`` on top. Raises SpecError if nothing can run in it."""
        ...


@runtime_checkable
class Reachable(Protocol):
    """A resource that is a host: a machine."""

    @property
    def id(self) -> str:
        """Its tag."""
        ...

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def kind(self) -> str:
        """The kind of its driver."""
        ...

    @property
    def state(self) -> State:
        """Where it is in its life."""
        ...

    @property
    def details(self) -> dict[str, Any]:
        """How it is reached: ``ssh_host``, ``ssh_port``, ``ssh_user``, ``ssh_key``, ``ssh_known_hosts``; None where not known."""
        ...


@dataclass(frozen=True)
class Recorded:
    """What the ledger remembers of a spec: enough to stop a resource that was adopted, not to start it again."""

    kind: str
    name: str
    recorded: Mapping[str, Any]
    on_death: OnDeath
    keep_for: float
    stop_grace: float
    stays_up: bool
    ready: None = None
    default_name: str = ""
    needs: Sequence[str] | None = None

    @property
    def ends(self) -> str | None:
        """When a tree of processes has ended; None for other kinds."""
        return self.recorded.get("ends")

    def record(self) -> dict[str, Any]:
        """Return it as it was recorded."""
        return dict(self.recorded)

    def fingerprint(self, key: bytes) -> str:
        """Return the fingerprint that was recorded."""
        return str(self.recorded.get("fingerprint", ""))


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_name(name: str, what: str) -> str:
    """Return ``name``, or raise SpecError if it is no name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} can't be the name of {what}: use letters, digits, '.', '_' and '-', at most 128, "
            f"the first a letter or digit"
        )
    return name
