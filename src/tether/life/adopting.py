"""How a supervisor takes over what an earlier owner kept."""

from __future__ import annotations

from typing import Any

from tether.errors import Busy, DriverUnavailable, Gone
from tether.ledger.store import ResourceRow
from tether.ledger.writer import Writer
from tether.life.clock import Clock
from tether.life.driver import CanAdopt
from tether.life.drivers import Drivers
from tether.life.ending import Ending
from tether.life.live import Live
from tether.life.machine import Adopted, Ended, MainExited
from tether.life.managed import Managed
from tether.linux import faults
from tether.model import State, altered

__all__ = ["Adopting"]


class Adopting(Ending):
    """The part of the supervisor that starts nothing, and ends up with what others started.

    Args:
        owner: the owner's id.
        ledger: where everything is recorded.
        clock: the clock.
    """

    drivers: Drivers

    def __init__(self, owner: str, ledger: Writer, clock: Clock) -> None:
        super().__init__(ledger, clock)
        self._owner = owner
        self._live = Live()

    def adopt(self, row: ResourceRow, spec: Any) -> Managed:
        """Take over a live resource that an earlier owner left on purpose.

        Raises:
            Busy: somebody else has adopted it, it has a living owner, or the name is in use.
            DriverUnavailable: it can't be asked now; that is tried again.
            Gone: it has ended meanwhile.
        """
        driver = self.drivers.of(row.kind)
        if row.handle is None or not isinstance(driver, CanAdopt):
            raise Gone(
                f"resource {row.name} can't be adopted: it is of a kind that can't be kept, or was never created"
            )
        if self._live.by_name(row.name) is not None:
            raise Busy(f"resource {row.name} is running already; stop it first, then adopt the one that was kept")
        if not self._ledger.take_over(row.id, row.fence, self._owner):
            raise Busy(f"resource {row.name} was adopted by another owner just now")
        managed = Managed(row.id, row.name, spec, driver, "keep")
        managed.handle = row.handle
        managed.fence = row.fence + 1
        managed.number = row.life
        managed.answers_at = row.url or ""
        begins = row.state in (State.PENDING, State.STARTING)
        managed.life = altered(
            managed.life,
            # Its owner died between its birth and the record of that.
            state=State.STARTING if begins else row.state,
            reason=row.reason,
            exit_code=row.exit_code,
            was_ready=not begins,
        )
        if row.state.is_final:
            return managed
        with self._live.lock:
            self._live.add(managed)
        faults.point("adopt.taken")
        try:
            self._meet(managed, driver)
        except (Busy, DriverUnavailable):
            # It is just ending, most likely, or can't be asked now; the name is free again when it is known to have ended.
            self._retries.begin(managed.tag, lambda: self._met(managed, driver))
            raise
        finally:
            self._ledger.flush()
        return managed

    def _meet(self, managed: Managed, driver: CanAdopt) -> None:
        """Become the owner of what is on record as this owner's already. Raises Busy."""
        if managed.handle is None or managed.state.is_final:
            return
        try:
            exit_code = driver.adopt(managed.handle, managed.fence)
        except Gone:
            self._settle_gone(managed, driver)
            return
        faults.point("adopt.met")
        self._take_in(managed, Adopted(self._owner), *([] if exit_code is None else [MainExited(exit_code)]))

    def _met(self, managed: Managed, driver: CanAdopt) -> bool:
        try:
            self._meet(managed, driver)
        except (Busy, DriverUnavailable):
            return False
        return True

    def _settle_gone(self, managed: Managed, driver: CanAdopt) -> None:
        """It ended while nobody owned it: say how, if its shim left word."""
        if managed.handle is None:
            return
        ended = driver.receipt(managed.handle) or Ended(None, "ended while nobody owned it")
        managed.driver.destroy(managed.handle)
        with managed.lock:
            if not managed.state.is_final:
                self.apply(managed, ended)
