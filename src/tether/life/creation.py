"""How a resource comes into being: planned, with what holds it, on record, then created."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from tether.errors import GuardLost, SpecError
from tether.ledger.writer import Writer
from tether.life.driver import CanCheck, HasReserve
from tether.life.machine import Record
from tether.life.managed import Managed
from tether.life.steps import Steps
from tether.model import Handle, Progress, Recorded, State

__all__ = ["Creation"]

_GUARD_TRIES = 6
"""More than there are shims that wait for a command: all of those may be killed at once."""


class Creation:
    """Has drivers create resources.

    Args:
        ledger: where lives are numbered.
        record: writes a transition.
    """

    def __init__(self, ledger: Writer, record: Callable[[Managed, Iterable[Record]], None]) -> None:
        self._ledger = ledger
        self._record = record

    def plan(self, managed: Managed) -> Handle | None:
        """Return by what it will be found, for kinds that are not of this machine alone."""
        # Looked up by name for the same reason as in Managed: a start pays for isinstance() with a protocol.
        plan = getattr(managed.driver, "plan", None)
        return None if plan is None else plan(managed.spec, managed.tag)

    def reserve(self, managed: Managed, former: Handle | None = None) -> Handle | None:
        """Get hold of what will hold it, which is on record before anything is created; as much like ``former`` as can be."""
        reserve = getattr(managed.driver, "reserve", None)
        return None if reserve is None else reserve(managed.spec, managed.tag, managed.number, former)

    def check(self, managed: Managed) -> Handle | None:
        """See that it could be recorded and created again, as far as can be known; the plan. Raises LedgerError, or as `create`."""
        if isinstance(managed.spec, Recorded):
            raise SpecError(
                f"{managed.name} can't be restarted: it was adopted by its name, and what it was started from is not on record in "
                "full; start it with its spec, which adopts it as well"
            )
        if isinstance(managed.driver, CanCheck):
            managed.driver.check(managed.spec)
        self._ledger.check()
        return self.plan(managed)

    def release(self, managed: Managed) -> None:
        """Let go of what was to hold it, if nothing was created under that."""
        if managed.reserved is not None and isinstance(managed.driver, HasReserve):
            managed.driver.release(managed.tag)

    def begin_life(self, managed: Managed) -> None:
        """Number its next life, so that nothing said of the last one is believed of it. Raises LedgerError."""
        managed.number = self._ledger.begin_life(managed.tag, managed.fence)

    def create(self, managed: Managed, progress: Progress) -> Steps[Handle]:
        """Have the driver create it; with another guard, should somebody have killed the first."""
        for attempt in itertools.count(1):
            try:
                # Looked up by name, as above.
                starting = getattr(managed.driver, "starting", None)
                arguments = managed.spec, managed.tag, managed.on_death, progress
                if starting is None:
                    return managed.driver.start(*arguments)
                handle: Handle = yield from starting(*arguments)
                return handle
            except GuardLost:
                if attempt == _GUARD_TRIES or managed.state is not State.PENDING:
                    raise
                # Another life: nothing that is said of the first one is believed of it.
                self.begin_life(managed)
                managed.reserved = self.reserve(managed)
                self._record(managed, [Record("again", "its guard was killed before it ran")])
                self._ledger.flush()
        raise AssertionError("unreachable")
