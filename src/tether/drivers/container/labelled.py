"""What carries a tag at an engine: containers, networks and volumes; seen, and removed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tether.drivers.container import engine
from tether.errors import DriverUnavailable

__all__ = ["direct_address", "remove", "seen", "with_tag"]

_ROUNDS = 5
_ROUND_PAUSE_S = 0.1


def seen(where: str, container: str) -> dict[str, Any] | None:
    """Return what the engine says of a container; None if there is no such."""
    try:
        with engine.asking(where):
            shown: dict[str, Any] = engine.connect(where).inspect_container(container)
            return shown
    except engine.Absent:
        return None


def with_tag(where: str, tag: str) -> tuple[list[str], list[str], list[str]]:
    """Return the ids of containers and networks, and the names of volumes, that carry a tag."""
    client = engine.connect(where)
    label = {"label": f"{engine.RESOURCE}={tag}"}
    with engine.asking(where):
        containers = [each["Id"] for each in client.containers(all=True, filters=label)]
        networks = [each["Id"] for each in client.networks(filters=label)]
        volumes = [each["Name"] for each in client.volumes(filters=label)["Volumes"] or []]
    return containers, networks, volumes


def direct_address(where: str, container: str, port: int) -> tuple[str, int] | None:
    """Return where a container's port is reached without its engine's proxy; None where that can't be reached from here."""
    shown = seen(where, container)
    with engine.asking(where):
        rootless = any("rootless" in option for option in engine.connect(where).info().get("SecurityOptions") or [])
    if shown is None or rootless or not where.startswith("unix://"):
        return None
    networks = shown["NetworkSettings"]["Networks"].values()
    address = next((network["IPAddress"] for network in networks if network.get("IPAddress")), None)
    return None if address is None else (address, port)


def remove(where: str, tag: str, before: Callable[[str], None]) -> None:
    """Remove by force what carries a tag, until the engine shows nothing of it any more.

    Args:
        where: the engine.
        tag: the tag.
        before: called with the id of each container just before it is removed.

    Raises:
        DriverUnavailable: the engine does not answer, or can't remove it; to be tried again.
    """
    refused: DriverUnavailable | None = None
    for _ in range(_ROUNDS):
        containers, networks, volumes = with_tag(where, tag)
        if not (containers or networks or volumes):
            return
        for container in containers:
            before(container)
            refused = _remove(where, "remove_container", container, v=True, force=True) or refused
        for network in networks:
            _disconnect_all(where, network)
            refused = _remove(where, "remove_network", network) or refused
        for volume in volumes:
            refused = _remove(where, "remove_volume", volume, force=True) or refused
        time.sleep(0 if refused is None else _ROUND_PAUSE_S)
    raise refused or DriverUnavailable(
        f"resource {tag} is still at container engine {where}, which was told to remove it"
    )


def _remove(where: str, method: str, what: str, **options: bool) -> DriverUnavailable | None:
    """Ask for one removal; what is gone already, or is just being removed, is success."""
    try:
        with engine.asking(where):
            getattr(engine.connect(where), method)(what, **options)
    except engine.Absent:
        return None
    except DriverUnavailable as error:
        return error
    return None


def _disconnect_all(where: str, network: str) -> None:
    """Let go of containers of others that were put into a network that goes."""
    with suppress(Exception), engine.asking(where):
        client = engine.connect(where)
        for container in client.inspect_network(network).get("Containers") or {}:
            client.disconnect_container_from_network(container, network, force=True)
