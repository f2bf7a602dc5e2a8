"""What waits to be written, and whether it can be."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from tether.errors import LedgerError
from tether.ledger.database import Held, Replaced

__all__ = ["Blocked", "Entry"]

_log = logging.getLogger("tether")

_SAID_AFTER_S = 5.0


class Entry:
    """One change that is to be committed; ``done`` when it was, or can't be, which ``error`` says then."""

    __slots__ = ("change", "done", "error", "result", "synced")

    def __init__(self, change: Callable[[Any], Any], *, synced: bool = False) -> None:
        self.change = change
        self.synced = synced
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None


class Blocked:
    """Whether nothing can be written just now; true if so."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._is_said = False

    def __bool__(self) -> bool:
        return self._since is not None

    def clear(self) -> None:
        """It can be again."""
        self._since, self._is_said = None, False

    def note(self, error: LedgerError) -> None:
        """It can't be, and is said once; of a ledger that others only use a lot, when that has lasted."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        passes = isinstance(error, Held | Replaced) and now - self._since < _SAID_AFTER_S
        if not self._is_said and not passes:
            self._is_said = True
            _log.warning("%s; what happens is recorded when it can be", error)
