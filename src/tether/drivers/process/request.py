"""What a shim is asked: a command with its environment, and the descriptors that it begins with."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from tether.errors import StateDirError
from tether.ledger import place
from tether.linux import members
from tether.model import Inside, OnDeath, Terminal
from tether.spec import Process, put_port

__all__ = ["Streams", "build"]

_OWNER, _RESOURCE = members.OWNER.encode(), members.RESOURCE.encode()


def _environment(spec: Process, tag: str, port: int | None) -> dict[bytes, bytes]:
    """The app's own, the spec's on top, and the tag; a tree within another tree names both."""
    env = dict(os.environb)
    # Held by lineage: the owner's tag is for what plugins start by themselves.
    env.pop(_OWNER, None)
    outer = env.get(_RESOURCE)
    env[_RESOURCE] = b"%s:%s" % (outer, tag.encode()) if outer else tag.encode()
    for name, value in spec.env.items():
        if value is None:
            env.pop(os.fsencode(name), None)
        else:
            env[os.fsencode(name)] = os.fsencode(put_port(value, port))
    return env


def _programs(program: bytes, cwd: bytes, env: dict[bytes, bytes]) -> list[bytes]:
    """Where the program is, or may be: like execvp(3) with the PATH and working directory of the command itself."""
    if b"/" in program:
        return [program]
    folders = env.get(b"PATH", os.defpath.encode()).split(b":")
    found = []
    for folder in folders:
        path = os.path.join(cwd, folder, program)
        if os.path.lexists(path):
            found.append(path)
            if os.access(path, os.X_OK) and not os.path.isdir(path):
                break
    return found


def build(
    spec: Process,
    tag: str,
    on_death: OnDeath,
    port: int | None,
    log: Path | None,
    terminal: Terminal | None,
    run_dir: Path,
) -> dict[str, Any]:
    """Return what a shim is told of a command: all that it needs until its tree has ended."""
    cwd = os.getcwdb() if spec.cwd is None else os.fsencode(os.path.abspath(spec.cwd))
    words = [str(argument) for argument in spec.argv]
    if spec.env_in is not None and isinstance(spec.env_in, Inside):
        words = spec.env_in.inside(words, spec.env)
    argv = [os.fsencode(put_port(word, port)) for word in words]
    env = _environment(spec, tag, port)
    return {
        "tag": tag,
        "argv": argv,
        "programs": _programs(argv[0], cwd, env),
        "env": env,
        "cwd": cwd,
        "umask": spec.umask,
        "targets": [0, 1, 2, *spec.pass_fds],
        "group": terminal.group if terminal else 0,
        "ignored": terminal.ignored if terminal else (),
        "since": time.time(),
        "grace": float(spec.stop_grace),
        "stop_signal": int(spec.stop_signal),
        "stop_to": spec.stop_to,
        "on_death": on_death,
        "keep_for": float(spec.keep_for),
        "log": None if log is None else str(log),
        "run_dir": os.fsencode(run_dir),
    }


class Streams:
    """The three standard descriptors of a command, and our ends of its pipes."""

    def __init__(self, spec: Process, log: Path | None) -> None:
        self.fds: list[int] = []
        self.ours: dict[str, Any] = {}
        self._log = log
        try:
            self.fds.append(self._open("stdin", spec.stdin, 0))
            self.fds.append(self._open("stdout", spec.stdout, 1))
            both_logged = spec.stdout == spec.stderr == "log"
            self.fds.append(os.dup(self.fds[1]) if both_logged else self._open("stderr", spec.stderr, 2))
        except BaseException:
            self.close()
            raise

    def _open(self, name: str, what: str, inherited: int) -> int:
        if what == "log" and self._log is not None:
            try:
                return place.open_private(self._log, os.O_WRONLY | os.O_APPEND)
            except OSError as error:
                raise StateDirError(
                    f"its log {self._log} can't be opened: {error.strerror}; nothing was started. Was the state directory removed?"
                ) from error
        if what == "inherit":
            return os.dup(inherited)
        if what == "null":
            return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        read, write = os.pipe()
        if name == "stdin":
            self.ours[name] = os.fdopen(write, "wb")
            return read
        self.ours[name] = os.fdopen(read, "rb")
        return write

    def close_theirs(self) -> None:
        """Close the command's ends: it has its own copies, or there is none."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def close(self) -> None:
        """Close both ends."""
        self.close_theirs()
        for stream in self.ours.values():
            stream.close()
