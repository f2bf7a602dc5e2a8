"""The spec of a process: what may be said of one, and what is refused before anything is created."""

from __future__ import annotations

import hmac
import re
import signal as _signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from os import PathLike
from typing import Any, Literal

from tether.errors import SpecError
from tether.model import Inside, OnDeath, Ready, Spec, check_name
from tether.redaction import redact, redact_text

__all__ = ["CommandBase", "Process", "SpecBase", "checked_env", "has_port", "put_port", "redact"]

Stream = Literal["log", "inherit", "null", "pipe"]

_SIGNALS = frozenset(map(int, _signal.valid_signals()))


def _text(value: Any, what: str) -> str:
    if isinstance(value, PathLike):
        value = value.__fspath__()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise SpecError(f"{what} must be text or a path, not {type(value).__name__}: {redact_text(repr(value))}")
    if "\0" in value:
        raise SpecError(f"embedded null byte in {what}: {redact([value])[0]!r}")
    return value


def checked_env(env: Mapping[str, Any]) -> dict[str, str | None]:
    """Return a copy of variables to set, or raise SpecError. Values are never shown: they may be secrets."""
    checked: dict[str, str | None] = {}
    for key, value in env.items():
        name = _text(key, "a variable's name")
        if not name or "=" in name:
            raise SpecError(f"{name!r} can't be the name of an environment variable")
        if value is not None and (not isinstance(value, str | bytes | PathLike)):
            raise SpecError(f"the value of variable {name} must be text, not {type(value).__name__}")
        if isinstance(value, str) and "\0" in value:
            raise SpecError(f"embedded null byte in the value of variable {name}")
        checked[name] = None if value is None else _text(value, f"the value of variable {name}")
    return checked


