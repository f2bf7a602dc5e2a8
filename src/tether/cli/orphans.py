"""``tether reap --engine``: what an engine has of owners that are dead, and whose records have gone."""

from __future__ import annotations

from importlib import import_module

from tether.cli import text

__all__ = ["reap_engine"]


def reap_engine(address: str | None, *, dry_run: bool, as_json: bool) -> int:
    """End that, and say what came of what carries tether's labels there. Raises DriverUnavailable if the engine does not answer.

    Args:
        address: the engine's; None for the one in use here.
        dry_run: only say what would be done.
        as_json: for programs.

    Returns:
        The exit code: 1 if something could not be ended.
    """
    from dataclasses import asdict

    # By its name: faces know drivers by what they are called only.
    orphans = import_module("tether.drivers.container.orphans").reap(address, dry_run=dry_run)
    if as_json:
        text.print_json([asdict(each) for each in orphans])
    elif orphans:
        rows = [[each.name, each.tag, each.what, each.detail] for each in orphans]
        text.print_table(["NAME", "ID", "WHAT", "DETAIL"], rows, elastic={3: 20, 0: 8})
    else:
        text.say("nothing of tether's at this engine")
    return 1 if any(each.what == "failed" for each in orphans) else 0
