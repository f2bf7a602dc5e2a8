"""``tether exec``: execute a command in what runs, where that has an inside: a container, a pod, an environment."""

from __future__ import annotations

import os
import sys

from tether.cli import terminal, text
from tether.cli.arguments import Parser
from tether.cli.asked import FAILED
from tether.cli.records import Records
from tether.errors import Busy, Gone, SpecError
from tether.life.driver import CanExecute, HasInside
from tether.life.terminals import HasTerminals, HasTerminalsInside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

    from tether.cli.records import Entry
    from tether.model import Handle

__all__ = ["execute"]

_NOT_SEEN = 125
_ELSE = {
    "process": "its files, network and programs are this machine's: run the command without 'tether exec'",
    "ssh": "run the command on its host, with ssh",
}
"""What to do instead, by kind."""


def execute(argv: Sequence[str]) -> int:
    """Execute a command in a resource, and return its exit code."""
    ours, found, command = _split(argv)
    parser = Parser(
        "exec",
        "Execute a command in a container or a pod that runs, or in an environment; ends with the command's exit code, with 125 if "
        "it was not executed. Its output comes as it is written.",
        "The command stands behind '--', and is passed on as it is:\n\n  tether exec web -- sh -c 'echo $HOSTNAME'\n\n"
        "With -it it has this terminal, as for a shell. Without it goes on in a container when Ctrl-C ends this command, and ends "
        "with the container.",
        code=FAILED,
    )
    parser.usage = "tether exec [OPTIONS] NAME -- COMMAND [ARGUMENT ...]"
    parser.name()
    parser.flag("-i", "--stdin", does="pass on standard input, all of it")
    parser.flag("-t", "--tty", does="give it a terminal; with -i what is typed here is typed there")
    parser.add_argument("-u", "--user", metavar="USER", help="as whom; in a container only")
    parser.add_argument("-w", "--workdir", metavar="DIR", help="where; in a container only")
    parser.add_argument(
        "-e",
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="a variable; without a value, as it is here",
    )
    given = parser.read(ours)
    if not command:
        parser.error(
            "there is no command to execute" if found else "put '--' before the command: tether exec NAME -- COMMAND"
        )
    env = dict(_variable(each) for each in given.env)
    entry, driver, handle = _running(given.name, Records())
    if given.tty:
        terminal.check(has_input=given.stdin)
        if isinstance(driver, HasTerminals):
            asked = {"user": given.user, "workdir": given.workdir, "has_input": given.stdin}
            far = driver.open_terminal(handle, command, env=env, **asked)
            return _seen(terminal.converse(far, has_input=given.stdin), command)
    if isinstance(driver, CanExecute) and not given.tty:
        return _execute(driver, handle, command, env, given)
    if isinstance(driver, HasInside):
        if given.user is not None or given.workdir is not None:
            raise SpecError(f"--user and --workdir are for containers; {entry.full_name} is of kind {entry.row.kind}")
        by = driver.inside(handle, command, env)
        if given.tty and isinstance(driver, HasTerminalsInside):
            by = driver.inside_terminal(handle, command)
        _become(by, env, has_input=given.stdin)
    raise SpecError(
        f"nothing can be executed in {entry.full_name}, which is of kind {entry.row.kind}; "
        + _ELSE.get(entry.row.kind, "containers, pods and environments have an inside")
    )


def _split(argv: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    """Return what stands before the first ``--``, whether there is one, and what stands behind it."""
    words = list(argv)
    if "--" not in words:
        return words, False, []
    at = words.index("--")
    return words[:at], True, words[at + 1 :]


def _running(name: str, records: Records) -> tuple[Entry, Any, Handle]:
    """Return the one resource that a name means, with its driver. Raises NotFound, SpecError, Busy, Gone."""
    entry = records.one(name)
    row = entry.row
    if entry.is_elsewhere:
        raise Busy(
            f"resource {entry.full_name} is elsewhere: its owner is {entry.whereabouts}; execute the command there"
        )
    if row.state.is_final:
        raise Gone(f"resource {entry.full_name} has ended ({row.state.value}); nothing can be executed in it")
    if row.handle is None:
        raise Busy(f"resource {entry.full_name} is just being created; try again in a moment")
    return entry, records.drivers.of(row.kind), row.handle


def _variable(given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not name or (not equals and name not in os.environ):
        raise SpecError(f"--env {given!r}: there is no variable of this name here; write NAME=VALUE")
    return name, value if equals else os.environ[name]


def _execute(driver: CanExecute, handle: Handle, command: list[str], env: Mapping[str, str], given: Any) -> int:
    sent = sys.stdin.buffer.read() if given.stdin else b""
    asked = {"env": env, "user": given.user, "workdir": given.workdir, "sent": sent}
    code, _, _ = driver.execute(handle, command, timeout_s=None, heard=_show, **asked)
    return _seen(code, command)


def _seen(code: int | None, command: Sequence[str]) -> int:
    """Return the exit code of a command, or say that none was seen."""
    if code is None:
        text.warn(f"exec: how {command[0]} ended was not seen")
        return _NOT_SEEN
    return code


def _show(stream: int, data: bytes) -> None:
    """Pass on what came, at once: somebody may be waiting for it."""
    if stream == 1:
        text.write(data)
        text.flush()
    else:
        sys.stderr.buffer.write(data)
        sys.stderr.flush()


def _become(command: Sequence[str], env: Mapping[str, str], *, has_input: bool) -> NoReturn:
    """Become the command that runs another in an environment or a pod."""
    if not has_input:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
    os.execvpe(command[0], list(command), {**os.environ, **env})
