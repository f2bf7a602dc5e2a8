"""Ends the resources of an owner: all side by side, but for what waits for others."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue

from tether import threads
from tether.errors import DeadlineExceeded
from tether.life.managed import Managed
from tether.life.supervisor import Supervisor
from tether.owner import within
from tether.owner.shutdown import Order

__all__ = ["stop_all"]

_PATIENCE_S = 0.5
_FEW = 50
_STUCK_S = 10.0
_WHY = "its owner shuts down"


def stop_all(supervisor: Supervisor, resources: Sequence[Managed], grace: float | None) -> list[Exception]:
    """End resources, and return when they have ended, with what went wrong.

    The caller's thread asks those whose drivers need nobody to wait, and counts what it hears; the others get a thread each. Where
    no thread can be made, the caller's own ends them, one after the other. It may be called again after it was interrupted.

    Args:
        supervisor: ends them.
        resources: in the order of their start.
        grace: for each, instead of its spec's.
    """
    return _Ends(supervisor, resources, grace).carry_out()


class _Ends:
    def __init__(self, supervisor: Supervisor, resources: Sequence[Managed], grace: float | None) -> None:
        self._supervisor = supervisor
        self._resources = {managed.name: managed for managed in resources}
        self._grace = grace
        self._order = Order(
            {managed.name: managed.spec.needs for managed in resources},
            {managed.name: within.name_of(managed.spec) for managed in resources},
        )
        # What many wait for is seldom what they need: the more there are, the shorter is the moment for each.
        self._patient_until = time.monotonic() + _PATIENCE_S * min(1.0, _FEW / max(1, len(resources)))
        self._news: SimpleQueue[tuple[str, Exception | None]] = SimpleQueue()
        self._due: dict[str, float] = {}
        self._next_due = float("inf")
        self._without_thread: deque[str] = deque()
        self._errors: list[Exception] = []

    def carry_out(self) -> list[Exception]:
        while not self._order.is_over:
            for name in self._order.take(patient=time.monotonic() < self._patient_until):
                self._begin(name)
            if self._without_thread:
                self._stop(self._without_thread.popleft())
                self._hear(0)
            else:
                self._hear(self._pause())
        return self._errors

    def _begin(self, name: str) -> None:
        managed = self._resources[name]
        if managed.creator == threading.get_ident() or managed.is_held_here:
            # This interrupted its start, which ends it as soon as it goes on, or holds what others need to tell of it.
            self._without_thread.append(name)
            return
        try:
            asked = self._supervisor.begin_stop(managed, _WHY, grace=self._grace)
        except Exception as error:
            self._news.put((name, error))
            return
        if asked:
            due = self._due[name] = time.monotonic() + managed.grace + _STUCK_S
            self._next_due = min(self._next_due, due)
            managed.on_end(lambda: self._news.put((name, None)), of="outcome")
        else:
            self._begin_thread(name)

    def _begin_thread(self, name: str) -> None:
        if not threads.begin(lambda: self._stop(name), f"tether-stop-{name}"):
            self._without_thread.append(name)

    def _stop(self, name: str) -> None:
        try:
            self._supervisor.stop(self._resources[name], _WHY, grace=self._grace)
        except Exception as error:
            self._news.put((name, error))
        else:
            self._news.put((name, None))

    def _pause(self) -> float:
        """So long nothing happens by the clock."""
        now = time.monotonic()
        due = min(self._next_due, now + _STUCK_S)
        return max(0.0, (min(due, self._patient_until) if now < self._patient_until else due) - now)

    def _hear(self, pause_s: float) -> None:
        """Take in what has ended; wait so long for the first."""
        try:
            told = self._news.get(timeout=pause_s) if pause_s else self._news.get_nowait()
            while True:
                self._end(*told)
                told = self._news.get_nowait()
        except Empty:
            pass
        now = time.monotonic()
        if now < self._next_due:
            # Not one look at all of them for each that has ended.
            return
        for name in [name for name, due in self._due.items() if due <= now]:
            self._end(name, None)
        self._next_due = min(self._due.values(), default=float("inf"))

    def _end(self, name: str, error: Exception | None) -> None:
        managed = self._resources[name]
        if error is None and self._due.pop(name, None) is not None and not managed.is_over:
            why = managed.life.reason or "nothing is known of why"
            error = DeadlineExceeded(
                f"resource {name} was killed and is still there: {why}; it stays on record, see 'tether events'"
            )
        if error is not None:
            self._errors.append(error)
        self._order.end(name)