class SpecBase:
    """What specs of every kind have in common: how the fields that all of them have are checked, and the fingerprint."""

    name: str | None
    kind: str
    needs: Sequence[str] | None
    on_death: OnDeath | None
    keep_for: float
    stop_grace: float

    @property
    def default_name(self) -> str:
        """What a name is made of if there is none."""
        return self.kind

    def _check_common(self) -> None:
        if self.name is not None:
            check_name(self.name, "a resource")
        if isinstance(self.needs, str):
            raise SpecError(f"needs={self.needs!r} must be a list of names")
        if self.needs is not None:
            object.__setattr__(self, "needs", tuple(self.needs))
        self._check_word("on_death", ("kill", "stop", "keep", None))
        if not self.stop_grace >= 0:
            raise SpecError(f"stop_grace={self.stop_grace!r} must be 0 or more seconds")
        if not self.keep_for > 0:
            raise SpecError(f"keep_for={self.keep_for!r} must be more than 0 seconds")

    def _check_word(self, field_name: str, allowed: Sequence[Any]) -> None:
        value = getattr(self, field_name)
        if value not in allowed:
            raise SpecError(f"{field_name}={value!r} is not known; use one of {', '.join(map(repr, allowed))}")

    def __repr__(self) -> str:
        """Show what is not as by default, and no secrets."""
        shown = []
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            if not each.init or not each.repr or value == each.default:
                continue
            if each.name in ("argv", "command"):
                value = redact([str(argument) for argument in value or ()])
            shown.append(f"{each.name}={redact_text(value) if isinstance(value, str) else value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def fingerprint(self, key: bytes) -> str:
        """Return what is equal for equal specs, and tells nothing of their values to who has not the key."""
        shown = [(each.name, _plain(getattr(self, each.name))) for each in fields(self) if each.name != "name"]  # type: ignore[arg-type]
        return hmac.new(key, repr(shown).encode("utf-8", "surrogateescape"), "sha256").hexdigest()


class CommandBase(SpecBase):
    """What specs of commands have in common, wherever they run."""

    argv: Sequence[str | PathLike[str]]
    env: Mapping[str, str | None]
    ready: Ready | None
    stop_signal: int
    stop_to: Literal["group", "main"]
    umask: int | None

    @property
    def default_name(self) -> str:
        """The program's name."""
        return str(self.argv[0]).rpartition("/")[2]

    @property
    def uses_port(self) -> bool:
        """Whether it has a port: there is a ``{port}`` in its arguments or environment."""
        values = (*self.argv, *(value for value in self.env.values() if value is not None))
        return any(has_port(str(value)) for value in values)

    @property
    def stays_up(self) -> bool:
        """Whether it is a server (it has a readiness probe or a port): to end by itself is then to fail."""
        return self.ready is not None or self.uses_port

    def _check_command(self) -> None:
        if isinstance(self.argv, str | bytes):
            raise SpecError(
                f"argv must be a list of arguments, not one string: {redact([str(self.argv)])[0]!r}; "
                "split it, or write ['sh', '-c', ...] if you mean a shell"
            )
        argv = tuple(_text(argument, "an argument") for argument in self.argv)
        if not argv or not argv[0]:
            raise SpecError("argv is empty: there is no program to run")
        object.__setattr__(self, "argv", argv)
        object.__setattr__(self, "env", checked_env(self.env))
        self._check_word("stop_to", ("group", "main"))
        if self.stop_signal not in _SIGNALS:
            raise SpecError(f"stop_signal={self.stop_signal!r} is no signal")
        if self.umask is not None and not 0 <= self.umask <= 0o777:
            raise SpecError(f"umask={self.umask!r} is no file mode mask")
        if self.ready is not None and self.ready.kind == "health":
            raise SpecError("ready=healthy() is for containers, whose image may have a health check; use another probe")


@dataclass(frozen=True, repr=False)
class Process(CommandBase):
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
        env_in: an environment that the command runs in, activated: a started `CondaEnv`, or its spec, which is started with it.

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
    env_in: Inside | Spec | None = None
    kind: str = field(default="process", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right, before anything is created."""
        self._check_command()
        if self.cwd is not None:
            object.__setattr__(self, "cwd", _text(self.cwd, "cwd"))
        object.__setattr__(self, "pass_fds", tuple(self.pass_fds))
        self._check_common()
        for name, allowed in (
            ("stdin", ("null", "inherit", "pipe")),
            ("stdout", ("log", "inherit", "null", "pipe")),
            ("stderr", ("log", "inherit", "null", "pipe")),
        ):
            self._check_word(name, allowed)
        self._check_numbers()

    def _check_numbers(self) -> None:
        if self.port is not None and not 0 < self.port < 65536:
            raise SpecError(f"port={self.port!r} is no port")
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
        return self.port is not None or super().uses_port

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger: no values of the environment, and no arguments that look like secrets."""
        return {
            "argv": redact([str(argument) for argument in self.argv]),
            "cwd": None if self.cwd is None else str(self.cwd),
            "env": sorted(self.env),
            "ready": None if self.ready is None else self.ready.kind,
            "stop_signal": int(self.stop_signal),
            "stop_to": self.stop_to,
            "stop_grace": self.stop_grace,
            "stays_up": self.stays_up,
            "env_in": None if self.env_in is None else self.env_in.name,
        }


_PORT = re.compile(r"\{\{port\}\}|\{port\}")


def _plain(value: Any) -> Any:
    """A value whose repr is the same in another process."""
    if isinstance(value, Mapping):
        return sorted(value.items())
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Ready):
        target = getattr(value.target, "pattern", getattr(value.target, "__qualname__", value.target))
        return (value.kind, target, float(value.timeout))
    if isinstance(value, SpecBase) and is_dataclass(value):
        return [_plain(getattr(value, each.name)) for each in fields(value)]
    if isinstance(value, Inside):
        return value.name
    return value


def has_port(text: str) -> bool:
    """Whether ``text`` has a ``{port}`` to be replaced."""
    return "{port}" in text and any(match.group() == "{port}" for match in _PORT.finditer(text))


def put_port(text: str, port: int | None) -> str:
    """Replace ``{port}`` by the port, and ``{{port}}`` by a literal ``{port}``."""
    if "{port}" not in text:
        return text
    return _PORT.sub(lambda match: "{port}" if match.group() == "{{port}}" or port is None else str(port), text)
