"""How a container's port is reached from here."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.drivers.container.engine import Absent, Engine
from tether.errors import DriverUnavailable

__all__ = ["Beside", "beside", "direct", "port", "proved", "published"]

_SIGNS = ("/.dockerenv", "/run/.containerenv")
"""Files that engines make in containers: Docker and Podman."""


@dataclass(frozen=True)
class Beside:
    """How a container is reached by an app that runs in a container itself, beside it.

    Attributes:
        host: the container's own address, in a network that both are in; empty if there is none.
        why_not: why it can't be reached, and how to mend that; empty if it can be.
    """

    host: str = ""
    why_not: str = ""


def beside(engine: Engine, seen: dict[str, Any], inside: int | None) -> Beside:
    """Say how a container's port is reached, if this app is in a container too: a published port is the engine's machine's then."""
    if inside is None or not _is_elsewhere(engine, seen):
        return Beside()
    networks = seen["NetworkSettings"].get("Networks") or {}
    ours = _own_networks(engine)
    for name, network in networks.items():
        if network.get("IPAddress") and name in ours:
            return Beside(str(network["IPAddress"]))
    named = ", ".join(sorted(ours)) or "none that its engine knows of"
    return Beside(
        why_not=(
            f"this app runs in a container itself, so that ports published at 127.0.0.1 of {engine} are not its own, "
            f"and it is in no network with the container ({', '.join(networks)}; the app is in: {named}). "
            "Start both in one network: "
            "network= with the name of one that the app's container is in, or run the app's container with --network host"
        )
    )


def _is_elsewhere(engine: Engine, seen: dict[str, Any]) -> bool:
    """Whether this app is in a container, and surely not in the network namespace of the engine's machine.

    There every bridge of the engine has its gateway as an address. Nothing is claimed where that says nothing: of rootless engines,
    and of containers that are in no network with a gateway.
    """
    if not any(Path(sign).exists() for sign in _SIGNS):
        return False
    networks = (seen["NetworkSettings"].get("Networks") or {}).values()
    gateways = [network["Gateway"] for network in networks if network.get("Gateway")]
    try:
        if not gateways or engine.is_rootless():
            return False
    except DriverUnavailable:
        return False
    return not any(_is_address_here(gateway) for gateway in gateways)


def _is_address_here(address: str) -> bool:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _own_networks(engine: Engine) -> set[str]:
    """Return the networks of the container that this app is in, which has its id as host name, if the engine knows it."""
    try:
        with engine.asked() as client:
            seen = client.inspect_container(socket.gethostname())
    except (DriverUnavailable, Absent):
        return set()
    return set(seen["NetworkSettings"].get("Networks") or {})


def published(seen: dict[str, Any], inside: int) -> int | None:
    """Return the port of the engine's machine on which a port of a container is published; None if it is not."""
    bindings = (seen["NetworkSettings"].get("Ports") or {}).get(f"{inside}/tcp") or []
    return int(bindings[0]["HostPort"]) if bindings else None


def port(seen: dict[str, Any], inside: int) -> int | None:
    """Return the port of the engine's machine that leads to a port of a container; None if none does."""
    if (seen.get("HostConfig") or {}).get("NetworkMode") == "host":
        # Nothing is published there: the port is the machine's.
        return inside
    return published(seen, inside)


def direct(seen: dict[str, Any], inside: int | None) -> list[Any] | None:
    """Return address, port and gateway of a container in a network of its engine; None if it has no such address."""
    if inside is None:
        return None
    for network in (seen["NetworkSettings"].get("Networks") or {}).values():
        if network.get("IPAddress") and network.get("Gateway"):
            return [network["IPAddress"], inside, network["Gateway"]]
    return None


def proved(said: Sequence[Any] | None, engine: Engine) -> tuple[str, int] | None:
    """Return where a container's port is reached without its engine's proxy; None where that can't be, as far as is known.

    An engine behind a unix socket may be in a virtual machine or behind a forwarded socket: its networks are this machine's only if
    their gateway is an address of this machine.
    """
    if said is None or not engine.address.is_socket:
        return None
    address, inside, gateway = said
    try:
        if not _is_address_here(gateway) or engine.is_rootless():
            return None
    except DriverUnavailable:
        return None
    return str(address), int(inside)
