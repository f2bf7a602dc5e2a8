"""What waits to be written, and whether it can be."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from tether.errors import LedgerError
from tether.ledger import changes
from tether.ledger.changes import Transition
from tether.ledger.database import Held, Replaced

__all__ = ["Blocked", "Entry", "TransitionEntry", "carry_out"]

_log = logging.getLogger("tether")

_SAID_AFTER_S = 5.0

Result = tuple[Any, LedgerError | None]


class Entry:
    """One change that is to be committed; ``done`` when it was, or can't be, which ``error`` says then."""

    __slots__ = ("change", "done", "error", "result", "synced")

    def __init__(self, change: Callable[[Any], Any], *, synced: bool = False) -> None:
        self.change = change
        self.synced = synced
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None


class TransitionEntry(Entry):
    """A step of a resource in its life. Those that are committed together are written together, see `changes.write_all`.

    Args:
        transition: the step.
        heard: told whether it was written, within the transaction.
    """

    __slots__ = ("heard", "transition")

    def __init__(self, transition: Transition, heard: Callable[[Any, Transition, bool], object]) -> None:
        super().__init__(lambda db: _write([self], db))
        self.transition = transition
        self.heard = heard


def _write(entries: Sequence[TransitionEntry], db: sqlite3.Connection) -> list[bool]:
    written = changes.write_all(db, [entry.transition for entry in entries])
    for entry, is_written in zip(entries, written, strict=True):
        entry.heard(db, entry.transition, is_written)
    return written


def carry_out(entries: Sequence[Entry], db: sqlite3.Connection) -> list[Result]:
    """Make changes, in their order, and return what became of each.

    What can't be written at all (an object that is no JSON) is that change's error, and no other's.
    """
    results: list[Result] = []
    for _, some in groupby(entries, key=lambda entry: isinstance(entry, TransitionEntry)):
        group = list(some)
        together = [entry for entry in group if isinstance(entry, TransitionEntry)]
        written = _carry_out_together(together, db) if len(together) > 1 else None
        results += [_carry_out(entry, db) for entry in group] if written is None else [(each, None) for each in written]
    return results


def _carry_out_together(entries: Sequence[TransitionEntry], db: sqlite3.Connection) -> list[bool] | None:
    """Make these changes; None, and none of them is made, if there is one among them that can't be."""
    db.execute("SAVEPOINT together")
    try:
        written = _write(entries, db)
    except Exception as error:
        if _is_of_the_ledger(error):
            raise
        db.execute("ROLLBACK TO together")
        written = None
    db.execute("RELEASE together")
    return written


def _carry_out(entry: Entry, db: sqlite3.Connection) -> Result:
    try:
        return entry.change(db), None
    except Exception as error:
        if _is_of_the_ledger(error):
            raise
        _log.exception("something can't be recorded, and is left out")
        failure = LedgerError(f"it can't be recorded: {type(error).__name__}: {error}")
        failure.__cause__ = error
        return None, failure


def _is_of_the_ledger(error: Exception) -> bool:
    """Whether it is the ledger that can't be written, and not this one change."""
    # Damage is DatabaseError itself; its other subclasses are about the change.
    return isinstance(error, sqlite3.OperationalError | sqlite3.InternalError) or type(error) is sqlite3.DatabaseError


class Blocked:
    """Whether nothing can be written just now; true if so."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._is_said = False

    def __bool__(self) -> bool:
        return self._since is not None

    def clear(self) -> None:
        """It can be again."""
        self._since, self._is_said = None, False

    def note(self, error: LedgerError) -> None:
        """It can't be, and is said once; of a ledger that others only use a lot, when that has lasted."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        passes = isinstance(error, Held | Replaced) and now - self._since < _SAID_AFTER_S
        if not self._is_said and not passes:
            self._is_said = True
            _log.warning("%s; what happens is recorded when it can be", error)
