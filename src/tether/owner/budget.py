"""A budget for what an owner rents: said at four fifths, ended when it is used up, and no start that it can't pay for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tether.errors import LedgerError, SpecError, TetherError
from tether.ledger import costs
from tether.ledger.store import Ledger
from tether.life.managed import Managed
from tether.notices import Notice

__all__ = ["Budget", "Spending"]

_log = logging.getLogger("tether")

_WARN_AT = 0.8
_LONGEST_PAUSE_S = 60.0
_SHORTEST_PAUSE_S = 0.2
_SETTLES_S = 10.0


@dataclass(frozen=True)
class Budget:
    """How much an owner may spend on what it rents.

    Attributes:
        usd: US dollars, by time and the prices of an hour on record.
        at_least_s: a start is refused if what is left does not pay for so many seconds of it, beside what runs already.
    """

    usd: float
    at_least_s: float = 3600.0

    def __post_init__(self) -> None:
        """Refuse what can't be right."""
        if not self.usd > 0:
            raise SpecError(f"usd={self.usd!r} must be more than 0 US dollars")
        if not self.at_least_s >= 0:
            raise SpecError(f"at_least_s={self.at_least_s!r} must be 0 or more seconds")


class Spending:
    """What one owner spends, watched in a thread that lives while anything is rented.

    Args:
        budget: how much it may be.
        owner: the owner's id.
        ledger: where prices and times are on record.
        live: returns what has not ended.
        end: ends a resource, with a reason.
        note: puts an event on record.
    """

    def __init__(
        self,
        budget: Budget,
        owner: str,
        ledger: Ledger,
        live: Callable[[], list[Managed]],
        end: Callable[[Managed, str], None],
        note: Callable[[str, str], None],
    ) -> None:
        self.budget = budget
        self._owner = owner
        self._ledger = ledger
        self._live = live
        self._end = end
        self._note = note
        self._lock = threading.RLock()
        self._settled = threading.Condition(self._lock)
        self._promised: dict[object, float] = {}
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed = False
        self._warned = False

    def spent(self) -> tuple[float, float]:
        """Return what was spent so far, and what an hour of all that runs costs. Raises LedgerError."""
        now = time.time()
        events = self._ledger.events(owner=self._owner)
        total, rate = 0.0, 0.0
        for row in self._ledger.resources(self._owner, ended=True):
            if costs.is_rented(row):
                total += costs.spent(row, [each for each in events if each.resource == row.id], now) or 0.0
                rate += 0.0 if row.state.is_final else costs.price(row) or 0.0
        return total, rate

    @contextmanager
    def promised(self, spec: Any) -> Iterator[Callable[[], object]]:
        """Refuse a start that can't be paid for, and watch from now on; other starts count it in from here.

        Yields:
            What is called when it is on record, where others find it from then on.

        Raises:
            SpecError: its price is not known, or what is left does not pay for it; nothing was created.
        """
        if not getattr(spec, "rented", False):
            yield bool
            return
        key = object()
        with self._lock:
            self._await_money(spec)
            self._promised[key] = spec.cost_per_hour
        try:
            yield lambda: self._forget(key)
        finally:
            self._forget(key)

    def _forget(self, key: object) -> None:
        with self._lock:
            self._promised.pop(key, None)
            self._settled.notify_all()

    def _await_money(self, spec: Any) -> None:
        """Return when there is enough, and watch from now on. What is just being put on record is waited for before a refusal."""
        while True:
            others = list(self._promised)
            try:
                return self._check(spec)
            except SpecError:
                # It may be counted twice at this moment, or not come about in the end.
                if not others or not self._settle(others):
                    raise

    def _settle(self, promises: list[object]) -> bool:
        """Wait until none of these is open any more; False if one still is after some seconds."""
        return self._settled.wait_for(lambda: self._promised.keys().isdisjoint(promises), _SETTLES_S)

    def _check(self, spec: Any) -> None:
        called = spec.name or spec.default_name
        if spec.cost_per_hour is None:
            raise SpecError(f"cannot start {called}: with a budget its price must be known; give cost_per_hour=")
        total, rate = self.spent()
        rate += sum(self._promised.values())
        needed = (rate + spec.cost_per_hour) * self.budget.at_least_s / 3600
        left = self.budget.usd - total
        if needed > left or left <= 0:
            raise SpecError(
                f"cannot start {called}: of {self.budget.usd:g} US dollars {max(0.0, left):.4f} are left, and beside what runs "
                f"{self.budget.at_least_s:g} s of it take {needed:.4f}; raise the budget, or end something"
            )
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._run, name="tether-budget", daemon=True)
            self._thread.start()
        self._wake.set()

    def heard(self, notice: Notice) -> None:
        """Look again when something was created: from then on it costs."""
        if notice.what == "created":
            self._wake.set()

    def close(self) -> None:
        """Watch no more."""
        self._closed = True
        self._wake.set()

    def _run(self) -> None:
        pause = 0.0
        while not self._closed:
            self._wake.wait(pause)
            self._wake.clear()
            if self._closed:
                return
            try:
                pause = self._look()
            except LedgerError as error:
                _log.warning("budget of owner %s: %s", self._owner, error)
                pause = _LONGEST_PAUSE_S

    def _look(self) -> float:
        """Say or do what is due, and return when to look again."""
        total, rate = self.spent()
        usd = self.budget.usd
        if total >= _WARN_AT * usd and not self._warned:
            self._warned = True
            self._note("budget warning", f"{total:.4f} of {usd:g} US dollars are spent")
        if total >= usd:
            self._end_all(f"the budget of {usd:g} US dollars is spent")
        following = usd if self._warned else _WARN_AT * usd
        due = (following - total) / rate * 3600 if rate else _LONGEST_PAUSE_S
        return max(_SHORTEST_PAUSE_S, min(due, _LONGEST_PAUSE_S))

    def _end_all(self, why: str) -> None:
        rented = [managed for managed in self._live() if getattr(managed.spec, "rented", False)]
        if rented:
            self._note("budget spent", why)
        for managed in rented:
            try:
                self._end(managed, why)
            except TetherError as error:
                # It stays on record, and is tried again.
                _log.error("%s: could not be ended: %s", managed.name, error)
