"""The file of the ledger as readers see it, who create, lock out and write nothing, whoever they are."""

from __future__ import annotations

import itertools
import sqlite3
import time
from pathlib import Path
from typing import Any

from tether.errors import LedgerError
from tether.ledger.database import BUSY_S, in_words, opening, refuse_newer, version_of
from tether.ledger.look import FILE, Look
from tether.ledger.schema import MIGRATIONS

__all__ = ["Reading"]

_LOOKS = 20
_PAUSE_S = 0.01


class Reading(Look):
    """The ledger of one state directory, as it is; without one, an empty one.

    Each query opens what has the name at that moment.

    Args:
        folder: the state directory, which need not exist.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FILE, self.select)

    def close(self) -> None:
        """Nothing stays open between queries."""

    def select(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Return the rows of a query. Raises LedgerError."""
        # SQLite shares the index of a log within a process: who opened the file for writing meanwhile could not write.
        with opening:
            return self._looked(query, values)

    def _looked(self, query: str, values: tuple[Any, ...]) -> list[sqlite3.Row]:
        error: sqlite3.Error | None = None
        for _ in range(_LOOKS):
            before = self._seen()
            shared = self._has_log()
            try:
                db = self._open(shared)
                try:
                    refuse_newer(self.path, version_of(db))
                    rows = db.execute(query, values).fetchall()
                finally:
                    db.close()
            except sqlite3.Error as failure:
                if "no such table" in str(failure) and before is not None:
                    # Just being made by its first owner.
                    return []
                error = failure
            else:
                if shared or self._seen() == before:
                    return rows
            time.sleep(_PAUSE_S)
        raise LedgerError(
            f"ledger {self.path} can't be read: {in_words(error) if error else 'it changes all the time'}"
        )

    def _open(self, shared: bool) -> sqlite3.Connection:
        if self._seen() is None:
            db = sqlite3.connect(":memory:", isolation_level=None)
            for statement in itertools.chain.from_iterable(MIGRATIONS):
                db.execute(statement)
        elif shared and not self._companion("-shm").exists():
            db = self._copied()
        else:
            # Without a log of writes nobody has it open, and it is read as it lies there. With one, the index of that log is
            # shared with those who write, and only read.
            how = "mode=ro&readonly_shm=1" if shared else "immutable=1"
            db = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?{how}", uri=True, isolation_level=None, timeout=BUSY_S
            )
        db.row_factory = sqlite3.Row
        return db

    def _copied(self) -> sqlite3.Connection:
        """Open a copy in memory: a log of which somebody removed the index is read by nobody who may not make a new one."""
        import shutil
        import tempfile

        memory = sqlite3.connect(":memory:", isolation_level=None)
        with tempfile.TemporaryDirectory(prefix="tether-") as folder:
            copy = Path(folder) / FILE
            before = self._seen()
            try:
                for suffix in ("", "-wal"):
                    shutil.copyfile(self._companion(suffix), f"{copy}{suffix}")
            except OSError as error:
                # Who closes the ledger last removes first the index and then the log.
                raise sqlite3.OperationalError(f"its log can't be copied: {error.strerror}") from error
            if self._seen() != before:
                raise sqlite3.OperationalError("it changed while it was copied")
            source = sqlite3.connect(copy)
            try:
                source.backup(memory)
            finally:
                source.close()
        return memory

    def _companion(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}{suffix}")

    def _has_log(self) -> bool:
        try:
            return self._companion("-wal").stat().st_size > 0
        except OSError:
            return False

    def _seen(self) -> tuple[int, int, int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerError(f"ledger {self.path} can't be read: {error.strerror}") from error
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
