"""``tether doctor``: what this machine offers, and what follows."""

from __future__ import annotations

import os
import platform
import stat
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tether.cli import text
from tether.cli.arguments import Parser
from tether.cli.records import state_dir
from tether.errors import TetherError
from tether.guard.launch import Hub
from tether.ledger import place
from tether.ledger.reading import Reading
from tether.life import registry
from tether.life.context import Context
from tether.life.driver import CanDiagnose
from tether.linux import cgroup, tier
from tether.model import Finding

__all__ = ["doctor"]

_STATE_DIR = "state directory"
_NEEDED = ("guard", _STATE_DIR, "connection", "pods")


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
    """Look whether an owner could use the state directory. It is not made for that."""
    folder = state_dir()
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return _new_state_dir(folder)
    except OSError as error:
        return _unusable(folder, error.strerror or str(error))
    wrong = _wrong_with(folder, status)
    if wrong:
        return _unusable(folder, wrong)
    try:
        Reading(folder).close()
    except TetherError as error:
        return Finding(_STATE_DIR, False, str(error), "the next owner sets it aside, or says why not")
    if stat.S_IMODE(status.st_mode) & 0o077:
        return Finding(_STATE_DIR, True, f"{folder}, open to others", "the next owner makes it private")
    return Finding(_STATE_DIR, True, str(folder), "private, and the ledger can be written")


def _wrong_with(folder: Path, status: os.stat_result) -> str:
    if not stat.S_ISDIR(status.st_mode):
        return "it is no directory of its own"
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else "it is not writable"


def _unusable(folder: Path, why: str) -> Finding:
    return Finding(
        _STATE_DIR, False, f"{folder} can't be used: {why}", f"no owner can be made; set {place.VARIABLE} to another"
    )


def _new_state_dir(folder: Path) -> Finding:
    nearest = next(parent for parent in folder.parents if parent.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)) or _is_of_kernel(nearest):
        return _unusable(folder, f"{nearest} is not writable")
    return Finding(_STATE_DIR, True, f"{folder}, not made yet", "the first owner makes it, private")


def _is_of_kernel(folder: Path) -> bool:
    # access(2) lets root write in /proc; mkdir(2) does not.
    return folder.parts[:2] in (("/", "proc"), ("/", "sys"))


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


def _cluster(context: str | None) -> list[Finding]:
    # What was proved of a cluster is in the state directory in use; reading makes none.
    found: list[Finding] = registry.driver_class("kubernetes")(Context(state_dir())).diagnose_cluster(context)
    return found


def doctor(argv: Sequence[str]) -> int:
    """Say what this machine, another host or a cluster offers for holding what apps start, and what follows from what it lacks."""
    parser = Parser(
        "doctor",
        "Say what this machine, another host or a cluster offers for holding what apps start, and what follows from what it lacks. "
        "A real guard is armed for it, in a folder of its own; in a cluster nothing is created. Exits with 1 if nothing can be "
        "started there.",
    )
    parser.add_argument("host", nargs="?", metavar="[USER@]HOST", help="another host, as ~/.ssh/config reaches it")
    parser.add_argument(
        "--kubernetes",
        nargs="?",
        const="",
        metavar="CONTEXT",
        help="a cluster (that of the kubeconfig's current context): this account's rights there, and whether the fuse is proved",
    )
    parser.json()
    given = parser.read(argv)
    if given.host is not None and given.kubernetes is not None:
        parser.error("a host and a cluster are looked at one at a time")
    text.in_own_words()
    if given.kubernetes is not None:
        findings = _cluster(given.kubernetes or None)
    else:
        findings = _here() if given.host is None else _host(given.host)
    if given.as_json:
        text.print_json([asdict(finding) for finding in findings])
    else:
        _print(findings)
    return int(any(not each.good and each.what in _NEEDED and "armed" not in each.found for each in findings))


def _print(findings: list[Finding]) -> None:
    """Print each finding on its lines, wrapped to the terminal."""
    import textwrap

    indent = max(len(each.what) for each in findings) + 6
    for each in findings:
        mark = text.paint("ok", "green") if each.good else text.paint("--", "red")
        said = f"{text.clean(each.found)}: {text.clean(each.follows)}" if each.follows else text.clean(each.found)
        lines = textwrap.wrap(said, max(20, text.columns() - indent), break_long_words=False) or [""]
        text.say(f"{each.what.ljust(indent - 6)}  {mark}  {lines[0]}")
        for line in lines[1:]:
            text.say(" " * indent + line)


def _here() -> list[Finding]:
    return [_kernel(), _pidfd(), _children_file(), _guard(), _state_dir(), *_drivers()]
