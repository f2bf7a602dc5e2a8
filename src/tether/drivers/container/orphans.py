"""What dead owners left at an engine of which no ledger knows any more: their state directory has gone.

The labels say who the owner was. Ended is only what is ours by two proofs, of an owner that is certainly dead, and that is on no
record: who may live, in another container, on another machine or under another user, keeps what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tether.drivers.container import address, marks, removal
from tether.drivers.container.engine import Engine
from tether.errors import DriverUnavailable
from tether.ledger.orphans import Orphan, why_it_may_live
from tether.model import Handle

__all__ = ["reap"]


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
        why = why_it_may_live(mark)
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
