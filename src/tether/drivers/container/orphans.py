"""What dead owners left at an engine of which no ledger knows any more: their state directory has gone.

The labels say who the owner was. Ended is only what is ours by two proofs, of an owner that is certainly dead, and that is on no
record: who may live, in another container, on another machine or under another user, keeps what it has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.drivers.container import address, marks, removal
from tether.drivers.container.engine import Engine
from tether.errors import DriverUnavailable
from tether.linux import identity
from tether.model import Handle, Identity

__all__ = ["Orphan", "owner_mark", "reap"]

_LEDGER = "ledger.db"


@dataclass(frozen=True)
class Orphan:
    """What came of what an engine has under one tag.

    Attributes:
        tag: the resource's.
        name: of its container, or of the first of what is left.
        what: "ended", "would end", "left alone" or "failed".
        detail: why.
    """

    tag: str
    name: str
    what: str
    detail: str


def _machine() -> str:
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def owner_mark(state_dir: Path) -> str:
    """Return what a label says of the owner that this process is: who it is, where, and where its ledger is. No secrets."""
    me = identity.identify()
    return json.dumps(
        {
            "boot": identity.boot_id(),
            "pid": os.getpid(),
            "start": 0 if me is None else me.start,
            "namespace": _pid_namespace(),
            "uid": os.getuid(),
            "machine": _machine(),
            "host": os.uname().nodename,
            "state": str(state_dir),
        },
        separators=(",", ":"),
    )


def _why_it_may_live(said: str | None) -> str:
    """Say why the owner that a label tells of may live, or why its ledger settles that; empty if it is dead, and on no record."""
    try:
        owner = json.loads(said or "")
        mark = Identity(str(owner["boot"]), int(owner["pid"]), int(owner["start"]))
        machine, host, state = str(owner["machine"]), str(owner["host"]), str(owner["state"])
        namespace, uid = int(owner["namespace"]), int(owner["uid"])
    except (ValueError, KeyError, TypeError):
        return "its label does not say who its owner is"
    if _may_exist(Path(state, _LEDGER)):
        return f"it is for its ledger to say: run TETHER_STATE_DIR={state} tether reap"
    if uid != os.getuid():
        return f"its owner is of another user, {uid}"
    return _why_not_dead(mark, machine, host, namespace)


def _why_not_dead(mark: Identity, machine: str, host: str, namespace: int) -> str:
    if not identity.same_boot(mark):
        # Another boot of this machine, or another place: only a machine that is known to be the same can have been started again.
        if not machine or machine != _machine() or host != os.uname().nodename:
            return f"its owner, pid {mark.pid}, is on another machine, {host or 'unknown'}, or in a container of one"
    elif namespace != _pid_namespace():
        return f"its owner, pid {mark.pid}, is in another pid namespace of this machine"
    elif identity.is_alive(mark):
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


def reap(given: str | None = None, *, dry_run: bool = False) -> list[Orphan]:
    """End what dead owners left at an engine, of which no ledger knows any more.

    Args:
        given: the engine's address; by default the one in use here.
        dry_run: only say what would be done.

    Raises:
        DriverUnavailable: the engine does not answer.
    """
    engine = Engine(address.find(given))
    try:
        labels = _labels_by_tag(engine)
        return [
            _settle(engine, tag, labels[tag][0], labels[tag][1].get(marks.IDENTITY), dry_run=dry_run)
            for tag in sorted(labels)
        ]
    finally:
        engine.close()


def _settle(engine: Engine, tag: str, name: str, mark: str | None, *, dry_run: bool) -> Orphan:
    plan = Handle("container", tag, {**engine.address.record(), "attached": False})
    try:
        found = marks.find(engine, plan)
        if not found:
            return Orphan(tag, name, "left alone", "it only carries the label: an image that was committed gives it on")
        why = _why_it_may_live(mark)
        if why:
            return Orphan(tag, name, "left alone", why)
        if dry_run:
            return Orphan(tag, name, "would end", f"its owner is dead, and its ledger has gone: {found.in_words()}")
        removal.remove(engine, plan, lambda _: None)
    except DriverUnavailable as error:
        return Orphan(tag, name, "failed", str(error))
    return Orphan(tag, name, "ended", f"its owner was dead, and its ledger gone: {found.in_words()}")


def _labels_by_tag(engine: Engine) -> dict[str, tuple[str, dict[str, str]]]:
    """Return, by tag, a name and the labels of what an engine has; those of what has a name of our making, where there is any."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    for name, labels in _all_labelled(engine):
        tag = labels.get(marks.RESOURCE, "")
        if tag and (tag not in found or marks.is_made_by_us(name, tag)):
            found[tag] = (name, labels)
    return found


def _all_labelled(engine: Engine) -> Iterator[tuple[str, dict[str, str]]]:
    label = {"label": marks.RESOURCE}
    lists: list[Callable[[Any], Any]] = [
        lambda client: client.containers(all=True, filters=label),
        lambda client: client.networks(filters=label),
        lambda client: client.volumes(filters=label)["Volumes"] or [],
    ]
    for ask in lists:
        with engine.asked_for_lists() as client:
            shown = ask(client)
        for each in shown:
            names = each.get("Names") or [each.get("Name") or each.get("Id", "")]
            yield str(names[0]).lstrip("/"), each.get("Labels") or {}
