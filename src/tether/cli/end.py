"""``tether stop``, ``kill``, ``reap`` and ``forget``: end things from outside their owner, or give them up."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from tether.cli.records import Records, print_json, print_table
from tether.drivers import HasPlan
from tether.errors import Busy, NotFound, TetherError
from tether.estate import settle as estate
from tether.estate.foresee import foresee
from tether.estate.standing import Standing
from tether.model import State

__all__ = ["add_to"]

_Name = Annotated[str, typer.Argument(help="A resource: its name, OWNER/NAME, or the beginning of its id.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("stop")(stop)
    app.command("kill")(kill)
    app.command("reap")(reap)
    app.command("forget")(forget)


def _end(name: str, grace: float | None, *, force: bool) -> None:
    records = Records()
    seen = records.one(name)
    row = seen.row
    if not force:
        seen.refuse_elsewhere("stop" if grace is not None else "kill")
    if row.handle is None:
        raise NotFound(f"resource {row.name} is on record but was never created; 'tether reap' settles it")
    driver = records.drivers.of(row.kind)
    who = "tether kill" if grace is None else "tether stop"
    records.ledger.add_event(row.owner, row.id, row.name, "asked to end", f"by {who}, from outside its owner")
    # Pids that were recorded elsewhere mean nothing here: what carries the tag is looked for.
    is_pid = seen.standing is Standing.ELSEWHERE and not isinstance(driver, HasPlan)
    try:
        for handle in driver.find(row.id) if is_pid else [row.handle]:
            if grace is None:
                driver.destroy(handle)
            else:
                driver.stop(handle, grace)
    except PermissionError as error:
        raise TetherError(f"resource {row.name} belongs to another user, who alone can end it: {error}") from error
    if not seen.owner_alive:
        # Nobody else would write it down.
        estate.sweep(records.ledger, records.state_dir, patient=True)
    sys.stdout.write(f"{row.name}: gone\n")


_Force = Annotated[bool, typer.Option("--force", help="Also what is elsewhere, so that its owner can't be judged.")]


def stop(
    name: _Name,
    grace: Annotated[float, typer.Option(min=0.0, help="Seconds from the polite signal to the end by force.")] = 10.0,
    force: _Force = False,
) -> None:
    """End a resource politely, by force after the grace; returns when it has ended."""
    _end(name, grace, force=force)


def kill(name: _Name, force: _Force = False) -> None:
    """End a resource by force; returns when it has ended."""
    _end(name, None, force=force)


def reap(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also what was kept for the next owner.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    force: _Force = False,
    install: Annotated[
        bool, typer.Option("--install", help="Print a systemd unit and timer, and a cron line.")
    ] = False,
) -> None:
    """End what owners left that are dead, whatever killed them. Exits with 1 if something could not be ended."""
    if install:
        sys.stdout.write(_INSTALL.format(command=f"{shlex.quote(sys.executable)} -m tether reap"))
        return
    records = Records()
    also = [owner.id for owner in records.look.owners()] if force else []
    if dry_run:
        outcomes = foresee(records.look, records.state_dir, kept_too=everything, also=also)
    else:
        outcomes = estate.sweep(records.ledger, records.state_dir, patient=True, kept_too=everything, also=also)
    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
    elif outcomes:
        rows = [[each.owner, each.name, each.kind, each.what, each.detail] for each in outcomes]
        print_table(["OWNER", "NAME", "KIND", "WHAT", "DETAIL"], rows)
    else:
        sys.stdout.write("nothing to settle: no owner has died and left something\n")
    if any(outcome.what == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def forget(name: _Name) -> None:
    """Give up a resource of a dead owner that can't be reached any more: it is not ended, only no longer on record as live.

    Says what is given up. What can be reached is not forgotten: 'tether reap' ends it.
    """
    records = Records()
    seen = records.one(name)
    row = seen.row
    if seen.owner_alive and seen.owner.ended is None:
        raise Busy(
            f"resource {row.name} has a living owner, pid {seen.owner.identity.pid}; stop it there, or 'tether kill {row.id}'"
        )
    if seen.status.state not in (State.LOST, State.GONE):
        raise Busy(f"resource {row.name} can be reached; 'tether reap' ends it")
    where = ", ".join(f"{key} {value}" for key, value in seen.details.items() if value is not None) or "where it was"
    error = row.reason or seen.status.reason
    said = f"given up by 'tether forget': if it still runs, nobody ends it ({where}); last error: {error}"
    records.ledger.write(row.id, row.fence, State.FAILED, [("forgotten", said)], reason=said, exit_code=row.exit_code)
    sys.stdout.write(f"{row.name} ({row.kind}, id {row.id}): {said}\n")
    estate.sweep(records.ledger, records.state_dir)


_INSTALL = """\
# ~/.config/systemd/user/tether-reap.service
[Unit]
Description=End what dead tether owners left

[Service]
Type=oneshot
ExecStart={command}

# ~/.config/systemd/user/tether-reap.timer
[Unit]
Description=End what dead tether owners left, at boot and every five minutes

[Timer]
OnStartupSec=30
OnUnitActiveSec=5min

[Install]
WantedBy=timers.target

# Then: systemctl --user daemon-reload && systemctl --user enable --now tether-reap.timer
#
# Or, for cron, a line for 'crontab -e':
# */5 * * * * {command} >/dev/null
"""
