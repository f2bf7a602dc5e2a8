"""The tables of the ledger, as numbered migrations of some statements each. A migration that was released is never changed."""

from __future__ import annotations

__all__ = ["MIGRATIONS"]

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
    CREATE TABLE owners (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        boot TEXT NOT NULL,
        pid INTEGER NOT NULL,
        start INTEGER NOT NULL,
        uid INTEGER NOT NULL,
        cgroup TEXT,
        began REAL NOT NULL,
        ended REAL,
        -- Who settles the estate of this owner now, as "boot:pid:start"; NULL for nobody.
        settler TEXT
    )
    """,
        """
    CREATE TABLE resources (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL REFERENCES owners (id),
        name TEXT NOT NULL,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL DEFAULT '',
        exit_code INTEGER,
        url TEXT,
        spec TEXT NOT NULL,
        handle TEXT,
        on_death TEXT NOT NULL,
        keep_for REAL NOT NULL,
        -- Grows with each ownership: who holds an older number can end nothing any more.
        fence INTEGER NOT NULL DEFAULT 1,
        began REAL NOT NULL,
        changed REAL NOT NULL
    )
    """,
        "CREATE INDEX resources_by_owner ON resources (owner)",
        "CREATE INDEX resources_by_state ON resources (state)",
        """
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        owner TEXT NOT NULL,
        resource TEXT,
        name TEXT NOT NULL,
        what TEXT NOT NULL,
        detail TEXT NOT NULL DEFAULT ''
    )
    """,
    ),
)
"""Each brings the schema from its index to its index plus one (PRAGMA user_version)."""
