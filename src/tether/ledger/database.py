"""The file of the ledger: SQLite in write-ahead mode, used by many processes at once.

A file may be taken away under whoever has it open: set aside by a neighbour that met damage, removed, or replaced by a person.
What is written to it then is written to nobody. So each transaction compares the file that is open with the one that has its
name, and opens that. Only the very file that is damaged is ever set aside.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tether.errors import LedgerError
from tether.ledger import place
from tether.ledger.schema import MIGRATIONS

__all__ = ["BUSY_S", "Damaged", "Database", "Held", "Replaced", "in_words", "opening", "refuse_newer", "version_of"]


T = TypeVar("T")

BUSY_S = 10.0
"""So long somebody else may hold the ledger before that is an error."""

_PAUSE_S = 0.01
_MOST_LEFT_BYTES = 4 << 20

opening = threading.RLock()
"""SQLite's locks are of the process, and so is its index of the log: while one opens the file, nobody else here does."""


class Held(LedgerError):
    """Somebody else has held the ledger all the time; it can be written when he lets go."""


class Damaged(LedgerError):
    """The file was damaged, and has been set aside; the next transaction begins a new one."""


class Replaced(LedgerError):
    """Another file has the name of the ledger by now; the next transaction finds that."""


def _is_damage(error: sqlite3.Error) -> bool:
    # Python has DatabaseError itself for "not a database" and "malformed"; its subclasses are about the request or the machine.
    return type(error) is sqlite3.DatabaseError


def in_words(error: Exception) -> str:
    """Return an error of SQLite with what to do about it."""
    text = str(error)
    if "locked" in text:
        return f"{text}: another process has held it for too long; see 'fuser' for which one"
    if "full" in text:
        return f"{text}: make room on that disk"
    return text


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def version_of(db: sqlite3.Connection) -> int:
    """Return the number of the schema of what is open."""
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def refuse_newer(path: Path, version: int) -> None:
    """Raise LedgerError for a schema that this tether does not know."""
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"ledger {path} has schema {version}, this tether knows {len(MIGRATIONS)}: it was written by a newer one; "
            "upgrade tether, or use another state directory"
        )


