"""``tether check``: is this plugin lifecycle-aware, and if not, why."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tether.cli import text
from tether.cli.arguments import Parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ["check"]


def check(argv: Sequence[str]) -> int:
    """Say whether a plugin is lifecycle-aware: which method is missing, can't be called, or returns a wrong type."""
    parser = Parser(
        "check",
        "Say whether a plugin is lifecycle-aware: which method is missing, can't be called, or returns a wrong type. "
        "The methods that only tell are called, force_cleanup() is not. Exits with 1 if there is a problem.",
    )
    parser.add_argument("target", metavar="MODULE:NAME", help="a plugin: an object, or a class to be called")
    parser.json()
    given = parser.read(argv)
    target: str = given.target
    module, colon, name = target.partition(":")
    if not colon or not _is_dotted(module) or not _is_dotted(name):
        parser.error(f"write MODULE:NAME, two dotted names such as my_app.plugins:Server, not {target!r}")
    found = _apart(module, name)
    problems = found["problems"]
    if given.as_json:
        text.print_json({"target": target, "lifecycle_aware": not problems, "problems": problems})
    else:
        for problem in problems:
            text.say(f"{text.clean(target)}: {text.lines(problem)}")
        if not problems:
            text.say(f"{text.clean(target)}: lifecycle-aware, mode {text.clean(found['mode'])}")
    return 1 if problems else 0


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _apart(module: str, name: str) -> dict[str, Any]:
    """Look at a plugin in a fork, so that whatever its module does, there is an answer.

    What it prints goes to standard error: standard output is the answer's.
    """
    answer, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(answer)
        _look_and_say(module, name, said)
    os.close(said)
    with os.fdopen(answer, "rb") as file:
        # Its own copies of the pipe are closed when programs are executed, and it waits for nothing that it forks.
        data = file.readline()
    _, status = os.waitpid(pid, 0)
    if data:
        found: dict[str, Any] = json.loads(data)
        return found
    code = os.waitstatus_to_exitcode(status)
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return {"problems": [f"the process that looked at it was ended, {how}, by what it imports or calls"]}


def _look_and_say(module: str, name: str, said: int) -> None:
    try:
        os.dup2(2, 1)
        found = _looked_at(module, name)
        os.write(said, json.dumps(found).encode() + b"\n")
    finally:
        # Nothing of the module's own has a say in how this ends: neither threads nor exit handlers.
        os._exit(0)


def _looked_at(module: str, name: str) -> dict[str, Any]:
    """Import a plugin and look at it. Whatever it raises is one more thing to report."""
    import importlib
    from contextlib import suppress

    with suppress(OSError):
        # A working directory that was deleted has no modules.
        sys.path.insert(0, str(Path.cwd()))
    try:
        plugin: Any = importlib.import_module(module)
    except BaseException as error:
        return {"problems": [f"module {module!r} can't be imported: {_described(error)}"]}
    for part in name.split("."):
        try:
            plugin = getattr(plugin, part)
        except AttributeError as error:
            return {"problems": [f"module {module!r} has no {name!r}: {_described(error)}"]}
        except BaseException as error:
            return {"problems": [f"{name!r} of module {module!r} can't be read: {_described(error)}"]}
    try:
        return _problems_of(plugin, f"{module}:{name}")
    except BaseException as error:
        return {"problems": [f"it raised {_described(error)} while it was looked at"]}


def _problems_of(plugin: Any, target: str) -> dict[str, Any]:
    from tether.owner.plugin import problems

    if isinstance(plugin, type):
        try:
            plugin = plugin()
        except BaseException as error:
            return {"problems": [f"{target} is a class, and can't be called without arguments: {_described(error)}"]}
    found = problems(plugin)
    return {"problems": found, "mode": None if found else str(plugin.get_execution_mode().value)}


def _described(error: BaseException) -> str:
    """Return an error in a line, with the place where a module is no Python."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    if isinstance(error, SystemExit):
        return f"it exits when it is imported or called, with {error.code!r} (SystemExit)"
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__
