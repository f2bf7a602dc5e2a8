"""The words of tether as plain data. Imports nothing of tether but its errors."""

from __future__ import annotations

import enum
import hmac
import re
import signal as _signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Any, Literal, Protocol

from tether.errors import SpecError

__all__ = [
    "Handle",
    "Identity",
    "OnDeath",
    "Process",
    "Progress",
    "Ready",
    "Recorded",
    "Spec",
    "State",
    "Status",
    "Usage",
    "redact",
]

OnDeath = Literal["kill", "stop", "keep"]
Progress = Callable[[str], None]


class State(enum.Enum):
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


@dataclass(frozen=True)
class Ready:
    """When a resource counts as ready; made by `tether.http`, `tether.tcp`, `tether.log` and `tether.call`.

    Attributes:
        kind: which of the four.
        target: a path, a pattern or a function; None for tcp.
        timeout: the time limit, in seconds.
    """

    kind: Literal["http", "tcp", "log", "call"]
    target: Any = None
    timeout: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what can't be right."""
        if not self.timeout > 0:
            raise SpecError(f"a readiness probe needs a time limit above 0 seconds, not {self.timeout!r}")


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


Stream = Literal["log", "inherit", "null", "pipe"]

_SIGNALS = frozenset(map(int, _signal.valid_signals()))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SECRET_FLAG = re.compile(r"(?i)(key|token|secret|passw|credential|auth)")
_HIDDEN = "***"
_MOST_ARGUMENTS = 100
"""So many are recorded; the kernel takes two megabytes of them."""


