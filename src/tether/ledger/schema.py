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
    (
        # One run of a resource from its start to its end is a life: what is said of an earlier one is believed of no later.
        "ALTER TABLE resources ADD COLUMN life INTEGER NOT NULL DEFAULT 1",
        # What has not ended is little, however much has: found without meeting the rest. Written as queries write it, since
        # SQLite recognises no other wording.
        "DROP INDEX resources_by_state",
        "CREATE INDEX resources_live ON resources (owner) WHERE state NOT IN ('gone', 'failed')",
        "CREATE INDEX resources_ended ON resources (changed) WHERE state IN ('gone', 'failed')",
        "CREATE INDEX resources_by_name ON resources (name, began)",
        "CREATE INDEX owners_live ON owners (began) WHERE ended IS NULL",
        "CREATE INDEX owners_ended ON owners (ended) WHERE ended IS NOT NULL",
        "CREATE INDEX owners_by_name ON owners (name)",
        "CREATE INDEX events_by_owner ON events (owner)",
        "CREATE INDEX events_by_resource ON events (resource)",
    ),
    (
        # Where an owner is: from elsewhere its pid means nothing.
        "ALTER TABLE owners ADD COLUMN machine TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE owners ADD COLUMN host TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE owners ADD COLUMN pid_ns TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE owners ADD COLUMN time_ns TEXT NOT NULL DEFAULT ''",
        # When its end was put on record, by a clock that nobody sets: boot id, time namespace, and seconds since that boot.
        "ALTER TABLE owners ADD COLUMN ended_clock TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE owners ADD COLUMN ended_up REAL",
    ),
)
"""Each brings the schema from its index to its index plus one (PRAGMA user_version)."""
