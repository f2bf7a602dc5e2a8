"""What an owner has just now, as it was entered last: enough to write the ledger anew, should somebody have taken it away."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from tether.ledger import changes
from tether.ledger.changes import Transition
from tether.ledger.rows import ResourceRow
from tether.model import Handle, altered

__all__ = ["Known"]

_log = logging.getLogger("tether")


class Known:
    """The rows of an owner's live resources.

    Args:
        owner: the owner's id.

    Attributes:
        add_owner: puts the owner itself on record.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self.add_owner: Callable[[Any], None] = lambda _: None
        self._rows: dict[str, ResourceRow] = {}

    def put(self, row: ResourceRow) -> None:
        """Take in a resource that lives."""
        self._rows[row.id] = row

    def drop(self, tag: str) -> None:
        """It has ended, or is another owner's."""
        self._rows.pop(tag, None)

    def change(self, tag: str, **values: Any) -> None:
        """Take in what was entered for one that lives."""
        row = self._rows.get(tag)
        if row is not None:
            self._rows[tag] = altered(row, **values)

    def has_handle(self, tag: str, handle: Handle | None) -> bool:
        """Whether this very handle was entered last."""
        row = self._rows.get(tag)
        return row is not None and row.handle is handle

    def step(self, transition: Transition) -> None:
        """Take in a step that was entered."""
        known = {"url": transition.url, "handle": transition.handle}
        self.change(
            transition.tag,
            state=transition.state,
            reason=transition.reason,
            exit_code=transition.exit_code,
            changed=time.time(),
            **{key: value for key, value in known.items() if value is not None},
        )

    def heard(self, db: sqlite3.Connection, transition: Transition, is_written: bool) -> None:
        """Hear whether a step was written, within the transaction."""
        tag = transition.tag
        if not is_written:
            self.drop(tag)
            if changes.is_on_record(db, tag):
                _log.warning("resource %s: another owner has it by now; what happened here is not recorded", tag)
        elif transition.state.is_final:
            row = self._rows.get(tag)
            if row is not None and row.state.is_final:
                self.drop(tag)

    def write_anew(self, db: sqlite3.Connection) -> None:
        """Another file has the name of the ledger: say in it who is here and what lives."""
        self.add_owner(db)
        rows = list(self._rows.values())
        for row in rows:
            changes.put_resource(db, row)
        said = f"the ledger was set aside, removed or replaced; {len(rows)} resources were written anew"
        changes.add_event(db, self._owner, None, "", "ledger replaced", said)
