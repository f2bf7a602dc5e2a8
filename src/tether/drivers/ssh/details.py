"""What is told of a process on another host."""

from __future__ import annotations

from typing import Any

from tether.drivers.ssh import diagnosis
from tether.life.machine import Ended
from tether.model import Handle

__all__ = ["of", "outcome"]


def of(handle: Handle) -> dict[str, Any]:
    """Return its host, the pid of its command there, and how it is held there: ready for JSON, no secrets."""
    where, main, tier = handle.data["where"], handle.data.get("main"), handle.data.get("tier")
    return {
        "ssh_host": where["host"],
        "ssh_port": where["port"] or 22,
        "ssh_user": where["user"],
        "far_pid": main[0] if main else None,
        "held_by": None if tier is None else f"{tier}: {diagnosis.TIERS.get(tier, '')}",
    }


def outcome(receipt: dict[str, Any]) -> Ended:
    """Return how it ended, as its shim said."""
    return Ended(receipt["status"], receipt["why"], proof=receipt["said"])
