"""The descriptors that a command begins with, and our ends of its pipes."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tether.errors import SpecError, StateDirError
from tether.ledger import logs, place
from tether.spec import Process

__all__ = ["Streams"]

_WORDS = {subprocess.PIPE: "pipe", subprocess.DEVNULL: "null", subprocess.STDOUT: "stdout"}


class Streams:
    """The standard descriptors of a command, those that it inherits besides, and its working directory.

    Attributes:
        fds: the descriptors to be sent.
        targets: the numbers that they get there, in the same order; -1 - n for n to be closed.
        ours: our ends, by name.

    Raises:
        StateDirError: the log can't be opened.
        OSError: a file or descriptor of the spec can't be opened, as in subprocess; nothing was started.
    """

    def __init__(self, spec: Process, log: str | None) -> None:
        self.fds: list[int] = []
        self.targets: list[int] = []
        self.ours: dict[str, Any] = {}
        self._opened: list[int] = []
        self._log = log
        self._text = (spec.encoding, spec.errors) if _is_text(spec) else None
        try:
            if spec.terminal == "pty":
                self._open_terminal()
            else:
                if _word(spec.stdin) != "null":
                    # That the shim has there already.
                    self._add(0, self._open("stdin", spec.stdin, 0))
                self._add(1, self._open("stdout", spec.stdout, 1))
                self._add(2, self._open_stderr(spec))
            for fd in spec.pass_fds:
                os.fstat(fd)
                self._add(fd, fd)
            if spec.cwd is None:
                self.fds.append(self._keep(os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)))
        except BaseException:
            self.close()
            raise

    def _keep(self, fd: int) -> int:
        """Remember a descriptor that was opened here, to be closed."""
        self._opened.append(fd)
        return fd

    def _add(self, target: int, fd: int | None) -> None:
        self.targets.append(-1 - target if fd is None else target)
        if fd is not None:
            self.fds.append(fd)

    def _open_stderr(self, spec: Process) -> int | None:
        same = _word(spec.stderr) == "stdout" or (_word(spec.stdout) == _word(spec.stderr) == "log")
        if not same:
            return self._open("stderr", spec.stderr, 2)
        return self.fds[-1] if self.targets[-1] >= 0 else None

    def _open(self, name: str, what: Any, inherited: int) -> int | None:
        openers: dict[str, Callable[[], int | None]] = {
            "log": lambda: self._open_log(self._log),
            "own-log": lambda: self._open_log(None if self._log is None else logs.of_stream(Path(self._log), "stderr")),
            "inherit": lambda: _inherited(inherited),
            "null": lambda: self._keep(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)),
            "pipe": lambda: self._open_pipe(name),
        }
        opener = openers.get(_word(what))
        if opener is not None:
            return opener()
        if isinstance(what, os.PathLike):
            flags = os.O_RDONLY if name == "stdin" else os.O_WRONLY | os.O_CREAT | os.O_APPEND
            return self._keep(os.open(what, flags | os.O_CLOEXEC, 0o666))
        fd = what if isinstance(what, int) else what.fileno()
        os.fstat(fd)
        return int(fd)

    def _open_log(self, log: str | Path | None) -> int:
        if log is None:
            raise SpecError("there is no log here")
        try:
            return self._keep(place.open_private(log, os.O_WRONLY | os.O_APPEND))
        except OSError as error:
            raise StateDirError(
                f"its log {log} can't be opened: {error.strerror}; nothing was started. Was the state directory removed?"
            ) from error

    def _open_pipe(self, name: str) -> int:
        read, write = os.pipe()
        if name == "stdin":
            self._keep(read)
            self._take(name, os.fdopen(write, "wb"))
            return read
        self._keep(write)
        self._take(name, os.fdopen(read, "rb"))
        return write

    def _take(self, name: str, ours: Any) -> None:
        """Our end of a pipe, as text where that is wanted."""
        self.ours[name] = ours
        if self._text is not None:
            self.ours[name] = io.TextIOWrapper(ours, *self._text, write_through=name == "stdin")

    def _open_terminal(self) -> None:
        """A terminal of the command's own: one pair, whose other end is read and written here."""
        ours, theirs = os.openpty()
        os.set_inheritable(ours, False)
        self._keep(theirs)
        # As text it can't be read without a buffer.
        buffering = 0 if self._text is None else -1
        self._take("stdin", os.fdopen(os.dup(ours), "wb", buffering=buffering))
        self._take("stdout", os.fdopen(ours, "rb", buffering=buffering))
        for target in range(3):
            self._add(target, theirs)

    def close_theirs(self) -> None:
        """Close the command's ends: it has its own copies, or there is none."""
        for fd in self._opened:
            os.close(fd)
        self._opened = []

    def close(self) -> None:
        """Close both ends."""
        self.close_theirs()
        for stream in self.ours.values():
            stream.close()
        self.ours = {}


def _is_text(spec: Process) -> bool:
    return spec.text or spec.encoding is not None or spec.errors is not None


def _inherited(fd: int) -> int | None:
    """Our own descriptor; None if it is closed here, so that it is closed there as well.

    One that no program inherits is a file of somebody here, which got the number since that was free.
    """
    try:
        return fd if os.get_inheritable(fd) else None
    except OSError:
        return None


def _word(what: Any) -> str:
    """What a stream is in one word; empty for a file, path or descriptor."""
    if isinstance(what, str):
        return what
    return _WORDS.get(what, "") if isinstance(what, int) else ""
