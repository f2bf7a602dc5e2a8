"""The drivers at hand."""

from __future__ import annotations

import threading

from tether.life import registry
from tether.life.context import Context
from tether.life.driver import CanLook, Driver, HasConnections

__all__ = ["Drivers"]


class Drivers:
    """The drivers of one owner, sweep or command: each made when its kind is first met.

    Args:
        context: what they may use.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._made: dict[str, Driver] = {}

    def of(self, kind: str) -> Driver:
        """Return the driver of a kind. Raises DriverUnavailable."""
        with self._lock:
            if kind not in self._made:
                self._made[kind] = registry.driver_class(kind)(self._context)
            return self._made[kind]

    def look(self, within_s: float) -> None:
        """Have those that can look at all their resources at once, side by side, and return in time."""
        with self._lock:
            looks = [driver.look for driver in self._made.values() if isinstance(driver, CanLook)]
        threads = [threading.Thread(target=look, args=(within_s,), name="tether-look", daemon=True) for look in looks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(within_s)

    def close(self) -> None:
        """Close the connections of those that keep any; what they started goes on."""
        for driver in self._made.values():
            if isinstance(driver, HasConnections):
                driver.close()
