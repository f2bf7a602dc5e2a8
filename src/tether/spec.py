"""The spec of a process: what may be said of one, and what is refused before anything is created."""

from __future__ import annotations

import signal as _signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, BinaryIO, ClassVar, Literal

from tether.base import SIGNALS, CommandBase, SpecBase, checked_env, checked_text, checked_words
from tether.errors import SpecError
from tether.model import Inside, OnDeath, Ready, Spec
from tether.redaction import redact

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
_MOST_DESCRIPTORS = 1 << 30
_MOST_PROCESSORS = 1 << 13
_MOST_RLIMITS = 16
_MOST_NICE = 40


def _signal_number(signum: str | int, what: str) -> int:
    """Return the number of a signal that is given by name, with or without SIG, or by number."""
    if isinstance(signum, str):
        name = signum.upper()
        found = _signal.Signals.__members__.get(name if name.startswith("SIG") else f"SIG{name}")
        if found is None:
            raise SpecError(f"{what}: {signum!r} is the name of no signal")
        return int(found)
    if signum not in SIGNALS:
        raise SpecError(f"{what}: {signum!r} is no signal")
    return int(signum)


AS_IT_IS = (1 << 32) - 1
"""No user or group has this number: it means "as it is". Source: setresuid(2)."""


def _check_user(name: str, value: str | int | None) -> None:
    if isinstance(value, int) and not 0 <= value < AS_IT_IS:
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
    elif isinstance(value, PathLike):
        checked_text(value, name)
    elif isinstance(value, type) or (not isinstance(value, int) and not hasattr(value, "fileno")):
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
    checked_apart: ClassVar[tuple[str, ...]] = ("argv", "env", "cwd", "executable", "stdin", "stdout", "stderr")
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
            object.__setattr__(self, "cwd", checked_text(self.cwd, "cwd"))
        if self.executable is not None:
            object.__setattr__(self, "executable", checked_text(self.executable, "executable"))
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
        self._check_numbers()
        self._check_attributes()

    def _check_attributes(self) -> None:
        _check_user("user", self.user)
        _check_user("group", self.group)
        for each in self.extra_groups or ():
            _check_user("extra_groups", each)
        for limit, pair in self.rlimits.items():
            soft, hard = pair
            if not 0 <= limit < _MOST_RLIMITS or min(pair) < -1 or (hard != -1 and not 0 <= soft <= hard):
                raise SpecError(
                    f"rlimits: {limit!r}: {pair!r} must be the number of a resource with its soft and hard limit, "
                    "for instance {resource.RLIMIT_NOFILE: (1024, 4096)}"
                )
        wrong = (
            (
                self.affinity is not None
                and not (self.affinity and min(self.affinity) >= 0 and max(self.affinity) < _MOST_PROCESSORS),
                "affinity",
                "numbers of processors",
            ),
            (
                self.oom_score_adj is not None and not -1000 <= self.oom_score_adj <= 1000,
                "oom_score_adj",
                "-1000 to 1000",
            ),
            (self.nice is not None and abs(self.nice) > _MOST_NICE, "nice", f"-{_MOST_NICE} to {_MOST_NICE}"),
            (self.memory is not None and self.memory <= 0, "memory", "more than 0 bytes"),
            (self.cpus is not None and self.cpus <= 0, "cpus", "more than 0 processors"),
            (
                self.log_max is not None and self.log_max < _LEAST_LOG_MAX,
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
        if any(not 3 <= fd < _MOST_DESCRIPTORS for fd in self.pass_fds):
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
