"""By what a thing at an engine is known to be ours.

A label alone proves nothing: ``docker commit`` copies the labels of a container to its image, and the user's own containers of that
image carry them. What is ended or removed has the label *and* a second proof: its id is on record, or it has the name that
tether makes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tether.drivers.container.engine import Engine
from tether.model import Handle

__all__ = ["IDENTITY", "OWNER", "RESOURCE", "Found", "find", "is_made_by_us", "name_of"]

RESOURCE = "tether.resource"
"""The label with the tag, on containers, networks and volumes."""

OWNER = "tether.owner"
"""The label with the owner's id."""


IDENTITY = "tether.identity"
"""The label that says who the owner is, and where its ledger is: for when that has gone."""


def name_of(base: str, tag: str) -> str:
    """Return the name of what is made under a tag; volumes have a number behind it."""
    return f"tether-{re.sub(r'[^A-Za-z0-9_.-]', '-', base)}-{tag}"


def is_made_by_us(name: str, tag: str) -> bool:
    """Whether a name is one that tether makes under this tag."""
    return re.fullmatch(rf"tether-.*-{re.escape(tag)}(-\d+)?", name.lstrip("/")) is not None


@dataclass(frozen=True)
class Found:
    """What is at an engine under a tag, and is ours by two proofs: ids of containers and networks, names of volumes."""

    containers: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.containers or self.networks or self.volumes)

    def in_words(self) -> str:
        """Say what it is."""
        counted = (("container", self.containers), ("network", self.networks), ("volume", self.volumes))
        return ", ".join(f"{what} {each[:32]}" for what, found in counted for each in found)


def find(engine: Engine, handle: Handle) -> Found:
    """Look for what is ours under the tag of a handle. Only kinds of things that were made for it are asked for.

    Raises:
        DriverUnavailable: that can't be said now.
    """
    data, tag = handle.data, handle.tag
    label = {"label": f"{RESOURCE}={tag}"}
    with engine.asked_for_lists() as client:
        containers = [
            each["Id"]
            for each in client.containers(all=True, filters=label)
            if each["Id"] == data.get("container") or any(is_made_by_us(name, tag) for name in each["Names"] or [])
        ]
        networks = [
            each["Id"]
            for each in (client.networks(filters=label) if _may_have(data, "networks") else [])
            if is_made_by_us(each["Name"], tag)
        ]
        volumes = [
            each["Name"]
            for each in ((client.volumes(filters=label)["Volumes"] or []) if _may_have(data, "volumes") else [])
            if is_made_by_us(each["Name"], tag) or each["Name"] in _names(data, "volumes")
        ]
    return Found(tuple(containers), tuple(networks), tuple(volumes))


def _may_have(data: Mapping[str, Any], what: str) -> bool:
    """Whether such things were made; of what was recorded by an older tether that is not known."""
    return what not in data or bool(data[what])


def _names(data: Mapping[str, Any], what: str) -> Collection[str]:
    return data.get(what) or ()
