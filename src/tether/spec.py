"""The spec of a process: what may be said of one, and what is refused before anything is created."""

from __future__ import annotations

import signal as _signal
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from os import PathLike
from typing import Any, BinaryIO, ClassVar, Literal

from tether.errors import SpecError
from tether.model import Inside, OnDeath, Ready, Spec, check_name
from tether.port import has_port
from tether.redaction import redact, redact_text

__all__ = [
    "AS_IT_IS",
    "LOG_MAX",
    "CommandBase",
    "Process",
    "SpecBase",
    "checked_env",
    "checked_words",
    "redact",
]

Stream = Literal["log", "inherit", "null", "pipe"] | int | PathLike[str] | BinaryIO
"""A word, a descriptor, a path (read, or appended to), or a file that is open; also the constants of `subprocess`."""

LOG_MAX = 50_000_000
"""So many bytes a log may take before it is rotated, if nothing else is said."""

_LEAST_LOG_MAX = 1 << 16

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


def checked_words(value: Sequence[str] | None, what: str) -> tuple[str, ...] | None:
    """Return arguments as a tuple, or None; `what` they are stands in the SpecError for what can be none."""
    if value is None:
        return None
    if isinstance(value, str | bytes):
        raise SpecError(
            f"{what} must be a list of arguments, not one string: {value!r}; split it, or write ['sh', '-c', ...]"
        )
    words = tuple(value)
    for word in words:
        if not isinstance(word, str) or "\0" in word:
            raise SpecError(f"{what} must be texts without NUL, not {word!r}")
    return words


