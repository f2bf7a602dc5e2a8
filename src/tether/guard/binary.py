"""Where ``tether-guard`` is: the native program, built when tether is installed."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from tether.errors import ReaperError

__all__ = ["VARIABLE", "machines", "path", "path_for"]

VARIABLE = "TETHER_GUARD"
"""Another build of the guard, for instance one with sanitizers."""

_FOLDER = Path(__file__).parent / "bin"
_ALIASES = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l", "armv7": "armv7l"}


def _machine(name: str) -> str:
    return _ALIASES.get(name.lower(), name.lower())


def machines() -> list[str]:
    """Return the machine types, as ``uname -m`` names them, for which there is a program here."""
    return sorted(each.name.removeprefix("tether-guard-") for each in _FOLDER.glob("tether-guard-*"))


def path_for(machine: str) -> Path:
    """Return the program for a type of machine. Raises ReaperError if there is none."""
    found = _FOLDER / f"tether-guard-{_machine(machine)}"
    if not found.is_file():
        there = ", ".join(machines()) or "none"
        raise ReaperError(
            f"there is no tether-guard for {machine!r} here (there is: {there}); install a wheel of tether that has it, "
            f"or build it: make guard, in tether's sources"
        )
    return found


@cache
def path() -> str:
    """Return the program for this machine. Raises ReaperError if there is none, or it can't be executed."""
    found = os.environ.get(VARIABLE) or str(path_for(os.uname().machine))
    if not os.access(found, os.X_OK):
        raise ReaperError(f"{found} can't be executed: is its file system mounted with noexec? Nothing was started")
    return found
