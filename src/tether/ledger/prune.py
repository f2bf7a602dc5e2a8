"""Forget what ended long ago: records, events, logs and receipts. In small steps, so that nobody waits for it."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tether.ledger import logs, proof
from tether.ledger.store import Ledger

__all__ = ["REMEMBER_S", "Pruned", "Pruning", "prune"]

REMEMBER_S = 14 * 24 * 3600.0
"""So long what has ended stays on record, with its log."""

_STEP = 500
_STEP_PAGES = 1000
_FIRST_ROUND_S = 2.0
_BETWEEN_STEPS_S = 0.1
_BETWEEN_ROUNDS_S = 600.0


@dataclass
class Pruned:
    """What was removed so far."""

    resources: int = 0
    owners: int = 0
    events: int = 0

    def __bool__(self) -> bool:
        """Whether anything was."""
        return bool(self.resources or self.owners or self.events)


def _step(ledger: Ledger, state_dir: Path, before: float, most: int = _STEP) -> Pruned:
    """Remove some of what ended before a time; nothing is left when nothing was removed."""
    tags, owners, events = ledger.forget_some(before, most)
    for tag in tags:
        run = state_dir / "run"
        for path in (*logs.files(state_dir, tag), run / f"{tag}.ended", run / f"{tag}.sock"):
            with suppress(OSError):
                path.unlink()
    for owner in owners:
        with suppress(OSError):
            proof.path(state_dir, owner).unlink()
    return Pruned(len(tags), len(owners), events)


class Pruning:
    """What an owner prunes beside its work, now and again, a little at a time.

    Args:
        ledger: the ledger.
        state_dir: its folder.
    """

    def __init__(self, ledger: Ledger, state_dir: Path) -> None:
        self._ledger = ledger
        self._state_dir = state_dir
        self._next = time.monotonic() + _FIRST_ROUND_S
        self._is_within_round = False

    def pause_s(self) -> float | None:
        """Return how long to wait for the next step of a round; None between rounds, which begin with what else is to be done."""
        return max(0.0, self._next - time.monotonic()) if self._is_within_round else None

    def proceed(self) -> None:
        """Make a step, if it is time for one. Raises LedgerError."""
        if time.monotonic() >= self._next:
            self.step()

    def step(self, most: int = _STEP) -> None:
        """Make a step. Raises LedgerError."""
        self._next = time.monotonic() + _BETWEEN_ROUNDS_S
        self._is_within_round = bool(_step(self._ledger, self._state_dir, time.time() - REMEMBER_S, most))
        if self._is_within_round:
            self._next = time.monotonic() + _BETWEEN_STEPS_S
            self._ledger.database.give_back(_STEP_PAGES)


def prune(ledger: Ledger, state_dir: Path, older_than_s: float = REMEMBER_S) -> Pruned:
    """Remove all that ended longer ago, and give the space back to the disk. Raises LedgerError."""
    total = Pruned()
    before = time.time() - older_than_s
    while step := _step(ledger, state_dir, before):
        total.resources += step.resources
        total.owners += step.owners
        total.events += step.events
    ledger.database.vacuum()
    return total
