"""One resource under supervision, and its last words."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tether.drivers import Driver
from tether.lifecycle import Event, Life
from tether.model import Handle, OnDeath, State

__all__ = ["Managed", "new_id", "tail"]

_TAIL_BYTES = 64 * 1024


def new_id() -> str:
    """Return a new tag: short, and never used before."""
    return secrets.token_hex(8)


def tail(path: Path | None, lines: int) -> str:
    """Return the last lines of a file, as text; empty if there is no file."""
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            size = file.tell()
            span = max(_TAIL_BYTES, 512 * lines)
            file.seek(max(0, size - span))
            data = file.read()
    except OSError:
        return ""
    return "\n".join(data.decode(errors="replace").splitlines()[-lines:]) if lines else ""


class Managed:
    """One resource under supervision.

    Attributes:
        tag, name, spec, driver: fixed.
        life: where it is in its life; changes under ``condition``, which is notified then.
        handle: the driver's; None before it was created.
        fence: the number of its ownership.
    """

    def __init__(self, tag: str, name: str, spec: Any, driver: Driver, on_death: OnDeath) -> None:
        self.tag = tag
        self.name = name
        self.spec = spec
        self.driver = driver
        self.on_death = on_death
        self.life = Life(stays_up=spec.stays_up)
        self.handle: Handle | None = None
        self.fence = 1
        self.condition = threading.Condition(threading.RLock())
        self.early: list[Event] = []
        # Looked up by name, not isinstance(): that costs a start more than anything else of this object.
        self._port_of: Callable[[Handle], int | None] | None = getattr(driver, "port", None)
        self._log_of: Callable[[Handle], Path | None] | None = getattr(driver, "log_path", None)

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self.life.state

    @property
    def port(self) -> int | None:
        """Its port on this machine, if it has one."""
        return None if self.handle is None or self._port_of is None else self._port_of(self.handle)

    @property
    def url(self) -> str | None:
        """Where it answers, if it has a port."""
        return None if self.port is None else f"http://127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path | None:
        """The file with its output, if it has one."""
        return None if self.handle is None or self._log_of is None else self._log_of(self.handle)

    def pids(self) -> tuple[int, ...]:
        """Its live processes on this machine."""
        if self.handle is None or self.state.is_final:
            return ()
        return self.driver.inspect(self.handle).pids
