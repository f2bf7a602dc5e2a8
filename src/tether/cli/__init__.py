"""The command line.

run.py      tether run
show.py     tether ps, tree, logs, events
end.py      tether stop, kill, reap, forget
doctor.py   tether doctor
check.py    tether check
costs.py    tether costs
records.py  what the others read of the ledger, and how names are looked up
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; the entry point ``tether``."""
    import typer

    from tether import __version__
    from tether.cli import check, costs, doctor, end, run, show
    from tether.errors import TetherError

    app = typer.Typer(
        name="tether",
        help="Nothing that your Python app starts outlives it, unless you said so.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    def show_version(value: bool) -> None:
        if value:
            typer.echo(f"tether {__version__}")
            raise typer.Exit

    @app.callback()
    def common(
        version: bool = typer.Option(
            False, "--version", callback=show_version, is_eager=True, help="Show the version and exit."
        ),
    ) -> None:
        pass

    for module in (run, show, end, doctor, check, costs):
        module.add_to(app)
    try:
        app()
    except TetherError as error:
        sys.stderr.write(f"tether: {error}\n")
        sys.exit(1)
    except BrokenPipeError:
        # The reader, for instance head(1), has seen enough.
        sys.stderr.close()
        sys.exit(141)
