"""``tether reap --engine`` and ``--context``: what a service has of owners that are dead, and whose records have gone."""

from __future__ import annotations

from importlib import import_module

from tether.cli import text

__all__ = ["reap_at"]

_CALLED = {"container": "at this engine", "kubernetes": "in this cluster"}


def reap_at(kind: str, where: str | None, *, dry_run: bool, as_json: bool) -> int:
    """End that, and say what came of what carries tether's labels there. Raises DriverUnavailable if the service does not answer.

    Args:
        kind: of what it runs.
        where: an engine's address, or a context; None for the one in use here.
        dry_run: only say what would be done.
        as_json: for programs.

    Returns:
        The exit code: 1 if something could not be ended.
    """
    from dataclasses import asdict

    # By its name: faces know drivers by what they are called only.
    orphans = import_module(f"tether.drivers.{kind}.orphans").reap(where, dry_run=dry_run)
    if as_json:
        text.print_json([asdict(each) for each in orphans])
    elif orphans:
        rows = [[each.name, each.tag, each.what, each.detail] for each in orphans]
        text.print_table(["NAME", "ID", "WHAT", "DETAIL"], rows, elastic={3: 20, 0: 8})
    else:
        text.say(f"nothing of tether's {_CALLED[kind]}")
    return 1 if any(each.what == "failed" for each in orphans) else 0