def check_name(name: str, what: str) -> str:
    """Return ``name``, or raise SpecError if it is no name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} can't be the name of {what}: use letters, digits, '.', '_' and '-', at most 128, "
            f"the first a letter or digit"
        )
    return name


def redact(argv: Sequence[str]) -> list[str]:
    """Return ``argv`` with the values of options that look like secrets replaced by ``***``."""
    shown: list[str] = []
    hide_next = False
    for argument in argv:
        flag, equals, _ = argument.partition("=")
        is_secret = bool(_SECRET_FLAG.search(flag)) and (argument.startswith("-") or bool(equals))
        if hide_next and not argument.startswith("-"):
            shown.append(_HIDDEN)
            hide_next = False
        else:
            shown.append(f"{flag}={_HIDDEN}" if is_secret and equals else argument)
            hide_next = is_secret and not equals
    return shown


def _text(value: Any, what: str) -> str:
    if isinstance(value, PathLike):
        value = value.__fspath__()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise SpecError(f"{what} must be text or a path, not {type(value).__name__}: {value!r}")
    if "\0" in value:
        raise SpecError(f"embedded null byte in {what}: {value!r}")
    return value


@dataclass(frozen=True)
class Process:
    """A command to run, and with it everything that it forks.

    Args:
        argv: the program and its arguments; never a shell, unless you write one.
        name: unique among the live resources of its owner; by default the program's name, with a number if need be.
        env: variables to set on top of the app's own; a value of None unsets one. Values never reach the ledger.
        cwd: the working directory; by default the app's.
        umask: the file mode mask; by default the app's.
        stdin: "null", "inherit" or "pipe".
        stdout: "log" for a file in the state directory, "inherit", "null" or "pipe".
        stderr: the same; "log" goes to the same file.
        pass_fds: descriptors that the command inherits under the same numbers.
        port: a fixed port for ``{port}``; by default a free one is looked for.
        ready: when it counts as ready; None for as soon as it was executed.
        stop_signal: what asks it politely to end.
        stop_to: "group" signals the command's whole process group (wrappers do not forward), "main" only the command.
        stop_grace: seconds from the polite signal to the end by force.
        on_death: when the owner dies: "kill" at once, "stop" politely first, "keep" for the next owner; None for the
            owner's own rule.
        keep_for: with "keep", for how many seconds.
        needs: names of resources that must outlive it; None for every one started before it.

    ``{port}`` in an argument or in a value of ``env`` is replaced by the port, ``{{port}}`` by a literal ``{port}``.

    Raises:
        SpecError: something of it can't be right (an empty argv, a NUL byte, an unknown word); nothing was created.
    """

    argv: Sequence[str | PathLike[str]]
    name: str | None = None
    env: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    cwd: str | PathLike[str] | None = None
    umask: int | None = None
    stdin: Literal["null", "inherit", "pipe"] = "null"
    stdout: Stream = "log"
    stderr: Stream = "log"
    pass_fds: Sequence[int] = ()
    port: int | None = None
    ready: Ready | None = None
    stop_signal: int = _signal.SIGTERM
    stop_to: Literal["group", "main"] = "group"
    stop_grace: float = 10.0
    on_death: OnDeath | None = None
    keep_for: float = 3600.0
    needs: Sequence[str] | None = None
    kind: str = field(default="process", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right, before anything is created."""
        if isinstance(self.argv, str | bytes):
            raise SpecError(
                f"argv must be a list of arguments, not one string: {self.argv!r}; "
                "split it, or write ['sh', '-c', ...] if you mean a shell"
            )
        argv = tuple(_text(argument, "an argument") for argument in self.argv)
        if not argv or not argv[0]:
            raise SpecError("argv is empty: there is no program to run")
        object.__setattr__(self, "argv", argv)
        object.__setattr__(self, "env", self._checked_env())
        if self.cwd is not None:
            object.__setattr__(self, "cwd", _text(self.cwd, "cwd"))
        if self.name is not None:
            check_name(self.name, "a resource")
        object.__setattr__(self, "pass_fds", tuple(self.pass_fds))
        if self.needs is not None:
            object.__setattr__(self, "needs", tuple(self.needs))
        self._check_words()
        self._check_numbers()

    def _checked_env(self) -> dict[str, str | None]:
        checked: dict[str, str | None] = {}
        for key, value in self.env.items():
            name = _text(key, "a variable's name")
            if not name or "=" in name:
                raise SpecError(f"{name!r} can't be the name of an environment variable")
            # The value is not shown: it may be a secret.
            if value is not None and (not isinstance(value, str | bytes | PathLike)):
                raise SpecError(f"the value of variable {name} must be text, not {type(value).__name__}")
            if isinstance(value, str) and "\0" in value:
                raise SpecError(f"embedded null byte in the value of variable {name}")
            checked[name] = None if value is None else _text(value, f"the value of variable {name}")
        return checked

    def _check_words(self) -> None:
        for name, allowed in (
            ("stdin", ("null", "inherit", "pipe")),
            ("stdout", ("log", "inherit", "null", "pipe")),
            ("stderr", ("log", "inherit", "null", "pipe")),
            ("stop_to", ("group", "main")),
            ("on_death", ("kill", "stop", "keep", None)),
        ):
            if getattr(self, name) not in allowed:
                words = ", ".join(repr(word) for word in allowed)
                raise SpecError(f"{name}={getattr(self, name)!r} is not known; use one of {words}")

    def _check_numbers(self) -> None:
        if self.port is not None and not 0 < self.port < 65536:
            raise SpecError(f"port={self.port!r} is no port")
        if not self.stop_grace >= 0:
            raise SpecError(f"stop_grace={self.stop_grace!r} must be 0 or more seconds")
        if not self.keep_for > 0:
            raise SpecError(f"keep_for={self.keep_for!r} must be more than 0 seconds")
        if self.stop_signal not in _SIGNALS:
            raise SpecError(f"stop_signal={self.stop_signal!r} is no signal")
        if self.umask is not None and not 0 <= self.umask <= 0o777:
            raise SpecError(f"umask={self.umask!r} is no file mode mask")
        if any(fd < 3 for fd in self.pass_fds):
            raise SpecError("pass_fds takes descriptors from 3 on; the first three are stdin, stdout and stderr")
        if self.ready is not None and self.ready.kind in ("http", "tcp") and not self.uses_port:
            raise SpecError(
                f"ready={self.ready.kind}() needs a port to probe: use {{port}} in argv or env, or give port="
            )
        if self.ready is not None and self.ready.kind == "log" and "log" not in (self.stdout, self.stderr):
            raise SpecError("ready=log() needs stdout or stderr to be 'log'")

    @property
    def uses_port(self) -> bool:
        """Whether the command has a port of tether's choosing, or a fixed one."""
        values = (*self.argv, *(value for value in self.env.values() if value is not None))
        return self.port is not None or any(has_port(str(value)) for value in values)

    @property
    def stays_up(self) -> bool:
        """Whether it is a server (it has a readiness probe or a port): to end by itself is then to fail."""
        return self.ready is not None or self.uses_port

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger: no values of the environment, and no arguments that look like secrets."""
        return {
            "argv": redact([str(argument) for argument in self.argv[:_MOST_ARGUMENTS]]),
            "cwd": None if self.cwd is None else str(self.cwd),
            "env": sorted(self.env),
            "ready": None if self.ready is None else self.ready.kind,
            "stop_signal": int(self.stop_signal),
            "stop_to": self.stop_to,
            "stop_grace": self.stop_grace,
            "stays_up": self.stays_up,
        }

    def fingerprint(self, key: bytes) -> str:
        """Return what is equal for equal specs, and tells nothing of their values to who has not the key."""
        shown = [(each.name, _plain(getattr(self, each.name))) for each in fields(self) if each.name != "name"]
        return hmac.new(key, repr(shown).encode("utf-8", "surrogateescape"), "sha256").hexdigest()


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
    needs: Sequence[str] | None = None

    def record(self) -> dict[str, Any]:
        """Return it as it was recorded."""
        return dict(self.recorded)

    def fingerprint(self, key: bytes) -> str:
        """Return the fingerprint that was recorded."""
        return str(self.recorded.get("fingerprint", ""))


_PORT = re.compile(r"\{\{port\}\}|\{port\}")


def _plain(value: Any) -> Any:
    """A value whose repr is the same in another process."""
    if isinstance(value, Mapping):
        return sorted(value.items())
    if isinstance(value, Ready):
        target = getattr(value.target, "pattern", getattr(value.target, "__qualname__", value.target))
        return (value.kind, target, value.timeout)
    return value


def has_port(text: str) -> bool:
    """Whether ``text`` has a ``{port}`` to be replaced."""
    return "{port}" in text and any(match.group() == "{port}" for match in _PORT.finditer(text))


def put_port(text: str, port: int | None) -> str:
    """Replace ``{port}`` by the port, and ``{{port}}`` by a literal ``{port}``."""
    if "{port}" not in text:
        return text
    return _PORT.sub(lambda match: "{port}" if match.group() == "{{port}}" or port is None else str(port), text)
