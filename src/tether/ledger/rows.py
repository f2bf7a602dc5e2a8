"""The rows of the ledger as they are handed out."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from tether.model import Handle, Identity, State

__all__ = ["EventRow", "OwnerRow", "ResourceRow", "handle_text", "owner_row", "resource_row"]


@dataclass(frozen=True)
class OwnerRow:
    """One owner as recorded. ``ended`` and ``began`` are seconds since the epoch."""

    id: str
    name: str
    identity: Identity
    uid: int
    cgroup: str | None
    began: float
    ended: float | None
    settler: str | None


@dataclass(frozen=True)
class ResourceRow:
    """One resource as recorded. Times are seconds since the epoch; ``life`` counts its runs, the first is 1."""

    id: str
    owner: str
    name: str
    kind: str
    state: State
    reason: str
    exit_code: int | None
    url: str | None
    spec: dict[str, Any]
    handle: Handle | None
    on_death: str
    keep_for: float
    fence: int
    began: float
    changed: float
    life: int = 1


@dataclass(frozen=True)
class EventRow:
    """One thing that happened. ``resource`` is None if it happened to the owner."""

    seq: int
    at: float
    owner: str
    resource: str | None
    name: str
    what: str
    detail: str


def owner_row(row: sqlite3.Row) -> OwnerRow:
    """Return an owner as it was read."""
    identity = Identity(row["boot"], row["pid"], row["start"])
    return OwnerRow(
        row["id"], row["name"], identity, row["uid"], row["cgroup"], row["began"], row["ended"], row["settler"]
    )


def handle_text(handle: Handle | None) -> str | None:
    """Return a handle as it is written."""
    if handle is None:
        return None
    return json.dumps({"kind": handle.kind, "tag": handle.tag, "data": dict(handle.data), "version": handle.version})


def resource_row(row: sqlite3.Row) -> ResourceRow:
    """Return a resource as it was read."""
    values = {key: row[key] for key in row.keys()}  # noqa: SIM118 - iterating a sqlite3.Row gives values
    handle = values["handle"]
    values["state"] = State(values["state"])
    values["spec"] = json.loads(values["spec"])
    values["handle"] = None if handle is None else Handle(**json.loads(handle))
    return ResourceRow(**values)
