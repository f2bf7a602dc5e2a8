"""The clock that everything with a time limit is given, so that a test can give another."""

from __future__ import annotations

import threading
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Time, and waiting for it."""

    def monotonic(self) -> float:
        """Return seconds on a clock that only goes forward."""
        ...

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        """Wait, holding ``condition``, until it is notified or the time has passed."""
        ...


class SystemClock:
    """The clock of this machine; setting its date changes nothing here."""

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        """See `Clock`."""
        condition.wait(timeout_s)
