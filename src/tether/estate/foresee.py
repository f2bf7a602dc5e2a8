"""What a sweep would do: the same questions and the same decisions, and nothing done or put on record."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tether.estate import settle
from tether.estate.settle import Outcome
from tether.ledger.rows import OwnerRow, ResourceRow
from tether.life.driver import Driver
from tether.linux import members, tree
from tether.model import Handle

if TYPE_CHECKING:
    from tether.ledger.reading import Reading
    from tether.ledger.store import Ledger

__all__ = ["foresee"]


class _Foreseeing(settle._Settling):  # noqa: SLF001 - the same decisions, in the same room
    """One estate as it would be settled."""

    def _end(self, row: ResourceRow, driver: Driver, alive: list[Handle]) -> Outcome:
        how = ", politely first" if row.on_death == "stop" else ""
        return self._outcome(row, "would end", f"its owner, pid {self._owner.identity.pid}, is dead{how}")

    def _record(self, row: ResourceRow, outcome: Outcome) -> None:
        """Leave the record as it is."""

    def strays(self) -> Iterator[Outcome]:
        """Say what carries the owner's tag without being a resource's."""
        # What is a resource's carries the tag too on some ways, and is said as that.
        held = {
            pid
            for row in self._ledger.resources(self._owner.id)
            if row.handle is not None
            for pid in self.drivers.of(row.kind).inspect(row.handle).pids
        }
        marks = members.Marks(tags=[self._owner.id], exclude=tree.line_of(os.getpid()))
        found = [pid for pid, _ in members.find(marks) if pid not in held]
        if found:
            pids = ", ".join(map(str, found))
            yield Outcome(
                self._owner.name, None, "left behind", "process", "would end", f"pid {pids}, by the owner's tag"
            )


def foresee(reading: Reading, state_dir: Path, *, kept_too: bool = False) -> list[Outcome]:
    """Return what `sweep`, patient as by hand, would do for each resource of dead owners.

    Args:
        reading: the ledger of ``state_dir``.
        state_dir: the state directory.
        kept_too: whether what was kept for the next owner would be ended too.
    """
    # It is only read.
    ledger = cast("Ledger", reading)
    return [
        outcome
        for owner in settle.dead_owners(ledger)
        for outcome in _of_one(ledger, state_dir, owner, kept_too=kept_too)
    ]


def _of_one(ledger: Ledger, state_dir: Path, owner: OwnerRow, *, kept_too: bool) -> list[Outcome]:
    if settle._is_claimed(owner):  # noqa: SLF001 - as above
        said = "somebody is settling it just now; a sweep would wait for that"
        return [Outcome(owner.name, row.id, row.name, row.kind, "ending", said) for row in ledger.resources(owner.id)]
    settling = _Foreseeing(ledger, state_dir, owner, {})
    try:
        return [*settling.resources(patient=True, kept_too=kept_too), *settling.strays()]
    finally:
        settling.drivers.close()
