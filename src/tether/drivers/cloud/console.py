"""What a machine wrote on its console, as its provider shows it; saved when the machine is ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tether.drivers.cloud.provider import HasConsole, Provider
from tether.errors import DriverUnavailable
from tether.ledger import logs, place
from tether.model import Handle

__all__ = ["follow", "read", "save"]

_PAUSE_S = 2.0


def read(state_dir: Path, provider: Provider, handle: Handle, lines: int | None) -> bytes:
    """Return the last lines of it, or all; empty where a provider shows none. Raises DriverUnavailable."""
    saved = logs.path(state_dir, handle.tag)
    if saved.exists():
        return logs.last_lines(saved.read_bytes(), lines)
    if "id" not in handle.data or not isinstance(provider, HasConsole):
        return b""
    return logs.last_lines(provider.console(handle.data["id"]), lines)


def follow(provider: Provider, handle: Handle, is_gone: Callable[[], bool]) -> Iterator[bytes]:
    """Yield what it says from now on; what is shown is the end of it, so that a beginning may have left it meanwhile."""
    if "id" not in handle.data or not isinstance(provider, HasConsole):
        return
    known = provider.console(handle.data["id"])
    while not is_gone():
        time.sleep(_PAUSE_S)
        text = provider.console(handle.data["id"])
        yield text.removeprefix(known)
        known = text


def save(state_dir: Path, provider: Provider, tag: str, machine: str) -> None:
    """Keep it. What can't be had keeps nothing from being ended."""
    if isinstance(provider, HasConsole):
        with suppress(DriverUnavailable, OSError):
            place.write_private(logs.path(state_dir, tag), provider.console(machine))
