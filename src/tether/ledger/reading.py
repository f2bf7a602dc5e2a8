"""The ledger for whoever only looks: creates nothing, writes nothing, sets nothing aside.

SQLite in write-ahead mode would make its two companion files even for a reader, and remove them at its end. So a file that
nobody has open is read as one that can't change; else the index of its log is opened read-only, and where nobody keeps that,
SQLite makes one in memory.
"""

from __future__ import annotations

import json
import os
import sqlite3
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tether.errors import LedgerError
from tether.ledger.rows import EventRow, OwnerRow, ResourceRow, owner_row, resource_row
from tether.model import State

__all__ = ["Reading"]

_FILE = "ledger.db"
_BUSY_S = 5.0
_TRIES = 3
_LIVE = tuple(state.value for state in State if not state.is_final)
_IN_LIVE = f"({', '.join('?' * len(_LIVE))})"


class Reading:
    """The ledger of one state directory, as it is; without one, an empty one.

    Args:
        folder: the state directory, which need not exist.

    Raises:
        LedgerError: it can't be read, is no ledger, or was written by a newer tether.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / _FILE
        self._db: sqlite3.Connection | None = None
        if not self._exists():
            return
        for attempt in range(_TRIES):
            try:
                self._db = self._open()
                break
            except sqlite3.Error as error:
                # Whoever opened or closed it just now makes and removes its companions: look again.
                if attempt == _TRIES - 1:
                    raise LedgerError(
                        f"ledger {self.path} can't be read: {error}; the next owner that starts mends it or sets it aside"
                    ) from error

    def _exists(self) -> bool:
        try:
            os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise LedgerError(
                f"ledger {self.path} can't be read: {error.strerror}; is the state directory yours?"
            ) from error
        return True

    def _companion(self, suffix: str) -> Path:
        return self.path.with_name(f"{_FILE}{suffix}")

    def _connect(self) -> sqlite3.Connection:
        if self._companion("-shm").exists():
            return _connection(f"file:{quote(os.fspath(self.path))}?mode=ro&readonly_shm=1")
        if self._companion("-wal").exists():
            return self._copied()
        return _connection(f"file:{quote(os.fspath(self.path))}?mode=ro&immutable=1")

    def _copied(self) -> sqlite3.Connection:
        """Read a copy: a log whose index somebody removed is read by nobody who may not make a new index."""
        import shutil
        import tempfile

        memory = _connection(":memory:")
        with tempfile.TemporaryDirectory(prefix="tether-") as folder:
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{self.path}{suffix}", f"{folder}/{_FILE}{suffix}")
            copy = _connection(f"file:{quote(folder)}/{_FILE}")
            try:
                copy.backup(memory)
            finally:
                copy.close()
        return memory

    def _open(self) -> sqlite3.Connection:
        db = self._connect()
        try:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            db = self._brought_up(db, version)
            db.row_factory = sqlite3.Row
            for table in ("owners", "resources", "events"):
                db.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def _brought_up(self, db: sqlite3.Connection, version: int) -> sqlite3.Connection:
        """Return the database itself, or a copy in memory that has the tables of today."""
        from tether.ledger.schema import MIGRATIONS

        if version > len(MIGRATIONS):
            raise LedgerError(
                f"ledger {self.path} has schema {version}, this tether knows {len(MIGRATIONS)}: it was written by a newer one; "
                "upgrade tether, or use another state directory"
            )
        if version == len(MIGRATIONS):
            return db
        copy = _connection(":memory:")
        db.backup(copy)
        db.close()
        for statement in chain.from_iterable(MIGRATIONS[version:]):
            copy.execute(statement)
        return copy

    def _select(self, query: str, *values: Any) -> list[sqlite3.Row]:
        if self._db is None:
            return []
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise LedgerError(f"ledger {self.path} can't be read: {error}") from error

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()

    def owners(self, *, ended: bool = False) -> list[OwnerRow]:
        """Return the owners that have not ended or have live resources (kept ones), or all of them; the oldest first."""
        live = f"EXISTS (SELECT 1 FROM resources WHERE owner = owners.id AND state IN {_IN_LIVE})"
        where, values = ("", ()) if ended else (f"WHERE ended IS NULL OR {live}", _LIVE)
        return [owner_row(row) for row in self._select(f"SELECT * FROM owners {where} ORDER BY began", *values)]

    def owner(self, owner: str) -> OwnerRow | None:
        """Return one owner."""
        return next(map(owner_row, self._select("SELECT * FROM owners WHERE id = ?", owner)), None)

    def resources(self, owner: str | None = None, *, ended: bool = False) -> list[ResourceRow]:
        """Return the resources (of one owner) that have not ended, or all on record, the oldest first."""
        query = "SELECT * FROM resources WHERE (? IS NULL OR owner = ?)"
        values = [owner, owner]
        if not ended:
            query += f" AND state IN {_IN_LIVE}"
            values.extend(_LIVE)
        return [resource_row(row) for row in self._select(f"{query} ORDER BY began, rowid", *values)]

    def resource(self, tag: str) -> ResourceRow | None:
        """Return one resource."""
        return next(map(resource_row, self._select("SELECT * FROM resources WHERE id = ?", tag)), None)

    def events(
        self, *, after: int = 0, since: float = 0.0, last: int = -1, of: tuple[list[str], list[str]] | None = None
    ) -> list[EventRow]:
        """Return events, the oldest first: after a sequence number, not before a time, at most the last so many.

        ``of`` are the ids of resources and of owners whose events are wanted; None for all.
        """
        clause, ids = "", []
        if of is not None:
            clause = "AND (resource IN (SELECT value FROM json_each(?)) OR owner IN (SELECT value FROM json_each(?)))"
            ids = [json.dumps(each) for each in of]
        query = f"SELECT * FROM events WHERE seq > ? AND at >= ? {clause} ORDER BY seq DESC LIMIT ?"
        return [EventRow(**dict(row)) for row in reversed(self._select(query, after, since, *ids, last))]


def _connection(address: str) -> sqlite3.Connection:
    return sqlite3.connect(address, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
