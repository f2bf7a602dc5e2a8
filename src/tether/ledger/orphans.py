"""What stands on a thing itself of the owner that made it, so that it can be judged when the owner's ledger has gone.

Ended is only what is ours by two proofs, of an owner that is certainly dead, and that is on no record: who may live, in another
container, on another machine or under another user, keeps what it has.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from tether.linux import identity, whereabouts
from tether.model import Identity

__all__ = ["Orphan", "owner_mark", "why_it_may_live"]

_LEDGER = "ledger.db"


@dataclass(frozen=True)
class Orphan:
    """What came of what a service has under one tag.

    Attributes:
        tag: the resource's.
        name: of the first thing that carries it.
        what: "ended", "would end", "left alone" or "failed".
        detail: why.
    """

    tag: str
    name: str
    what: str
    detail: str


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def owner_mark(state_dir: Path) -> str:
    """Return what is said on a thing of the owner that this process is: who it is, where, and where its ledger is. No secrets."""
    me, place = identity.identify(), whereabouts.here()
    return json.dumps(
        {
            "boot": place.boot,
            "pid": os.getpid(),
            "start": 0 if me is None else me.start,
            "namespace": _pid_namespace(),
            "uid": os.getuid(),
            "machine": place.machine,
            "host": place.host,
            "state": str(state_dir),
        },
        separators=(",", ":"),
    )


def why_it_may_live(said: str | None) -> str:
    """Say why the owner that a mark tells of may live, or why its ledger settles that; empty if it is dead, and on no record."""
    try:
        owner = json.loads(said or "")
        mark = Identity(str(owner["boot"]), int(owner["pid"]), int(owner["start"]))
        machine, host, state = str(owner["machine"]), str(owner["host"]), str(owner["state"])
        namespace, uid = int(owner["namespace"]), int(owner["uid"])
    except (ValueError, KeyError, TypeError):
        return "it does not say who its owner is"
    if _may_exist(Path(state, _LEDGER)):
        return f"it is for its ledger to say: run TETHER_STATE_DIR={state} tether reap"
    if uid != os.getuid():
        return f"its owner is of another user, {uid}"
    return _why_not_dead(mark, machine, host, namespace)


def _why_not_dead(mark: Identity, machine: str, host: str, namespace: int) -> str:
    if not identity.same_boot(mark):
        # Another boot of this machine, or another place: only a machine that is known to be the same can have been started again.
        if not whereabouts.here().is_same_machine(whereabouts.Whereabouts(machine, host)):
            return f"its owner, pid {mark.pid}, is on another machine, {host or 'unknown'}, or in a container of one"
    elif namespace != _pid_namespace():
        return f"its owner, pid {mark.pid}, is in another pid namespace of this machine"
    elif whereabouts.lives(mark) is not False:
        return f"its owner, pid {mark.pid}, lives"
    return ""


def _may_exist(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
