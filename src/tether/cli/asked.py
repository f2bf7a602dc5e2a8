"""What is asked of ``tether run``: its few options, and the command with all that follows, which is nobody's to read."""

from __future__ import annotations

import sys

from tether.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["FAILED", "HELP", "Asked", "read"]

FAILED = 125
"""The exit code where tether itself failed, as env(1), nohup(1) and ``docker run`` have it."""

_GRACE_S = 10.0
_FREE = 0
HELP = """\
Usage: tether run [OPTIONS] [--] COMMAND [ARGUMENT ...]

Run a command; when it ends, or this process does by whatever cause, nothing of
it is left. Standard streams, the terminal, its job control and signals are the
command's own, and its arguments are passed on as they are.

Options:
  --name NAME    what it is called in 'tether ps'; the program's name by default
  --grace S      seconds from SIGTERM to the end by force (10)
  --port [PORT]  replace {port} in the arguments by PORT, or by a free port
  --with-parent, --without-parent
                 whether it ends with the process that started it; by default
                 where standard input is no terminal, but not under nohup
  -h, --help     show this and exit

It ends as the command does, with its exit code or by its signal; with 127 if
there is no such program, 126 if it may not be executed, and 125 if tether
itself failed."""
"""As it is printed; the manual page is made of it, too."""


class Asked:
    """What was asked.

    Attributes:
        command: the program and its arguments, verbatim.
        name: what it is to be called; None to have it made from the program's.
        grace_s: seconds from the polite signal to the end by force.
        with_parent: whether it is to end with the process that started it; None for where a program started it.
        port: what ``{port}`` stands for, 0 for a free one; None if it stands for itself.
    """

    def __init__(self) -> None:
        self.command: list[str] = []
        self.name: str | None = None
        self.grace_s = _GRACE_S
        self.port: int | None = None
        self.with_parent: bool | None = None


def read(argv: Sequence[str]) -> Asked:
    """Read what follows ``tether run``, up to ``--`` or the command; a mistake ends the program with 125."""
    asked = Asked()
    words = list(argv)
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--":
            break
        _option(asked, word, words)
    asked.command = words
    if not words:
        _refuse("there is no command to run")
    return asked


def _option(asked: Asked, word: str, rest: list[str]) -> None:
    option, equals, value = word.partition("=")
    if option in ("-h", "--help"):
        text.say(HELP)
        text.flush()
        sys.exit(0)
    if option == "--port":
        given = value if equals else rest.pop(0) if rest and rest[0].isdecimal() else str(_FREE)
        asked.port = _port(given)
    elif word in ("--with-parent", "--without-parent"):
        asked.with_parent = word == "--with-parent"
    elif option not in ("--name", "--grace"):
        _refuse(f"there is no option {word}; options of the command follow it, or --")
    elif not equals and not rest:
        _refuse(f"option {option} needs a value")
    elif option == "--name":
        asked.name = _name(value if equals else rest.pop(0))
    else:
        asked.grace_s = _grace(value if equals else rest.pop(0))


def _port(given: str) -> int:
    if not given.isdecimal() or int(given) > 65535:
        _refuse(f"--port: {given!r} is no port; write 1 to 65535, or nothing for a free one")
    return int(given)


def _grace(given: str) -> float:
    try:
        grace_s = float(given.removesuffix("s"))
    except ValueError:
        grace_s = -1.0
    if not 0 <= grace_s < float("inf"):
        _refuse(f"--grace: {given!r} is no number of seconds of 0 or more")
    return grace_s


def _name(given: str) -> str:
    plain = given.isascii() and all(each.isalnum() or each in "._-" for each in given)
    if not plain or not given[:1].isalnum() or len(given) > 128:
        _refuse(
            f"--name: {given!r} can't be a name; use letters, digits, '.', '_' and '-', at most 128, the first a letter or digit"
        )
    return given


def _refuse(message: str) -> NoReturn:
    text.warn(f"run: {message}\nSee 'tether run --help'.")
    sys.exit(FAILED)
