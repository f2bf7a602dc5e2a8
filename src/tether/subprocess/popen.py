"""`subprocess.Popen`, whose process is a resource."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from tether.errors import DeadlineExceeded, ExecError, SpecError
from tether.linux import descriptors, proc, signals
from tether.owner.resource import Resource
from tether.spec import AS_IT_IS, Process
from tether.subprocess import shared

__all__ = ["Popen"]

_ASKED = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]  # noqa: SLF001
"""The one place in which `subprocess` itself starts a process, once pipes are open and everything was checked."""

_GRACE_S = 2.0


class Popen(subprocess.Popen[Any]):
    """As `subprocess.Popen`, with the same arguments, attributes and methods; what it starts ends with this process, all of it.

    The process is a `tether.Resource` of `tether.subprocess.owner`, at hand as ``resource``. As in `subprocess` its end is that of
    the command; what that leaves behind goes on, and ends with this process.

    Raises:
        SpecError: a ``preexec_fn``; also a `ValueError`. The guard forks the command, so no code of this process can run there.
        OSError, ValueError, TypeError: as in `subprocess`.
        TetherError: it could not be recorded or guarded; nothing was started.

    Crash:
        Whenever this process dies, the shim of the command ends its tree.
    """

    resource: Resource | None = None
    _owner_pid = 0

    def _execute_child(self, *given: Any, **named: Any) -> None:
        """Start it, in place of a fork. The ends of pipes are open, and are closed by the caller if this raises."""
        asked = _ASKED.bind(self, *given, **named).arguments
        if asked["preexec_fn"] is not None:
            raise SpecError(
                "preexec_fn= can't be had: the guard forks the command, not this process; use user=, umask=, process_group= and "
                "the like, or `subprocess` itself for this one command"
            )
        argv, program = _words(asked["args"], asked["executable"], shell=asked["shell"])
        sys.audit("subprocess.Popen", program, argv, asked["cwd"], asked["env"])
        spec = _spec(argv, program, asked)
        try:
            self.resource = shared.owner().start(spec)
        except ExecError as error:
            in_cwd = spec.cwd is not None and error.filename == os.path.abspath(spec.cwd)  # noqa: PTH100 - of text, as the driver does
            raise OSError(error.errno, error.strerror, asked["cwd"] if in_cwd else program) from None
        main = self.resource.main
        self.pid = main.pid if main is not None else 0
        self._owner_pid = os.getpid()
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(asked[each] for each in pipes))  # type: ignore[attr-defined]

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        """Look, without waiting. What another process started, of which this is a fork, can't be known here."""
        if self.returncode is None and self.resource is not None:
            if self._owner_pid != os.getpid():
                self.returncode = _deadstate
            else:
                self._take_exit_code(self.resource)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None and self.resource is not None:
            if self._owner_pid != os.getpid():
                raise ChildProcessError(
                    f"pid {self.pid} was started by process {self._owner_pid}, of which this is a fork"
                )
            try:
                self.resource.wait(timeout, of="main")
            except DeadlineExceeded:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
            self._take_exit_code(self.resource)
        return self.returncode

    def _take_exit_code(self, resource: Resource) -> None:
        ended = resource.state.is_final
        code = resource.poll()
        if code is None and ended:
            # Its shim was killed, so that nobody could see how it ended; it was, with all of its tree, by force.
            code = -signal.SIGKILL
        if code is not None:
            self.returncode = code

    def send_signal(self, sig: int) -> None:
        """Send a signal to the command, if that has not ended."""
        if self.poll() is None and self.resource is not None and self._owner_pid == os.getpid():
            self.resource.send_signal(sig)


def _words(args: Any, executable: Any, *, shell: bool) -> tuple[list[Any], Any]:
    """Return the arguments as a list, and the program to execute."""
    if isinstance(args, os.PathLike) and shell:
        raise TypeError("path-like args is not allowed when shell is true")
    words = [args] if isinstance(args, str | bytes | os.PathLike) else list(args)
    if shell:
        words = [executable or "/bin/sh", "-c", *words]
    return words, words[0] if executable is None else executable


def _spec(argv: list[Any], program: Any, asked: Mapping[str, Any]) -> Process:
    """Turn what `subprocess` asks for into a spec."""
    env, session = asked["env"], asked["start_new_session"]
    if any(asked[each] is not None and asked[each] >= AS_IT_IS for each in ("uid", "gid")):
        raise OverflowError("the number of a user or group is too large")
    passed = descriptors.inheritable() if not asked["close_fds"] else map(int, asked["pass_fds"])
    ignored = signals.handed_on() if asked["restore_signals"] else proc.ignored_signals()
    return Process(
        # Words in braces mean nothing here.
        [os.fsdecode(each).replace("{port}", "{{port}}") for each in argv],
        executable=os.fsdecode(program),
        env={} if env is None else _environment(env),
        clear_env=env is not None,
        cwd=None if asked["cwd"] is None else os.fsdecode(asked["cwd"]),
        stdin=_stream(asked["p2cread"]),
        stdout=_stream(asked["c2pwrite"]),
        stderr=_stream(asked["errwrite"]),
        pass_fds=sorted({fd for fd in passed if fd > 2}),
        terminal="own" if session else "share",
        process_group=None if asked["process_group"] < 0 else asked["process_group"],
        ignored_signals=[each for each in ignored if each in signal.valid_signals()],
        blocked_signals=sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        user=asked["uid"],
        group=asked["gid"],
        extra_groups=asked["gids"],
        umask=None if asked["umask"] < 0 else asked["umask"],
        ends="last",
        stop_to="main",
        stop_grace=_GRACE_S,
    )


def _stream(fd: int) -> Any:
    return "inherit" if fd == -1 else fd


def _environment(env: Mapping[Any, Any]) -> dict[str, str | None]:
    made: dict[str, str | None] = {}
    for key, value in env.items():
        name = os.fsencode(key)
        if b"=" in name:
            raise ValueError("illegal environment variable name")
        made[os.fsdecode(name)] = os.fsdecode(os.fsencode(value)).replace("{port}", "{{port}}")
    return made
