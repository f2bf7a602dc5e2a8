"""The one place that reads and writes the ledger: SQLite in write-ahead mode, used by many processes at once.

A commit for something local is not synced to the disk: it survives the process, which is all it must. Rows for what
survives this machine are written with a plan, and are.

A ledger that fails never stops a cleanup: whoever ends something ends it first and records after, and treats LedgerError
as one more thing to report.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.errors import Busy, LedgerError
from tether.ledger import place
from tether.ledger.rows import EventRow, OwnerRow, ResourceRow, handle_text, owner_row, resource_row
from tether.ledger.schema import MIGRATIONS
from tether.model import Handle, Identity, State

__all__ = ["EventRow", "Ledger", "OwnerRow", "ResourceRow"]

_log = logging.getLogger("tether")

_BUSY_S = 10.0
_SWITCH_PAUSE_S = 0.01
_KEEP_EVENTS = 100_000
_FILE = "ledger.db"
# Word for word as the indices have it, or SQLite looks at each row; a test compares it with State.
_FINAL = "('gone', 'failed')"
_IS_LIVE = f"state NOT IN {_FINAL}"
_HAS_ENDED = f"state IN {_FINAL}"

_INSERT_RESOURCE = (
    "INSERT INTO resources (id, owner, name, kind, state, spec, handle, on_death, keep_for, began, changed) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass
class _Entry:
    """A row that waits to be on the disk; ``done`` when somebody has tried, ``error`` if that failed."""

    values: tuple[Any, ...]
    done: bool = False
    error: LedgerError | None = None


def _is_damage(error: sqlite3.Error) -> bool:
    # Python has DatabaseError itself for "not a database" and "malformed"; its subclasses are about the request or the machine.
    return type(error) is sqlite3.DatabaseError


def _in_words(error: Exception) -> str:
    text = str(error)
    if "locked" in text:
        return f"{text}: another process has held it for over {_BUSY_S:g} s; see 'fuser' for which one"
    if "full" in text:
        return f"{text}: make room on that disk"
    return text


class Ledger:
    """The ledger of one state directory.

    Args:
        folder: the state directory, which `place.prepare` made.

    Raises:
        LedgerError: it can't be opened, is no ledger, or was written by a newer tether.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / _FILE
        self._lock = threading.RLock()
        self._waiting_lock = threading.Lock()
        self._waiting: list[_Entry] = []
        try:
            self._open()
        except sqlite3.OperationalError as error:
            raise LedgerError(f"ledger {self.path} can't be opened: {_in_words(error)}") from error
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
            self._open()
        except OSError as error:
            raise LedgerError(f"ledger {self.path} can't be opened: {error}") from error

    def _open(self) -> None:
        os.close(place.open_private(self.path, os.O_RDWR))
        self._db = sqlite3.connect(
            self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        self._db.row_factory = sqlite3.Row
        try:
            self._begin_write_ahead()
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._migrate()
            for table in ("owners", "resources", "events"):
                self._db.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()
        except BaseException:
            self._db.close()
            raise

    def _begin_write_ahead(self) -> None:
        """Switch a new file to write-ahead mode. Of several processes that do so at once, SQLite refuses some without waiting."""
        deadline = time.monotonic() + _BUSY_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_SWITCH_PAUSE_S)

    def _set_aside(self, error: sqlite3.Error) -> Path:
        """Give a damaged ledger another name, for a person to look at; what it knew of is ended by its guards all the same."""
        aside = self.path.with_name(f"{_FILE}.damaged-{time.time_ns()}")
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        _log.error("ledger %s is damaged (%s); it was set aside as %s, and a new one is begun", self.path, error, aside)
        return aside

    def _migrate(self) -> None:
        if self._version() == len(MIGRATIONS):
            return
        with self._transaction():
            version = self._version()
            if version > len(MIGRATIONS):
                raise LedgerError(
                    f"ledger {self.path} has schema {version}, this tether knows {len(MIGRATIONS)}: it was written by a "
                    "newer one; upgrade tether, or use another state directory"
                )
            for statement in itertools.chain.from_iterable(MIGRATIONS[version:]):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version={len(MIGRATIONS)}")

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which takes the write lock at its start, so that it never has to be tried again."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._failed("written", error) from error

    def _failed(self, what: str, error: sqlite3.Error) -> LedgerError:
        """Say that the ledger can't be used; one that is damaged is set aside, so that the next owner is not in the way of it."""
        if _is_damage(error):
            aside = self._set_aside(error)
            return LedgerError(
                f"ledger {self.path} is damaged ({error}); it was set aside as {aside}, a new owner begins a new one"
            )
        return LedgerError(f"ledger {self.path} can't be {what}: {_in_words(error)}")

    @contextmanager
    def _synced(self) -> Iterator[None]:
        """Within this, every commit is synced to the disk before it returns."""
        with self._lock:
            self._db.execute("PRAGMA synchronous=FULL")
            try:
                yield
            finally:
                self._db.execute("PRAGMA synchronous=NORMAL")

    def _select(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._failed("read", error) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def abandon(self) -> None:
        """In a fork: never touch the file again, not even to close it, which in SQLite would harm the parent's connection.

        Source: sqlite.org/howtocorrupt.html, section 2.6.
        """
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._db))

    # -- owners --------------------------------------------------------------------------------------------------------

    def add_owner(self, owner: str, name: str, identity: Identity, cgroup: str | None) -> None:
        """Record a new owner."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO owners (id, name, boot, pid, start, uid, cgroup, began) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (owner, name, identity.boot, identity.pid, identity.start, os.getuid(), cgroup, time.time()),
            )
            self._add_event(db, owner, None, name, "owner began", f"pid {identity.pid}")

    def end_owner(self, owner: str, how: str) -> None:
        """Record that an owner has ended and nothing of it is left to settle. Its second end changes nothing."""
        with self._transaction() as db:
            changed = db.execute(
                "UPDATE owners SET ended = ?, settler = NULL WHERE id = ? AND ended IS NULL", (time.time(), owner)
            ).rowcount
            if changed:
                name = db.execute("SELECT name FROM owners WHERE id = ?", (owner,)).fetchone()[0]
                self._add_event(db, owner, None, name, "owner ended", how)

    def owners(self, *, ended: bool = False) -> list[OwnerRow]:
        """Return the owners that have not ended or have live resources (kept ones), or all of them; the oldest first."""
        live = f"SELECT id FROM owners WHERE ended IS NULL UNION SELECT owner FROM resources WHERE {_IS_LIVE}"
        where = "" if ended else f"WHERE id IN ({live})"
        return [owner_row(row) for row in self._select(f"SELECT * FROM owners {where} ORDER BY began")]

    def owner(self, owner: str) -> OwnerRow | None:
        """Return one owner."""
        return next(map(owner_row, self._select("SELECT * FROM owners WHERE id = ?", owner)), None)

    def claim(self, owner: str, settler: str, expected: str | None) -> bool:
        """Become the one that settles this owner's estate; False if somebody else became it meanwhile, or has settled it."""
        live = f"EXISTS (SELECT 1 FROM resources WHERE owner = owners.id AND {_IS_LIVE})"
        with self._transaction() as db:
            return bool(
                db.execute(
                    f"UPDATE owners SET settler = ? WHERE id = ? AND settler IS ? AND (ended IS NULL OR {live})",
                    (settler, owner, expected),
                ).rowcount
            )

    def unclaim(self, owner: str, settler: str) -> None:
        """Leave an estate to others."""
        with self._transaction() as db:
            db.execute("UPDATE owners SET settler = NULL WHERE id = ? AND settler = ?", (owner, settler))

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
        """Record a resource before anything of it is created.

        With a plan, which is for what survives this machine, it is on the disk when this returns. Those that several threads
        record at once share one commit, since it is the disk that takes the time.
        """
        now = time.time()
        texts = (tag, owner, name, kind, State.PENDING.value, json.dumps(spec), handle_text(plan or reserved))
        entry = _Entry((*texts, on_death, keep_for, now, now))
        if plan is None:
            with self._transaction() as db:
                db.execute(_INSERT_RESOURCE, entry.values)
            return
        with self._waiting_lock:
            self._waiting.append(entry)
        with self._lock:
            if not entry.done:
                self._commit_waiting()
        if entry.error is not None:
            raise entry.error

    def _commit_waiting(self) -> None:
        """Commit all that waits to be on the disk; whoever comes first does it for all."""
        with self._waiting_lock:
            entries, self._waiting = self._waiting, []
        error: LedgerError | None = None
        try:
            with self._synced(), self._transaction() as db:
                db.executemany(_INSERT_RESOURCE, [entry.values for entry in entries])
        except LedgerError as failure:
            error = failure
        for entry in entries:
            entry.error, entry.done = error, True

    def plan_again(self, tag: str, fence: int, plan: Handle) -> None:
        """Record where a resource that has ended will be next; on the disk when this returns."""
        with self._synced(), self._transaction() as db:
            db.execute("UPDATE resources SET handle = ? WHERE id = ? AND fence = ?", (handle_text(plan), tag, fence))

    def write(
        self,
        tag: str,
        fence: int,
        state: State,
        events: list[tuple[str, str]],
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
        with self._transaction() as db:
            row = db.execute(
                "UPDATE resources SET state = ?, reason = ?, exit_code = ?, url = coalesce(?, url), "
                "handle = coalesce(?, handle), changed = ? WHERE id = ? AND fence = ? RETURNING owner, name",
                (state.value, reason, exit_code, url, handle_text(handle), time.time(), tag, fence),
            ).fetchone()
            for what, detail in events if row else []:
                self._add_event(db, row["owner"], tag, row["name"], what, detail)
            return row is not None

    def begin_life(self, tag: str, fence: int) -> int:
        """Record that a resource that has ended begins another life, and return its number.

        Raises:
            Busy: somebody with a higher fence has taken it over; nothing was written.
        """
        with self._transaction() as db:
            row = db.execute(
                "UPDATE resources SET life = life + 1, changed = ? WHERE id = ? AND fence = ? RETURNING life",
                (time.time(), tag, fence),
            ).fetchone()
        if row is None:
            raise Busy(f"resource {tag} has another owner by now, who alone can start it again")
        return int(row["life"])

    def take_over(self, tag: str, fence: int, owner: str) -> bool:
        """Make ``owner`` the owner of a resource whose fence is ``fence``; False if somebody else was faster."""
        with self._transaction() as db:
            return bool(
                db.execute(
                    "UPDATE resources SET owner = ?, fence = fence + 1, changed = ? WHERE id = ? AND fence = ?",
                    (owner, time.time(), tag, fence),
                ).rowcount
            )

    def kept(self, owner_name: str, name: str) -> list[ResourceRow]:
        """Return what owners of this name kept under this name and nobody adopted yet, the newest first; ended ones too."""
        rows = self._select(
            "SELECT resources.* FROM resources JOIN owners ON owners.id = resources.owner "
            "WHERE owners.name = ? AND owners.uid = ? AND resources.name = ? AND on_death = 'keep' "
            "ORDER BY resources.began DESC",
            owner_name,
            os.getuid(),
            name,
        )
        return [resource_row(row) for row in rows]

    def resources(self, owner: str | None = None, *, ended: bool = False) -> list[ResourceRow]:
        """Return the resources (of one owner) that have not ended, or all on record, the oldest first."""
        clauses, values = [], []
        if owner is not None:
            clauses.append("owner = ?")
            values.append(owner)
        if not ended:
            clauses.append(_IS_LIVE)
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        rows = self._select(f"SELECT * FROM resources {where} ORDER BY began, rowid", *values)
        return [resource_row(row) for row in rows]

    def resource(self, tag: str) -> ResourceRow | None:
        """Return one resource."""
        return next(map(resource_row, self._select("SELECT * FROM resources WHERE id = ?", tag)), None)

    # -- events --------------------------------------------------------------------------------------------------------

    @staticmethod
    def _add_event(db: sqlite3.Connection, owner: str, tag: str | None, name: str, what: str, detail: str) -> None:
        db.execute(
            "INSERT INTO events (at, owner, resource, name, what, detail) VALUES (?, ?, ?, ?, ?, ?)",
            (time.time(), owner, tag, name, what, detail),
        )

    def add_event(self, owner: str, tag: str | None, name: str, what: str, detail: str = "") -> None:
        """Record that something happened."""
        with self._transaction() as db:
            self._add_event(db, owner, tag, name, what, detail)

    def events(self, *, owner: str | None = None, after: int = 0, last: int | None = None) -> list[EventRow]:
        """Return events, the oldest first: those after a sequence number, of one owner, at most the last so many."""
        clause, values = ("AND owner = ?", [owner]) if owner is not None else ("", [])
        limit = -1 if last is None else last
        rows = self._select(
            f"SELECT * FROM events WHERE seq > ? {clause} ORDER BY seq DESC LIMIT ?", after, *values, limit
        )
        return [EventRow(**dict(row)) for row in reversed(rows)]

    def forget_old(self, before: float) -> list[str]:
        """Remove owners and resources that ended before a time (seconds since the epoch), and the oldest events.

        Returns:
            The ids of the resources, whose logs can go too.
        """
        if not self._select(f"SELECT 1 FROM resources WHERE changed < ? AND {_HAS_ENDED} LIMIT 1", before):
            return []
        with self._transaction() as db:
            old = db.execute(f"DELETE FROM resources WHERE {_HAS_ENDED} AND changed < ? RETURNING id", (before,))
            tags = [row["id"] for row in old.fetchall()]
            db.execute("DELETE FROM owners WHERE ended < ? AND id NOT IN (SELECT owner FROM resources)", (before,))
            db.execute("DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?", (_KEEP_EVENTS,))
            return tags
