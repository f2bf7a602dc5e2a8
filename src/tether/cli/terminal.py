"""The terminal of this process as that of a command elsewhere: what is typed goes there as it is, and what comes is shown."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from contextlib import contextmanager

from tether import threads
from tether.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import NoReturn

    from tether.life.terminals import FarTerminal

__all__ = ["check", "converse"]

_IN, _OUT = 0, 1
_CHUNK = 65536
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def check(*, has_input: bool) -> None:
    """Raise SpecError where this process has no terminal."""
    for fd, what in ((_IN, "standard input"), (_OUT, "standard output")):
        if (fd == _OUT or has_input) and not os.isatty(fd):
            raise SpecError(f"-t: {what} is no terminal; leave -t out")


def converse(far: FarTerminal, *, has_input: bool) -> int | None:
    """Pass on what is typed and shown until the command has ended, and return its exit code; None if that was not seen.

    Ctrl-C is typed there, too. A signal that ends this process gives the terminal back as it was.
    """

    def resize(*_: object) -> None:
        size = os.get_terminal_size(_OUT)
        far.resize(size.lines, size.columns)

    with _as_it_was(raw=has_input):
        signal.signal(signal.SIGWINCH, resize)
        resize()
        if has_input and not threads.begin(lambda: _type(far), "tether-terminal"):
            raise SpecError("-i: what is typed can't be passed on, for no thread can be made now")
        try:
            while shown := far.read():
                _show(shown)
            return far.exit_code()
        finally:
            signal.signal(signal.SIGWINCH, signal.SIG_DFL)
            far.close()


@contextmanager
def _as_it_was(*, raw: bool) -> Iterator[None]:
    """Take the terminal as it is typed at, without echo and signals; at the end it is as it was."""
    if not raw:
        yield
        return
    before = termios.tcgetattr(_IN)
    handlers = {signum: signal.signal(signum, _end) for signum in _ENDING}
    try:
        tty.setraw(_IN)
        yield
    finally:
        termios.tcsetattr(_IN, termios.TCSADRAIN, before)
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


def _end(signum: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + signum)


def _type(far: FarTerminal) -> None:
    while True:
        try:
            typed = os.read(_IN, _CHUNK)
        except OSError:
            return
        if not typed:
            return
        far.write(typed)


def _show(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(_OUT, view) :]
