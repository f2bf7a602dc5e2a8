"""The rows of the ledger as they are handed out."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from tether.linux.whereabouts import Whereabouts
from tether.model import Handle, Identity, State

__all__ = ["EventRow", "OwnerRow", "ResourceRow", "handle_text", "owner_row", "resource_row"]


@dataclass(frozen=True)
class OwnerRow:
    """One owner as recorded.

    Attributes:
        began, ended: seconds since the epoch, to be shown.
        settler: who settles its estate now, see `tether.estate.claims`.
        whereabouts: where it is or was.
        ended_clock, ended_up: when its end was put on record, on a clock that nobody sets: which clock, and its seconds.
    """

    id: str
    name: str
    identity: Identity
    uid: int
    cgroup: str | None
    began: float
    ended: float | None
    settler: str | None
    whereabouts: Whereabouts
    ended_clock: str = ""
    ended_up: float | None = None


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
    """Return an owner as it was read; an older ledger, which readers leave as it is, says less of it."""
    values = dict(row)
    boot = values["boot"]
    where = Whereabouts(boot=boot, **{key: values.get(key, "") for key in ("machine", "host", "pid_ns", "time_ns")})
    return OwnerRow(
        **{key: values[key] for key in ("id", "name", "uid", "cgroup", "began", "ended", "settler")},
        identity=Identity(boot, values["pid"], values["start"]),
        whereabouts=where,
        ended_clock=values.get("ended_clock", ""),
        ended_up=values.get("ended_up"),
    )


def handle_text(handle: Handle | None) -> str | None:
    """Return a handle as it is written."""
    if handle is None:
        return None
    return json.dumps({"kind": handle.kind, "tag": handle.tag, "data": dict(handle.data), "version": handle.version})


def resource_row(row: sqlite3.Row) -> ResourceRow:
    """Return a resource as it was read."""
    values = dict(row)
    handle = values["handle"]
    values["state"] = State(values["state"])
    values["spec"] = json.loads(values["spec"])
    values["handle"] = None if handle is None else Handle(**json.loads(handle))
    return ResourceRow(**values)
