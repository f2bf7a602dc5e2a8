"""How the commands read their arguments: argparse without its surprises."""

from __future__ import annotations

import argparse
import sys
import time

from tether.cli import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

__all__ = ["NAME_HELP", "Parser", "count", "moment", "seconds"]

NAME_HELP = "a name, OWNER/NAME, OWNER/ for all of an owner's, a pattern such as 'web*', or the beginning of an id"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_USAGE = 2
_CLOSE = 0.6


class _Help(argparse.HelpFormatter):
    """Help that fits the terminal (argparse would import shutil to learn its width), with examples left as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=22, width=min(text.columns(), 100) - 1)

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, "Usage: " if prefix is None else prefix)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = text.split("\n\n")
        return "\n\n".join(
            part if part[0] == " " else super(_Help, self)._fill_text(part, width, indent) for part in parts
        )


class Parser(argparse.ArgumentParser):
    """The arguments of one command. Options are written out or have one letter; nothing is taken for an option it only begins.

    Args:
        command: its name.
        does: what it does, for its help.
        more: what else there is to say.
        code: the exit code of a mistake in its arguments.
    """

    def __init__(self, command: str, does: str, more: str = "", code: int = _USAGE) -> None:
        super().__init__(
            prog=f"tether {command}",
            description=does,
            epilog=more or None,
            formatter_class=_Help,
            allow_abbrev=False,
            add_help=False,
        )
        self._code = code
        self._positionals.title = "Arguments"
        self._optionals.title = "Options"
        self.add_argument("-h", "--help", action="help", help="show this and exit")

    def name(self) -> None:
        """Take the name of one resource."""
        self.add_argument("name", metavar="NAME", help="a name, OWNER/NAME, or the beginning of an id")

    def names(self, number: str = "*", what: str = NAME_HELP) -> None:
        """Take names of resources."""
        self.add_argument("names", nargs=number, metavar="NAME", help=what)

    def flag(self, *options: str, does: str, into: str | None = None) -> None:
        """Take an option without a value."""
        self.add_argument(
            *options, action="store_true", help=does, dest=into or options[-1].strip("-").replace("-", "_")
        )

    def json(self) -> None:
        """Take ``--json``."""
        self.flag("--json", does="print JSON, for programs", into="as_json")

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the arguments; a mistake among them ends the program with a message."""
        found, unknown = self.parse_known_intermixed_args(argv)
        if unknown:
            self._refuse(unknown[0])
        return found

    def _refuse(self, unknown: str) -> NoReturn:
        if not unknown.startswith("-"):
            self.error(f"there is one argument too many: {unknown}")
        import difflib

        known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        close = difflib.get_close_matches(unknown.partition("=")[0], known, 1, _CLOSE)
        self.error(f"there is no option {unknown}" + (f"; is {close[0]} meant?" if close else ""))

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse would take no notice of an output that can't be written.
        text.say(message.rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end."""
        text.warn(f"{self.prog.removeprefix('tether ')}: {message}\nSee '{self.prog} --help'.")
        sys.exit(self._code)


def seconds(given: str) -> float:
    """Return a time span: ``90``, ``1.5s``, ``10m``, ``2h``, ``1d``."""
    number = given.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = _UNITS.get(given[len(number) :] or "s")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if unit is None or not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{given!r} is no time span; write 90, 90s, 10m, 2h or 1d")
    return value * unit


def count(given: str) -> int:
    """Return a number of 0 or more."""
    if not given.isdecimal():
        raise argparse.ArgumentTypeError(f"{given!r} is no number of 0 or more")
    return int(given)


def moment(given: str) -> float:
    """Return a time, in seconds since the epoch: a span before now, an ISO 8601 date or time, or ``@`` and such seconds."""
    from datetime import datetime

    if given.startswith("@"):
        try:
            return float(given[1:])
        except ValueError:
            given = given[1:]
    try:
        return time.time() - seconds(given)
    except argparse.ArgumentTypeError:
        pass
    try:
        if ":" in given and "-" not in given:
            # A time of day is today's.
            given = f"{time.strftime('%Y-%m-%d')}T{given}"
        return datetime.fromisoformat(given).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{given!r} is no time; write a span such as 10m, or 2026-11-25T04:00, or 04:00 for today"
        ) from None
