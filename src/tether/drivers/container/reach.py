"""How a container's port is reached from here."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from tether.drivers.container.engine import Engine
from tether.errors import DriverUnavailable

__all__ = ["direct", "port", "proved", "published"]


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
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((gateway, 0))
        if engine.is_rootless():
            return None
    except (OSError, DriverUnavailable):
        return None
    return str(address), int(inside)