class Database:
    """The ledger's file, open for writing.

    Args:
        path: the file, in a state directory that `place.prepare` made.
        patience_s: how long a transaction waits for somebody else's.

    Attributes:
        generation: grows whenever another file was found under the name, and opened.

    Raises:
        LedgerError: it can't be opened, is no ledger, or was written by a newer tether.
    """

    def __init__(self, path: Path, patience_s: float = BUSY_S) -> None:
        self.path = path
        self.generation = 0
        self._patience_s = patience_s
        self._lock = threading.RLock()
        self._opened: tuple[int, int] | None = None
        self._db: sqlite3.Connection | None = None
        self._closed = False
        with self._lock:
            self._open_good()

    # -- open ----------------------------------------------------------------------------------------------------------

    def _open_good(self) -> sqlite3.Connection:
        """Open what has the name; what is damaged is set aside, and a new one begun."""
        try:
            try:
                return self._open()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                self._set_aside(error)
                return self._open()
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(f"ledger {self.path} can't be opened: {in_words(error)}") from error

    def _open(self) -> sqlite3.Connection:
        with opening, self._name_lock(fcntl.LOCK_SH):
            self._make()
            db = sqlite3.connect(
                self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            db.row_factory = sqlite3.Row
            self._db, self._opened = db, _file_id(self.path)
            try:
                self._prepare(db)
            except BaseException:
                self._db = None
                db.close()
                raise
            return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        # What is removed later gives its pages back; to be said before the first table is made.
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        self._begin_write_ahead(db)
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(f"PRAGMA journal_size_limit={_MOST_LEFT_BYTES}")
        self._migrate(db)
        for table in ("owners", "resources", "events"):
            db.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()
        db.execute(f"PRAGMA busy_timeout={int(self._patience_s * 1000)}")

    def _make(self) -> None:
        """See that there is a private file. One that is there is not opened: to close it would drop the locks of this process."""
        try:
            os.close(place.open_private(self.path, os.O_RDWR | os.O_EXCL))
        except FileExistsError:
            status = os.lstat(self.path)
            if not stat.S_ISREG(status.st_mode):
                raise LedgerError(
                    f"ledger {self.path} is no file (a link or a folder is in its place); remove that"
                ) from None
            if stat.S_IMODE(status.st_mode) & 0o077:
                self.path.chmod(0o600)

    @contextmanager
    def _name_lock(self, how: int) -> Iterator[None]:
        """Hold the name of the file: nobody opens it while its parts are renamed."""
        fd = place.open_private(self.path.with_name("ledger.lock"), os.O_RDWR)
        try:
            deadline = time.monotonic() + BUSY_S
            while True:
                try:
                    fcntl.flock(fd, how | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise LedgerError(
                            f"ledger {self.path} is just being set aside by a process that does not go on; "
                            f"see 'fuser {self.path.with_name('ledger.lock')}'"
                        ) from None
                time.sleep(_PAUSE_S)
            yield
        finally:
            os.close(fd)

    @staticmethod
    def _begin_write_ahead(db: sqlite3.Connection) -> None:
        """Switch a new file to write-ahead mode. Of several processes that do so at once, SQLite refuses some without waiting."""
        deadline = time.monotonic() + BUSY_S
        while True:
            try:
                db.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_S)

    def _migrate(self, db: sqlite3.Connection) -> None:
        if version_of(db) == len(MIGRATIONS):
            return
        try:
            db.execute("BEGIN IMMEDIATE")
            refuse_newer(self.path, version_of(db))
            for statement in itertools.chain.from_iterable(MIGRATIONS[version_of(db) :]):
                db.execute(statement)
            db.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _set_aside(self, error: sqlite3.Error) -> Path | None:
        """Give a damaged file another name, for a person to look at; None if another has its name by now.

        What it knew of is ended by its guards all the same, and what lives is written anew by its owners.
        """
        with self._name_lock(fcntl.LOCK_EX):
            if self._opened is None or _file_id(self.path) != self._opened:
                return None
            aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
            for suffix in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        # Readers come by here too, and must start in no time.
        import logging

        log = logging.getLogger("tether")
        log.error("ledger %s is damaged (%s); it was set aside as %s, and a new one is begun", self.path, error, aside)
        return aside

    def is_current(self) -> bool:
        """Whether the file that is open is the one that has the name."""
        return self._opened is not None and _file_id(self.path) == self._opened

    def _current(self) -> sqlite3.Connection:
        """Return the connection to the file that has the name now. Raises LedgerError."""
        if self._closed:
            raise LedgerError(f"ledger {self.path} was closed")
        if self._db is not None and self.is_current():
            return self._db
        if self._db is not None:
            self._db.close()
            self._db = None
        if not self.path.parent.is_dir():
            raise LedgerError(f"ledger {self.path}: its state directory was removed; nothing can be recorded")
        self.generation += 1
        return self._open_good()

    # -- use -----------------------------------------------------------------------------------------------------------

    def transact(self, change: Callable[[sqlite3.Connection], T], *, synced: bool = False) -> T:
        """Make a change in one transaction, which takes the write lock at its start, so that it never has to be tried again.

        It is a function, and no block of who calls it: an interruption (Ctrl-C, a signal handler that raises) may come after any
        call, and between one that begins a transaction and the block that would end it, it would leave that open.

        Args:
            change: is given the connection; if it raises, nothing is changed.
            synced: it is on the disk when this returns; else it survives this process, which for local things is enough.

        Raises:
            LedgerError: nothing was changed.
        """
        with self._lock:
            db = self._current()
            try:
                if synced:
                    db.execute("PRAGMA synchronous=FULL")
                try:
                    db.execute("BEGIN IMMEDIATE")
                    result = change(db)
                    db.execute("COMMIT")
                except BaseException:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    raise
                return result
            except sqlite3.Error as error:
                raise self._failed("written", error) from error
            finally:
                if synced:
                    with suppress(sqlite3.Error):
                        db.execute("PRAGMA synchronous=NORMAL")

    def select(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Return the rows of a query. Raises LedgerError."""
        with self._lock:
            db = self._current()
            try:
                return db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._failed("read", error) from error

    def give_back(self, pages: int) -> None:
        """Return at most so many free pages of the file to the disk; of a file that can't, which an older tether made, none."""
        with self._lock, suppress(sqlite3.Error):
            # execute() would make one step of it, which is one page.
            self._current().executescript(f"PRAGMA incremental_vacuum({pages})")

    def vacuum(self) -> None:
        """Write the whole file anew without what is free; nobody can write meanwhile. Raises LedgerError."""
        with self._lock:
            db = self._current()
            try:
                db.execute("PRAGMA auto_vacuum=INCREMENTAL")
                db.execute("VACUUM")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.Error as error:
                raise self._failed("tidied", error) from error

    def _failed(self, what: str, error: sqlite3.Error) -> LedgerError:
        """Say that the ledger can't be used; a file that is damaged is set aside, so that the next transaction begins a new one."""
        if not self.is_current():
            return Replaced(f"ledger {self.path} can't be {what}: another file has its name by now; try again")
        if not _is_damage(error):
            kind = Held if "locked" in str(error) else LedgerError
            return kind(f"ledger {self.path} can't be {what}: {in_words(error)}")
        aside = None
        with suppress(OSError, LedgerError):
            aside = self._set_aside(error)
        said = f"it was set aside as {aside}" if aside else "another has its place already"
        return Damaged(f"ledger {self.path} is damaged ({error}); {said}, try again")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._closed = True
            if self._db is not None:
                self._db.close()
                self._db = None

    def abandon(self) -> None:
        """In a fork: never touch the file again, not even to close it, which in SQLite would harm the parent's connection.

        Source: sqlite.org/howtocorrupt.html, section 2.6.
        """
        import ctypes

        self._closed = True
        if self._db is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._db))
