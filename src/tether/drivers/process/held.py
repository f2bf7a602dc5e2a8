"""A tree that this process holds the line to, and the wait for its end."""

from __future__ import annotations

import threading

from tether.drivers.process.receipts import outcome_of
from tether.guard.launch import ShimChannel
from tether.guard.line import describe_stuck
from tether.guard.wire import Incoming, Kind, Message
from tether.life.machine import Event, MainExited, Paused, Stuck

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

    def events(self, message: Message) -> list[Event]:
        """What a message of its shim says; nothing where that is for its start alone."""
        if message.kind == Kind.EXITED:
            return [MainExited(message.number("status") or 0, bool(message.number("ending")))]
        if message.kind == Kind.PAUSED:
            return [Paused(message.number("signal") or 0)]
        if message.kind == Kind.STUCK:
            hopeless = set(message.texts("reason")) == {"other user"}
            self.note_stuck(describe_stuck(message), hopeless)
            said = f"killed and still there: {self.stuck}; it is settled when that is over"
            return [Stuck(said, hopeless=hopeless)]
        return [outcome_of(message)] if message.kind == Kind.ENDED else []

    @property
    def stuck(self) -> str:
        """What is said of members that are still there; empty if nothing is."""
        return self._stuck