class SpecBase:
    """What specs of every kind have in common: how the fields that all of them have are checked, and the fingerprint."""

    name: str | None
    kind: str
    needs: Sequence[str] | None
    on_death: OnDeath | None
    keep_for: float
    stop_grace: float
    within: ClassVar[str] = ""
    """The field that says in what it runs: a resource, or the spec of one, which is started first. Empty if there is none."""

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
            default = each.default if each.default_factory is MISSING else each.default_factory()
            if not each.init or not each.repr or value == default:
                continue
            if each.name in ("argv", "command", "args", "entrypoint"):
                value = redact([str(argument) for argument in value or ()])
            shown.append(f"{each.name}={redact_text(value) if isinstance(value, str) else value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def fingerprint(self, key: bytes) -> str:
        """Return what is equal for equal specs, and tells nothing of their values to who has not the key."""
        shown = [(each.name, _plain(getattr(self, each.name))) for each in fields(self) if each.name != "name"]  # type: ignore[arg-type]
        import hmac  # Only what is kept is compared with what was.

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
        if self.ready is not None and self.ready.first_of("health"):
            raise SpecError("ready=healthy() is for containers, whose image may have a health check; use another probe")


def _signal_number(signum: str | int, what: str) -> int:
    """Return the number of a signal that is given by name, with or without SIG, or by number."""
    if isinstance(signum, str):
        name = signum.upper()
        found = _signal.Signals.__members__.get(name if name.startswith("SIG") else f"SIG{name}")
        if found is None:
            raise SpecError(f"{what}: {signum!r} is the name of no signal")
        return int(found)
    if signum not in _SIGNALS:
        raise SpecError(f"{what}: {signum!r} is no signal")
    return int(signum)


AS_IT_IS = (1 << 32) - 1
"""No user or group has this number: it means "as it is". Source: setresuid(2)."""


def _is_log_max(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= _LEAST_LOG_MAX)


def _check_user(name: str, value: Any) -> None:
    if value is not None and not (isinstance(value, str) or (isinstance(value, int) and 0 <= value < AS_IT_IS)):
        raise SpecError(f"{name}={value!r} must be a name or a number")


_CONSTANTS = {"stdin": (-1, -3), "stdout": (-1, -3), "stderr": (-1, -2, -3)}
"""PIPE, STDOUT and DEVNULL of `subprocess`."""


def _check_stream(name: str, value: Any, words: Sequence[str]) -> None:
    """Refuse what is no stream: a word that is not known may be a path that is not meant as a word."""
    if isinstance(value, str):
        if value not in words:
            shown = ", ".join(map(repr, words))
            raise SpecError(f"{name}={value!r} is not known; use one of {shown}, or Path({value!r}) for a file")
    elif isinstance(value, bool) or (isinstance(value, int) and value < 0 and value not in _CONSTANTS[name]):
        raise SpecError(f"{name}={value!r} is no descriptor")
    elif not isinstance(value, int | PathLike) and not hasattr(value, "fileno"):
        raise SpecError(f"{name} must be a word, a descriptor, a path or an open file, not {type(value).__name__}")


@dataclass(frozen=True, repr=False)
class Process(CommandBase):
    """A command to run, and with it everything that it forks.

    Args:
        argv: the program and its arguments; never a shell, unless you write one.
        name: unique among the live resources of its owner; by default the program's name, with a number if need be.
        env: variables to set on top of the app's own; a value of None unsets one. Values never reach the ledger.
        clear_env: the command gets the variables of ``env`` and nothing of the app's.
        cwd: the working directory; by default the app's.
        executable: the program to execute, where that is another than ``argv[0]``.
        stdin: "null", "inherit", "pipe", a path, a descriptor or an open file.
        stdout: "log" for a file in the state directory, "inherit", "null", "pipe", a path, a descriptor or an open file.
        stderr: the same; "log" goes to the same file, "own-log" to one of its own, "stdout" to wherever that goes.
        text, encoding, errors: the pipes are streams of text, as in `subprocess`, if one of the three is given.
        pass_fds: descriptors that the command inherits under the same numbers.
        terminal: "own" for a session without a terminal, "share" for the app's session and terminal, "pty" for a new terminal,
            whose other end is ``stdin`` and ``stdout`` of the resource.
        process_group: with terminal="share": the group that it joins, 0 for one of its own; by default the app's.
        ignored_signals: what it begins with ignored, as by nohup(1); by default nothing, whatever the app ignores.
        blocked_signals: what it begins with blocked, likewise.
        port: a fixed port for ``{port}``; by default a free one is looked for.
        ready: when it counts as ready; None for as soon as it was executed.
        stop_signal: what asks it politely to end.
        stop: a ladder of such signals instead, each with its seconds: ``[("INT", 5), ("TERM", 10)]``.
        stop_to: "group" signals the command's whole process group (wrappers do not forward), "main" only the command.
        stop_grace: seconds from the polite signal to the end by force.
        stop_again: whether the polite signal is sent again while the grace runs; by default only while it is starting, for many
            programs take a second one for "at once".
        ends: "tree" when its last process has ended, where a command that failed has the rest ended; "last" when its last process
            has ended, however the command did, as with `subprocess`; "main" has what the command leaves behind ended with it.
        user, group, extra_groups: whose the command is, by name or number; by default the app's. Only root can give others.
        umask: the file mode mask; by default the app's.
        rlimits: limits by the number of the resource (``resource.RLIMIT_NOFILE``), soft and hard; others are the app's.
        nice: added to the app's priority, as nice(1) does.
        affinity: the processors that it may run on; by default the app's.
        oom_score_adj: how willingly the kernel kills it when memory is short, -1000 to 1000; by default the app's.
        memory: the most bytes that the tree may use; in the tier "cgroup", where that hands on the controller.
        cpus: the most processors' time that it may use, likewise.
        on_death: when the owner dies: "kill" at once, "stop" politely first, "keep" for the next owner; None for the
            owner's own rule.
        keep_for: with "keep", for how many seconds.
        needs: names of resources that must outlive it; None for every one started before it.
        log_max: the bytes that its log may take before it is rotated, and again what was rotated out of it, where the last of it
            stays; None for no limit.
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
    stdin: Literal["null", "inherit", "pipe"] | int | PathLike[str] | BinaryIO = "null"
    stdout: Stream = "log"
    stderr: Stream | Literal["own-log", "stdout"] = "log"
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
    within: ClassVar[str] = "env_in"
    clear_env: bool = False
    executable: str | PathLike[str] | None = None
    terminal: Literal["own", "share", "pty"] = "own"
    process_group: int | None = None
    stop: Sequence[tuple[str | int, float]] = ()
    stop_again: bool | None = None
    ends: Literal["tree", "last", "main"] = "tree"
    user: str | int | None = None
    group: str | int | None = None
    extra_groups: Sequence[str | int] | None = None
    rlimits: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    nice: int | None = None
    affinity: Sequence[int] | None = None
    oom_score_adj: int | None = None
    memory: int | None = None
    cpus: float | None = None
    ignored_signals: Sequence[str | int] = ()
    blocked_signals: Sequence[str | int] = ()
    text: bool = False
    encoding: str | None = None
    errors: str | None = None
    log_max: int | None = LOG_MAX
    kind: str = field(default="process", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right, before anything is created."""
        self._check_command()
        if self.cwd is not None:
            object.__setattr__(self, "cwd", _text(self.cwd, "cwd"))
        if self.executable is not None:
            object.__setattr__(self, "executable", _text(self.executable, "executable"))
        object.__setattr__(self, "pass_fds", tuple(self.pass_fds))
        object.__setattr__(self, "stop", tuple((_signal_number(each, "stop"), float(span)) for each, span in self.stop))
        if self.stop:
            object.__setattr__(self, "stop_signal", self.stop[0][0])
            object.__setattr__(self, "stop_grace", sum(span for _, span in self.stop))
        for field_name in ("ignored_signals", "blocked_signals"):
            numbers = tuple(_signal_number(each, field_name) for each in getattr(self, field_name))
            if {_signal.SIGKILL, _signal.SIGSTOP} & set(numbers):
                raise SpecError(f"{field_name}: SIGKILL and SIGSTOP can be neither ignored nor blocked")
            object.__setattr__(self, field_name, numbers)
        self._check_common()
        _check_stream("stdin", self.stdin, ("inherit", "null", "pipe"))
        _check_stream("stdout", self.stdout, ("log", "inherit", "null", "pipe"))
        _check_stream("stderr", self.stderr, ("log", "own-log", "inherit", "null", "pipe", "stdout"))
        if (
            isinstance(self.stderr, str)
            and self.stderr == "own-log"
            and not (self.terminal != "pty" and self.stdout == "log")
        ):
            raise SpecError('stderr="own-log" is for stdout="log"; else stderr="log" has the log for itself')
        self._check_word("terminal", ("own", "share", "pty"))
        self._check_word("ends", ("tree", "last", "main"))
        self._check_numbers()
        self._check_attributes()

    def _check_attributes(self) -> None:
        _check_user("user", self.user)
        _check_user("group", self.group)
        if isinstance(self.extra_groups, str):
            raise SpecError(f"extra_groups={self.extra_groups!r} must be a list of names or numbers")
        for each in self.extra_groups or ():
            _check_user("extra_groups", each)
        for limit, pair in self.rlimits.items():
            if not isinstance(limit, int) or not isinstance(pair, tuple | list) or len(pair) != 2:
                raise SpecError(
                    f"rlimits: {limit!r}: {pair!r} must be the number of a resource with its soft and hard limit, "
                    "for instance {resource.RLIMIT_NOFILE: (1024, 4096)}"
                )
        wrong = (
            (
                self.affinity is not None and (not self.affinity or min(self.affinity) < 0),
                "affinity",
                "numbers of processors",
            ),
            (
                self.oom_score_adj is not None and not -1000 <= self.oom_score_adj <= 1000,
                "oom_score_adj",
                "-1000 to 1000",
            ),
            (self.memory is not None and self.memory <= 0, "memory", "more than 0 bytes"),
            (self.cpus is not None and self.cpus <= 0, "cpus", "more than 0 processors"),
            (
                not _is_log_max(self.log_max),
                "log_max",
                f"a number of bytes from {_LEAST_LOG_MAX} on, or None for no limit",
            ),
        )
        for is_wrong, name, wanted in wrong:
            if is_wrong:
                raise SpecError(f"{name}={getattr(self, name)!r} must be {wanted}")
        if self.process_group is not None and self.terminal != "share":
            raise SpecError(
                'process_group= is for terminal="share"; else the command leads a session and group of its own'
            )

    def _check_numbers(self) -> None:
        if self.port is not None and not 0 < self.port < 65536:
            raise SpecError(f"port={self.port!r} is no port")
        if any(fd < 3 for fd in self.pass_fds):
            raise SpecError("pass_fds takes descriptors from 3 on; the first three are stdin, stdout and stderr")
        if self.ready is not None and (probe := self.ready.first_of("http", "tcp")) and not self.uses_port:
            raise SpecError(f"ready={probe}() needs a port to probe: use {{port}} in argv or env, or give port=")
        logged = [stream for stream in (self.stdout, self.stderr) if isinstance(stream, str) and stream == "log"]
        if self.ready is not None and self.ready.first_of("log") and not logged:
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
            "ends": self.ends,
            "log_max": self.log_max,
            "env_in": None if self.env_in is None else self.env_in.name,
        }


def _plain(value: Any) -> Any:
    """A value whose repr is the same in another process."""
    if isinstance(value, Mapping):
        return sorted(value.items())
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Ready):
        return (value.kind, _plain_target(value.target), float(value.timeout))
    if isinstance(value, SpecBase) and is_dataclass(value):
        return [_plain(getattr(value, each.name)) for each in fields(value)]
    if isinstance(value, Inside):
        return value.name
    return value


def _plain_target(target: Any) -> Any:
    """The same for what a probe looks for."""
    if isinstance(target, Ready):
        return _plain(target)
    if isinstance(target, tuple):
        return [_plain_target(each) for each in target]
    if isinstance(target, frozenset):
        return sorted(target)
    if is_dataclass(target):
        return [_plain_target(getattr(target, each.name)) for each in fields(target)]
    return getattr(target, "pattern", getattr(target, "__qualname__", target))
