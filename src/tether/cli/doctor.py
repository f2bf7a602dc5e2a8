"""``tether doctor``: what this machine offers, and what follows."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tether.cli.records import print_json, print_table
from tether.drivers import CanDiagnose, Context
from tether.errors import TetherError
from tether.guard.launch import Hub
from tether.ledger import place
from tether.ledger.store import Ledger
from tether.life import registry
from tether.linux import cgroup, tier
from tether.model import Finding

__all__ = ["add_to"]

_NEEDED = ("guard", "state directory", "connection")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def _kernel() -> Finding:
    release = f"{platform.system()} {platform.release()}"
    return Finding("kernel", sys.platform == "linux", release, "tether is made for Linux first")


def _pidfd() -> Finding:
    if tier.has_pidfd():
        return Finding("pidfd", True, "available", "a recycled pid is never signalled")
    return Finding("pidfd", False, "missing", "identity is compared just before a signal, with a gap of microseconds")


def _children_file() -> Finding:
    pid = os.getpid()
    if Path(f"/proc/{pid}/task/{pid}/children").exists():
        return Finding("children files", True, "available", "trees are read directly")
    return Finding("children files", False, "missing", "every process is looked at to list a tree, which is slower")


def _guard() -> Finding:
    """Start a real hub and have a real shim say that it is armed: nothing less proves it."""
    with tempfile.TemporaryDirectory() as folder:
        state_dir = place.prepare(Path(folder) / "state")
        lifeline, held = os.pipe()
        try:
            hub = Hub("doctor", state_dir, cgroup.owner_folder("doctor"), lifeline)
        except TetherError as error:
            return Finding("guard", False, str(error), "nothing can be started")
        finally:
            os.close(lifeline)
        try:
            active = hub.shim().tier
        except TetherError as error:
            return Finding("guard", False, str(error), "nothing can be started")
        finally:
            hub.say_bye()
            hub.close()
            os.close(held)
            hub.wait(5.0)
    follows = {
        tier.CGROUP: "every descendant is held by a subreaper, and by a cgroup if that is killed",
        tier.SHIM: "every descendant is held by a subreaper; no writable cgroup v2, so that what outlives shim, reaper "
        "and owner killed at once is found by identity, session, log and tag only",
        tier.PORTABLE: "no subreaper: descendants are followed by looking at the process table, and one that leaves its "
        "session between two looks with its environment emptied is lost",
    }[active]
    return Finding("guard", active == tier.CGROUP, f"armed, tier {active}", follows)


def _state_dir() -> Finding:
    folder = place.state_dir()
    try:
        ledger = Ledger(place.prepare(folder))
    except TetherError as error:
        return Finding("state directory", False, str(error), "no owner can be made")
    ledger.close()
    return Finding("state directory", True, str(folder), "private, and the ledger can be written")


def _drivers() -> list[Finding]:
    """What each driver that can tell says of what it needs."""
    with tempfile.TemporaryDirectory() as folder:
        context = Context(place.prepare(Path(folder) / "state"))
        drivers = [registry.driver_class(kind)(context) for kind in registry.kinds()]
        return [driver.diagnose() for driver in drivers if isinstance(driver, CanDiagnose)]


def _host(destination: str) -> list[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        driver = registry.driver_class("ssh")(Context(place.prepare(Path(folder) / "state")))
        try:
            found: list[Finding] = driver.diagnose_host(destination)
        finally:
            driver.close()
        return found


def doctor(
    host: Annotated[
        str | None, typer.Argument(metavar="[USER@HOST]", help="Look at another host, as ~/.ssh/config reaches it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what this machine, or another host, offers for holding what apps start, and what follows from what it lacks.

    Exits with 1 if nothing can be started there.
    """
    findings = _here() if host is None else _host(host)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [[each.what, "ok" if each.good else "--", each.found, each.follows] for each in findings]
        print_table(["WHAT", "", "FOUND", "WHAT FOLLOWS"], rows)
    if any(not each.good and each.what in _NEEDED and "armed" not in each.found for each in findings):
        raise typer.Exit(1)


def _here() -> list[Finding]:
    return [_kernel(), _pidfd(), _children_file(), _guard(), _state_dir(), *_drivers()]
