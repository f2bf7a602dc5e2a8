"""What is asked of the ledger, and written to it at once: by sweeps and commands, and by an owner for what it must wait for.

A commit for something local is not synced to the disk: it survives the process, which is all it must. Rows for what
survives this machine are written with a plan, and are.

A ledger that fails never stops a cleanup: whoever ends something ends it first and records after, and treats LedgerError
as one more thing to report. What an owner records of its own goes through `tether.ledger.writer`, which nobody waits for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tether.errors import Busy
from tether.ledger import changes
from tether.ledger.clauses import HAS_ENDED, IS_LIVE, ids
from tether.ledger.database import BUSY_S, Database
from tether.ledger.look import FILE, Look
from tether.ledger.rows import EventRow, OwnerRow, ResourceRow
from tether.linux import whereabouts
from tether.linux.whereabouts import Whereabouts
from tether.model import Handle, Identity, State

__all__ = ["KEEP_EVENTS", "EventRow", "Ledger", "OwnerRow", "ResourceRow"]

KEEP_EVENTS = 100_000
"""So many events stay on record."""

_STEP = 500


class Ledger(Look):
    """The ledger of one state directory, to read and write.

    Args:
        folder: the state directory, which `place.prepare` made.

    Raises:
        LedgerError: it can't be opened, is no ledger, or was written by a newer tether.
    """

    def __init__(self, folder: Path, *, patience_s: float = BUSY_S) -> None:
        self.database = Database(folder / FILE, patience_s)
        super().__init__(self.database.path, self.database.select)

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def abandon(self) -> None:
        """In a fork: never touch the file again."""
        self.database.abandon()

    # -- owners --------------------------------------------------------------------------------------------------------

    def add_owner(
        self, owner: str, name: str, identity: Identity, cgroup: str | None, where: Whereabouts | None = None
    ) -> None:
        """Record a new owner, which is here if nothing else is said."""

        def change(db: sqlite3.Connection) -> None:
            changes.add_owner(db, owner, name, identity, cgroup, where or whereabouts.here())
            changes.add_event(db, owner, None, name, "owner began", f"pid {identity.pid}")

        self.database.transact(change)

    def end_owner(self, owner: str, how: str) -> None:
        """Record that an owner has ended and nothing of it is left to settle. Its second end changes nothing."""
        self.database.transact(lambda db: changes.end_owner(db, owner, how))

    def claim(self, owner: str, settler: str, expected: str | None) -> bool:
        """Become the one that settles this owner's estate; False if somebody else became it meanwhile, or has settled it."""
        return self.claim_all(settler, {owner: expected}) == [owner]

    def claim_all(self, settler: str, expected: dict[str, str | None]) -> list[str]:
        """Become the one that settles the estates of these owners, each with its settler so far; returns those it got."""
        live = f"EXISTS (SELECT 1 FROM resources WHERE owner = owners.id AND {IS_LIVE})"
        update = f"UPDATE owners SET settler = ? WHERE id = ? AND settler IS ? AND (ended IS NULL OR {live})"
        return self.database.transact(
            lambda db: [
                owner for owner, before in expected.items() if db.execute(update, (settler, owner, before)).rowcount
            ]
        )

    def unclaim(self, owner: str, settler: str) -> None:
        """Leave an estate to others."""
        self.unclaim_all([owner], settler)

    def unclaim_all(self, owners: Sequence[str], settler: str) -> None:
        """Leave estates to others."""
        clause, value = ids(owners)
        update = f"UPDATE owners SET settler = NULL WHERE id {clause} AND settler = ?"
        self.database.transact(lambda db: db.execute(update, (value, settler)))

    # -- resources -----------------------------------------------------------------------------------------------------

    def add_resource(
        self,
        tag: str,
        owner: str,
        name: str,
        kind: str,
        spec: dict[str, Any],
        on_death: str,
        keep_for: float,
        plan: Handle | None = None,
        reserved: Handle | None = None,
    ) -> None:
        """Record a resource before anything of it is created; with a plan, on the disk when this returns."""
        row = changes.new_resource(tag, owner, name, kind, spec, on_death, keep_for, plan or reserved)
        self.database.transact(lambda db: changes.put_resource(db, row), synced=plan is not None)

    def write(
        self,
        tag: str,
        fence: int,
        state: State,
        events: Sequence[tuple[str, str]],
        *,
        reason: str = "",
        exit_code: int | None = None,
        url: str | None = None,
        handle: Handle | None = None,
    ) -> bool:
        """Record where a resource is in its life, and what happened, in one transaction.

        ``url`` and ``handle`` keep what they were when None.

        Returns:
            False if somebody with a higher fence has taken it over: then nothing was written.
        """
        return self.database.transact(
            lambda db: changes.write(db, tag, fence, state, events, reason, exit_code, url, handle)
        )

    def begin_life(self, tag: str, fence: int) -> int:
        """Record that a resource that has ended begins another life, and return its number.

        Raises:
            Busy: somebody with a higher fence has taken it over; nothing was written.
        """
        life = self.database.transact(lambda db: changes.begin_life(db, tag, fence))
        if life is None:
            raise Busy(f"resource {tag} has another owner by now, who alone can start it again")
        return life

    def take_over(self, tag: str, fence: int, owner: str) -> bool:
        """Make ``owner`` the owner of a resource whose fence is ``fence``; False if somebody else was faster."""
        return self.database.transact(lambda db: changes.take_over(db, tag, fence, owner))

    def add_event(self, owner: str, tag: str | None, name: str, what: str, detail: str = "") -> None:
        """Record that something happened."""
        self.database.transact(lambda db: changes.add_event(db, owner, tag, name, what, detail))

    # -- what has long ended -------------------------------------------------------------------------------------------

    def forget_some(self, before: float, most: int) -> tuple[list[str], list[str], int]:
        """Remove some resources and owners that ended before a time, and some of the oldest events.

        Returns:
            The ids of the resources and of the owners, and how many events; nothing where there is nothing left.
        """

        def change(db: sqlite3.Connection) -> tuple[list[str], list[str], int]:
            tags = db.execute(
                f"DELETE FROM resources WHERE id IN (SELECT id FROM resources WHERE {HAS_ENDED} AND changed < ? LIMIT ?) "
                "RETURNING id",
                (before, most),
            ).fetchall()
            owners = db.execute(
                "DELETE FROM owners WHERE id IN (SELECT id FROM owners WHERE ended IS NOT NULL AND ended < ? AND NOT EXISTS "
                "(SELECT 1 FROM resources WHERE owner = owners.id) LIMIT ?) RETURNING id",
                (before, most),
            ).fetchall()
            events = db.execute(
                "DELETE FROM events WHERE seq IN "
                "(SELECT seq FROM events WHERE seq <= (SELECT max(seq) FROM events) - ? LIMIT ?)",
                (KEEP_EVENTS, 4 * most),
            ).rowcount
            return [row["id"] for row in tags], [row["id"] for row in owners], events

        return self.database.transact(change)

    def forget_old(self, before: float) -> list[str]:
        """Remove all resources and owners that ended before a time, and all but the newest events; in small steps.

        Returns:
            The ids of the resources, whose logs can go too.
        """
        forgotten: list[str] = []
        while any(some := self.forget_some(before, _STEP)):
            forgotten += some[0]
            self.database.give_back(_STEP)
        return forgotten
