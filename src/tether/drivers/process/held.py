"""A tree that this process holds the line to, and the wait for its end."""

from __future__ import annotations

import threading

from tether.guard.launch import ShimChannel
from tether.guard.wire import Incoming

__all__ = ["Held"]


class Held:
    """A tree that this process holds the line to."""

    def __init__(self, channel: ShimChannel) -> None:
        self.channel = channel
        self.incoming = Incoming(channel.socket)
        # Taken by itself, as that of `Managed` is.
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
        self._ended = False
        self._hopeless = False
        self._stuck = ""

    @property
    def ended(self) -> bool:
        """Whether it was seen to have ended."""
        return self._ended

    def end(self) -> None:
        """It has ended."""
        with self._lock:
            self._ended = True
            self._condition.notify_all()

    def note_stuck(self, said: str, hopeless: bool) -> None:
        """Members are left; where waiting changes nothing (another user's), nobody waits any longer."""
        with self._lock:
            self._stuck = said
            self._hopeless = hopeless
            self._condition.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended; False if it did not in time, or can't."""
        with self._lock:
            self._condition.wait_for(lambda: self._ended or self._hopeless, timeout_s)
            return self._ended

    @property
    def stuck(self) -> str:
        """What is said of members that are still there; empty if nothing is."""
        return self._stuck
