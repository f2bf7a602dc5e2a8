"""What happens, told to whoever wants to know: a log line and a call for each event."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Notice", "Telemetry"]

_log = logging.getLogger("tether")
# A library does not write to an app's standard error; the app decides.
_log.addHandler(logging.NullHandler())
_LEVELS = {"failed": logging.WARNING, "lost": logging.WARNING, "stuck": logging.WARNING, "left behind": logging.WARNING}


@dataclass(frozen=True)
class Notice:
    """One event. ``resource`` is None if it happened to the owner; ``at`` is in seconds since the epoch."""

    owner: str
    resource: str | None
    name: str
    what: str
    detail: str = ""
    at: float = field(default_factory=time.time)


class Telemetry:
    """Passes notices on."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Notice], object]] = []

    def subscribe(self, listener: Callable[[Notice], object]) -> None:
        """Have ``listener`` called with each notice, in the thread where it happens; it must not block."""
        self._listeners.append(listener)

    def publish(self, notice: Notice) -> None:
        """Log a notice and pass it on. A listener that raises is logged, and keeps nobody from anything."""
        level = _LEVELS.get(notice.what, logging.DEBUG)
        _log.log(level, "%s: %s%s", notice.name, notice.what, f" ({notice.detail})" if notice.detail else "")
        for listener in self._listeners:
            try:
                listener(notice)
            except Exception:
                _log.exception("a listener for events failed")
