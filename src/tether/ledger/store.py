"""What is asked of the ledger, and written to it at once: by sweeps and commands, and by an owner for what it must wait for.

A commit for something local is not synced to the disk: it survives the process, which is all it must. Rows for what
survives this machine are written with a plan, and are.

A ledger that fails never stops a cleanup: whoever ends something ends it first and records after, and treats LedgerError
as one more thing to report. What an owner records of its own goes through `tether.ledger.writer`, which nobody waits for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tether.errors import Busy
from tether.ledger import changes
from tether.ledger.changes import IS_LIVE
from tether.ledger.database import BUSY_S, Database
from tether.ledger.reading import Reading
from tether.ledger.rows import EventRow, OwnerRow, ResourceRow, owner_row, resource_row
from tether.linux import whereabouts
from tether.linux.whereabouts import Whereabouts
from tether.model import Handle, Identity, State

__all__ = ["FILE", "EventRow", "Ledger", "Look", "OwnerRow", "ResourceRow"]

FILE = "ledger.db"

_LAST_KEPT = 10


class Look:
    """What can be asked of a ledger.

    Args:
        database: where it is read.
    """

    def __init__(self, database: Database | Reading) -> None:
        self._database = database
        self.path = database.path

    def owners(self, *, ended: bool = False) -> list[OwnerRow]:
        """Return the owners that have not ended or have live resources (kept ones), or all of them; the oldest first."""
        live = f"SELECT id FROM owners WHERE ended IS NULL UNION SELECT owner FROM resources WHERE {IS_LIVE}"
        where = "" if ended else f"WHERE id IN ({live})"
        return [owner_row(row) for row in self._database.select(f"SELECT * FROM owners {where} ORDER BY began")]

    def owners_by_id(self, owners: Sequence[str]) -> dict[str, OwnerRow]:
        """Return these owners, as far as they are on record, by id."""
        clause, value = changes.ids(owners)
        rows = self._database.select(f"SELECT * FROM owners WHERE id {clause}", value)
        return {row["id"]: owner_row(row) for row in rows}

    def owner(self, owner: str) -> OwnerRow | None:
        """Return one owner."""
        return self.owners_by_id([owner]).get(owner)

    def resources(self, owner: str | None = None, *, ended: bool = False) -> list[ResourceRow]:
        """Return the resources (of one owner) that have not ended, or all on record, the oldest first."""
        clauses = [] if ended else [IS_LIVE]
        values = [] if owner is None else [owner]
        clauses += ["owner = ?"] * len(values)
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        rows = self._database.select(f"SELECT * FROM resources {where} ORDER BY began, rowid", *values)
        return [resource_row(row) for row in rows]

    def resources_of(self, owners: Sequence[str]) -> dict[str, list[ResourceRow]]:
        """Return what has not ended of these owners, by owner, the oldest first."""
        clause, value = changes.ids(owners)
        rows = self._database.select(
            f"SELECT * FROM resources WHERE {IS_LIVE} AND owner {clause} ORDER BY began, rowid", value
        )
        found: dict[str, list[ResourceRow]] = {owner: [] for owner in owners}
        for row in rows:
            found[row["owner"]].append(resource_row(row))
        return found

    def resource(self, tag: str) -> ResourceRow | None:
        """Return one resource."""
        return next(map(resource_row, self._database.select("SELECT * FROM resources WHERE id = ?", tag)), None)

    def named(self, name: str, last: int = 100) -> list[ResourceRow]:
        """Return what is or was called so, and what has an id that begins so; of many the newest, the oldest of them first."""
        rows = self._database.select(
            "SELECT * FROM (SELECT * FROM resources WHERE name = ? ORDER BY began DESC LIMIT ?) "
            "UNION SELECT * FROM (SELECT * FROM resources WHERE id >= ? AND id < ? LIMIT ?) ORDER BY began",
            *(name, last, name, name + "\U0010ffff", last),
        )
        return [resource_row(row) for row in rows]

    def kept(self, owner_name: str, name: str, *, ended: bool = False) -> list[ResourceRow]:
        """Return what owners of this name kept under this name and nobody adopted yet, the newest first.

        With ``ended`` also the last few that ended while nobody owned them.
        """
        query = (
            "SELECT resources.* FROM resources INDEXED BY {index} CROSS JOIN owners ON owners.id = resources.owner "
            "WHERE {which} AND on_death = 'keep' AND resources.name = ? AND owners.name = ? AND owners.uid = ? "
            "ORDER BY resources.began DESC LIMIT {limit}"
        )
        values = (name, owner_name, os.getuid())
        found = self._database.select(query.format(index="resources_live", which=IS_LIVE, limit=-1), *values)
        if ended:
            last = query.format(index="resources_by_name", which=changes.HAS_ENDED, limit=_LAST_KEPT)
            found += self._database.select(last, *values)
        return sorted(map(resource_row, found), key=lambda row: -row.began)

    def events(self, *, owner: str | None = None, after: int = 0, last: int | None = None) -> list[EventRow]:
        """Return events, the oldest first: those after a sequence number, of one owner, at most the last so many."""
        clause, values = ("AND owner = ?", [owner]) if owner is not None else ("", [])
        limit = -1 if last is None else last
        rows = self._database.select(
            f"SELECT * FROM events WHERE seq > ? {clause} ORDER BY seq DESC LIMIT ?", after, *values, limit
        )
        return [EventRow(**dict(row)) for row in reversed(rows)]

    @classmethod
    def of(cls, folder: Path) -> Look:
        """Look at the ledger of a state directory without changing anything, whoever one is; none is an empty one."""
        return cls(Reading(folder / FILE))


class Ledger(Look):
    """The ledger of one state directory, to read and write.

    Args:
        folder: the state directory, which `place.prepare` made.

    Raises:
        LedgerError: it can't be opened, is no ledger, or was written by a newer tether.
    """

    def __init__(self, folder: Path, *, patience_s: float = BUSY_S) -> None:
        self.database = Database(folder / FILE, patience_s)
        super().__init__(self.database)

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
        with self.database.transaction() as db:
            changes.add_owner(db, owner, name, identity, cgroup, where or whereabouts.here())
            changes.add_event(db, owner, None, name, "owner began", f"pid {identity.pid}")

    def end_owner(self, owner: str, how: str) -> None:
        """Record that an owner has ended and nothing of it is left to settle. Its second end changes nothing."""
        with self.database.transaction() as db:
            changes.end_owner(db, owner, how)

    def claim(self, owner: str, settler: str, expected: str | None) -> bool:
        """Become the one that settles this owner's estate; False if somebody else became it meanwhile, or has settled it."""
        return self.claim_all(settler, {owner: expected}) == [owner]

    def claim_all(self, settler: str, expected: dict[str, str | None]) -> list[str]:
        """Become the one that settles the estates of these owners, each with its settler so far; returns those it got."""
        live = f"EXISTS (SELECT 1 FROM resources WHERE owner = owners.id AND {IS_LIVE})"
        with self.database.transaction() as db:
            return [
                owner
                for owner, before in expected.items()
                if db.execute(
                    f"UPDATE owners SET settler = ? WHERE id = ? AND settler IS ? AND (ended IS NULL OR {live})",
                    (settler, owner, before),
                ).rowcount
            ]

    def unclaim(self, owner: str, settler: str) -> None:
        """Leave an estate to others."""
        self.unclaim_all([owner], settler)

    def unclaim_all(self, owners: Sequence[str], settler: str) -> None:
        """Leave estates to others."""
        clause, value = changes.ids(owners)
        with self.database.transaction() as db:
            db.execute(f"UPDATE owners SET settler = NULL WHERE id {clause} AND settler = ?", (value, settler))

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
    ) -> None:
        """Record a resource before anything of it is created; with a plan, on the disk when this returns."""
        with self.database.transaction(synced=plan is not None) as db:
            changes.put_resource(db, changes.new_resource(tag, owner, name, kind, spec, on_death, keep_for, plan))

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
        with self.database.transaction() as db:
            return changes.write(db, tag, fence, state, events, reason, exit_code, url, handle)

    def begin_life(self, tag: str, fence: int) -> int:
        """Record that a resource that has ended begins another life, and return its number.

        Raises:
            Busy: somebody with a higher fence has taken it over; nothing was written.
        """
        with self.database.transaction() as db:
            life = changes.begin_life(db, tag, fence)
        if life is None:
            raise Busy(f"resource {tag} has another owner by now, who alone can start it again")
        return life

    def take_over(self, tag: str, fence: int, owner: str) -> bool:
        """Make ``owner`` the owner of a resource whose fence is ``fence``; False if somebody else was faster."""
        with self.database.transaction() as db:
            return changes.take_over(db, tag, fence, owner)

    def add_event(self, owner: str, tag: str | None, name: str, what: str, detail: str = "") -> None:
        """Record that something happened."""
        with self.database.transaction() as db:
            changes.add_event(db, owner, tag, name, what, detail)
