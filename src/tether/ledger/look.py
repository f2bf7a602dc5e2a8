"""What can be asked of a ledger, whether it is open for writing or only looked at."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tether.ledger.clauses import HAS_ENDED, IS_LIVE, ids
from tether.ledger.rows import EventRow, OwnerRow, ResourceRow, owner_row, resource_row

__all__ = ["FILE", "Look"]

FILE = "ledger.db"
_LAST_KEPT = 10


class Look:
    """What can be asked of a ledger.

    Args:
        path: its file.
        select: runs a query, with its values.
    """

    def __init__(self, path: Path, select: Callable[..., list[sqlite3.Row]]) -> None:
        self.path = path
        self._select = select

    def owners(self, *, ended: bool = False) -> list[OwnerRow]:
        """Return the owners that have not ended or have live resources (kept ones), or all of them; the oldest first."""
        live = f"SELECT id FROM owners WHERE ended IS NULL UNION SELECT owner FROM resources WHERE {IS_LIVE}"
        where = "" if ended else f"WHERE id IN ({live})"
        return [owner_row(row) for row in self._select(f"SELECT * FROM owners {where} ORDER BY began")]

    def owners_by_id(self, owners: Sequence[str]) -> dict[str, OwnerRow]:
        """Return these owners, as far as they are on record, by id."""
        clause, value = ids(owners)
        rows = self._select(f"SELECT * FROM owners WHERE id {clause}", value)
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
        rows = self._select(f"SELECT * FROM resources {where} ORDER BY began, rowid", *values)
        return [resource_row(row) for row in rows]

    def resources_of(self, owners: Sequence[str]) -> dict[str, list[ResourceRow]]:
        """Return what has not ended of these owners, by owner, the oldest first."""
        clause, value = ids(owners)
        rows = self._select(f"SELECT * FROM resources WHERE {IS_LIVE} AND owner {clause} ORDER BY began, rowid", value)
        found: dict[str, list[ResourceRow]] = {owner: [] for owner in owners}
        for row in rows:
            found[row["owner"]].append(resource_row(row))
        return found

    def resource(self, tag: str) -> ResourceRow | None:
        """Return one resource."""
        return next(map(resource_row, self._select("SELECT * FROM resources WHERE id = ?", tag)), None)

    def named(self, name: str, owner_name: str | None = None, *, last: int = 100) -> list[ResourceRow]:
        """Return what is or was called so, of owners of a name or else of any, and then also what has an id that begins so.

        Of many the newest; the oldest of them first.
        """
        if owner_name is not None:
            query = (
                "SELECT * FROM resources WHERE name = ? AND owner IN (SELECT id FROM owners WHERE name = ?) "
                "ORDER BY began DESC LIMIT ?"
            )
            rows = self._select(query, name, owner_name, last)[::-1]
        else:
            rows = self._select(
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
        found = self._select(query.format(index="resources_live", which=IS_LIVE, limit=-1), *values)
        if ended:
            last = query.format(index="resources_by_name", which=HAS_ENDED, limit=_LAST_KEPT)
            found += self._select(last, *values)
        return sorted(map(resource_row, found), key=lambda row: -row.began)

    def events(
        self,
        *,
        owner: str | None = None,
        after: int = 0,
        since: float = 0.0,
        last: int | None = None,
        of: tuple[Sequence[str], Sequence[str]] | None = None,
    ) -> list[EventRow]:
        """Return events, the oldest first.

        Args:
            owner: only of this owner and its resources.
            after: only after this sequence number.
            since: only from this time on, in seconds since the epoch.
            last: at most the last so many.
            of: only of resources, or owners, with these ids.
        """
        clauses: list[str] = ["seq > ?"]
        values: list[Any] = [after]
        if since > 0:
            clauses.append("at >= ?")
            values.append(since)
        if owner is not None:
            clauses.append("owner = ?")
            values.append(owner)
        if of is not None:
            resource, owners = ids(of[0]), ids(of[1])
            clauses.append(f"(resource {resource[0]} OR owner {owners[0]})")
            values += [resource[1], owners[1]]
        rows = self._select(
            f"SELECT * FROM events WHERE {' AND '.join(clauses)} ORDER BY seq DESC LIMIT ?",
            *values,
            -1 if last is None else last,
        )
        return [EventRow(**dict(row)) for row in reversed(rows)]
