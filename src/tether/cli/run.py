"""``tether run``: run a command so that nothing of it outlives this one, and otherwise as if tether was not there."""

from __future__ import annotations

from typing import Annotated

import typer

from tether.cli.execute import execute

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}, no_args_is_help=True
    )(run)


def run(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its arguments.")],
    name: Annotated[str | None, typer.Option(help="What it is called in 'tether ps'.")] = None,
    grace: Annotated[float, typer.Option(min=0.0, help="Seconds from SIGTERM to the end by force.")] = 10.0,
) -> None:
    """Run a command; when it ends, or this process does by whatever cause, nothing of it is left."""
    raise typer.Exit(execute(command, name, grace, port=None, with_parent=None))
