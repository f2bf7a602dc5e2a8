"""``tether check``: is this plugin lifecycle-aware, and if not, why."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tether.cli.records import print_json
from tether.errors import NotFound
from tether.owner.plugin import problems

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check")(check)


def _load(target: str) -> Any:
    module, colon, name = target.partition(":")
    if not colon or not name:
        raise typer.BadParameter(f"write MODULE:NAME, not {target!r}", param_hint="MODULE:NAME")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise NotFound(f"module {module!r} can't be imported: {error}") from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise NotFound(f"module {module!r} has no {name!r}: {error}") from error
    return found


def check(
    target: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="A plugin: an object, or a class to be called.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether a plugin is lifecycle-aware: which method is missing, can't be called, or returns a wrong type.

    The methods that only tell are called, force_cleanup() is not. Exits with 1 if there is a problem.
    """
    plugin = _load(target)
    if isinstance(plugin, type):
        try:
            plugin = plugin()
        except Exception as error:
            found = [f"{target} is a class, and can't be called without arguments: {type(error).__name__}: {error}"]
        else:
            found = problems(plugin)
    else:
        found = problems(plugin)
    if as_json:
        print_json({"target": target, "lifecycle_aware": not found, "problems": found})
    elif found:
        for problem in found:
            sys.stdout.write(f"{target}: {problem}\n")
    else:
        mode = plugin.get_execution_mode().value
        sys.stdout.write(f"{target}: lifecycle-aware, mode {mode}\n")
    if found:
        raise typer.Exit(1)
