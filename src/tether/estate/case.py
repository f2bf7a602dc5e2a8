"""One thing of an estate while it is settled, and how much longer it is kept."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tether.estate.outcome import Outcome, What
from tether.ledger import changes
from tether.ledger.rows import OwnerRow, ResourceRow
from tether.linux import whereabouts
from tether.linux.members import Marks
from tether.model import State

__all__ = ["Case", "Strays", "kept_for_s"]


def kept_for_s(owner: OwnerRow, row: ResourceRow) -> float:
    """Return how much longer a resource is kept; that time begins when its owner's end is put on record.

    On a clock that nobody sets; of an earlier boot only the date is known.
    """
    if owner.ended is None:
        return row.keep_for
    if owner.ended_up is not None and owner.ended_clock == changes.ended_clock(whereabouts.here()):
        return row.keep_for - (whereabouts.uptime_s() - owner.ended_up)
    return row.keep_for - (time.time() - owner.ended)


@dataclass
class Case:
    """One resource of an estate.

    Attributes:
        is_here: whether pids on record mean the same here.
        marks: by what it is looked for with the others; None if it is not.
        state, exit_code, fence: what is recorded with the outcome.
    """

    owner: OwnerRow
    row: ResourceRow
    is_here: bool
    outcome: Outcome | None = None
    marks: Marks | None = None
    state: State = State.GONE
    exit_code: int | None = None
    fence: int = 0

    @property
    def upon(self) -> str | None:
        """The resource that it runs on, a machine; None if there is none."""
        return None if self.row.handle is None else self.row.handle.data.get("on")

    def close(self, what: What, detail: str) -> None:
        """Say what came of it."""
        self.outcome = Outcome(self.owner.name, self.row.id, self.row.name, self.row.kind, what, detail)


@dataclass
class Strays:
    """What carries an owner's tag: what plugins, or the app, started by themselves."""

    owner: OwnerRow
    marks: Marks
    outcome: Outcome | None = None
    pids: list[int] = field(default_factory=list)

    def close(self, what: What, detail: str) -> None:
        """Say what came of it."""
        self.outcome = Outcome(self.owner.name, None, "left behind", "process", what, detail)
