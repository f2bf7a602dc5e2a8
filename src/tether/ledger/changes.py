"""Each change of the ledger, as a function of an open transaction: whoever writes decides what is committed together."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from tether.ledger.rows import ResourceRow, handle_text
from tether.linux import whereabouts
from tether.linux.whereabouts import Whereabouts
from tether.model import Handle, Identity, State
from tether.redaction import scrub

__all__ = [
    "Transition",
    "add_event",
    "add_owner",
    "begin_life",
    "end_owner",
    "ended_clock",
    "is_on_record",
    "new_resource",
    "plan_again",
    "put_resource",
    "remove_pending",
    "take_over",
    "write",
    "write_all",
]

_COLUMNS = tuple(each.name for each in fields(ResourceRow))
_PUT = (
    f"INSERT INTO resources ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{each} = excluded.{each}' for each in _COLUMNS)} WHERE fence <= excluded.fence"
)


def _text(text: str) -> str:
    """Return a text that can be stored, without secrets; what is no text (names of files may be any bytes) is escaped."""
    return scrub(text).encode("utf-8", "backslashreplace").decode() if text else ""


_ADD = "INSERT INTO events (at, owner, resource, name, what, detail) VALUES "
_AT_ONCE = 50
"""So many events are inserted by one statement: one of each length is kept ready."""

_Happened = tuple[float, str, str | None, str, str, str]


def _add_events(db: sqlite3.Connection, happened: Sequence[_Happened]) -> None:
    for first in range(0, len(happened), _AT_ONCE):
        some = happened[first : first + _AT_ONCE]
        db.execute(_ADD + ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(some)), [value for each in some for value in each])


def add_event(db: sqlite3.Connection, owner: str, tag: str | None, name: str, what: str, detail: str) -> None:
    """Record that something happened."""
    _add_events(db, [(time.time(), owner, tag, name, what, _text(detail))])


def add_owner(
    db: sqlite3.Connection, owner: str, name: str, identity: Identity, cgroup: str | None, where: Whereabouts
) -> None:
    """Record an owner; one that is on record already stays as it is."""
    db.execute(
        "INSERT OR IGNORE INTO owners (id, name, boot, pid, start, uid, cgroup, began, machine, host, pid_ns, time_ns) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(owner, name, identity.boot, identity.pid, identity.start, os.getuid(), cgroup, time.time()),
            *(where.machine, where.host, where.pid_ns, where.time_ns),
        ),
    )


def ended_clock(where: Whereabouts) -> str:
    """Return the name of the clock that `whereabouts.uptime_s` reads there."""
    return f"{where.boot} {where.time_ns}"


def end_owner(db: sqlite3.Connection, owner: str, how: str) -> None:
    """Record that an owner has ended and nothing of it is left to settle but what is kept. A second end changes nothing."""
    row = db.execute(
        "UPDATE owners SET ended = ?, ended_clock = ?, ended_up = ?, settler = NULL WHERE id = ? AND ended IS NULL "
        "RETURNING name",
        (time.time(), ended_clock(whereabouts.here()), whereabouts.uptime_s(), owner),
    ).fetchone()
    if row:
        add_event(db, owner, None, row[0], "owner ended", how)


def new_resource(
    tag: str,
    owner: str,
    name: str,
    kind: str,
    spec: dict[str, Any],
    on_death: str,
    keep_for: float,
    plan: Handle | None,
) -> ResourceRow:
    """Return the row of a resource of which nothing was created yet."""
    now = time.time()
    return ResourceRow(
        *(tag, owner, name, kind, State.PENDING, "", None, None, spec, plan, on_death, keep_for, 1, now, now)
    )


def put_resource(db: sqlite3.Connection, row: ResourceRow) -> None:
    """Record a resource as it is, unless somebody with a higher fence has it there."""
    values = {
        **vars(row),
        "state": row.state.value,
        "reason": _text(row.reason),
        "spec": json.dumps(row.spec),
        "handle": handle_text(row.handle),
    }
    db.execute(_PUT, [values[column] for column in _COLUMNS])


def remove_pending(db: sqlite3.Connection, tag: str) -> None:
    """Take a resource off the record of which nothing was or will be created."""
    db.execute("DELETE FROM resources WHERE id = ? AND state = ?", (tag, State.PENDING.value))


def plan_again(db: sqlite3.Connection, tag: str, fence: int, plan: Handle) -> None:
    """Record where a resource that has ended will be next."""
    db.execute("UPDATE resources SET handle = ? WHERE id = ? AND fence = ?", (handle_text(plan), tag, fence))


class Transition(NamedTuple):
    """A step of a resource in its life: where it is from then on, what happened, and when.

    ``url`` and ``handle`` stay what they were when None.
    """

    tag: str
    fence: int
    state: State
    events: Sequence[tuple[str, str]]
    reason: str
    exit_code: int | None
    url: str | None
    handle: Handle | None
    at: float


_UPDATE = (
    "UPDATE resources SET state = ?, reason = ?, exit_code = ?, url = coalesce(?, url), handle = coalesce(?, handle), "
    "changed = ? WHERE id = ? AND fence = ? RETURNING owner, name"
)


def write_all(db: sqlite3.Connection, transitions: Sequence[Transition]) -> list[bool]:
    """Record steps in the order in which they happened: the row of each resource once, as it is after the last of them.

    Returns:
        For each whether it was written; False if somebody with a higher fence has its resource.
    """
    last: dict[tuple[str, int], Transition] = {}
    for each in transitions:
        former = last.get((each.tag, each.fence))
        if former is not None:
            each = each._replace(url=each.url or former.url, handle=each.handle or former.handle)  # noqa: PLW2901
        last[each.tag, each.fence] = each
    named: dict[tuple[str, int], tuple[str, str]] = {}
    for key, each in last.items():
        row = db.execute(
            _UPDATE,
            (
                *(each.state.value, _text(each.reason), each.exit_code, each.url, handle_text(each.handle)),
                *(each.at, each.tag, each.fence),
            ),
        ).fetchone()
        if row is not None:
            named[key] = row["owner"], row["name"]
    happened: list[_Happened] = []
    for each in transitions:
        known = named.get((each.tag, each.fence))
        if known is not None:
            owner, name = known
            happened += [(each.at, owner, each.tag, name, what, _text(detail)) for what, detail in each.events]
    _add_events(db, happened)
    return [(each.tag, each.fence) in named for each in transitions]


def write(
    db: sqlite3.Connection,
    tag: str,
    fence: int,
    state: State,
    events: Sequence[tuple[str, str]],
    reason: str = "",
    exit_code: int | None = None,
    url: str | None = None,
    handle: Handle | None = None,
) -> bool:
    """Record where a resource is in its life, and what happened just now; False if somebody with a higher fence has it."""
    return write_all(db, [Transition(tag, fence, state, events, reason, exit_code, url, handle, time.time())])[0]


def is_on_record(db: sqlite3.Connection, tag: str) -> bool:
    """Whether there is a row of it: of one that was interrupted before it was recorded there is none."""
    return db.execute("SELECT 1 FROM resources WHERE id = ?", (tag,)).fetchone() is not None


def begin_life(db: sqlite3.Connection, tag: str, fence: int) -> int | None:
    """Number the next life of a resource, which is live from then on; None if somebody with a higher fence has it."""
    row = db.execute(
        "UPDATE resources SET life = life + 1, state = ?, reason = '', exit_code = NULL, changed = ? "
        "WHERE id = ? AND fence = ? RETURNING life",
        (State.PENDING.value, time.time(), tag, fence),
    ).fetchone()
    return None if row is None else int(row["life"])


def take_over(db: sqlite3.Connection, tag: str, fence: int, owner: str) -> bool:
    """Make ``owner`` the owner of a resource whose fence is ``fence``; False if somebody else was faster."""
    return bool(
        db.execute(
            "UPDATE resources SET owner = ?, fence = fence + 1, changed = ? WHERE id = ? AND fence = ?",
            (owner, time.time(), tag, fence),
        ).rowcount
    )
