"""What another host offers, for ``tether doctor user@host``."""

from __future__ import annotations

from tether.drivers.ssh.agent import Hello
from tether.guard.wire import Message
from tether.model import Finding

__all__ = ["TIERS", "findings"]

_ROOM_BYTES = 1 << 20

TIERS = {
    "shim": "the whole tree is held, whatever it does",
    "portable": "its kernel has no child subreapers: members are followed by their marks, which a program can shed",
}
"""How trees are held on another host, and what that means."""


def findings(hello: Hello, seen: Message) -> list[Finding]:
    """Say what follows from what the other side said of itself when it was reached, and when it was asked."""
    free = seen.number("free") or 0
    guard = f"tether-guard {hello.build} for {hello.machine}, {hello.tier}"
    return [
        Finding("connection", True, f"boot {hello.boot}, files in {hello.home}", "leases can be held there"),
        Finding("shim there", hello.tier == "shim", guard, TIERS.get(hello.tier, "")),
        Finding("room there", free > _ROOM_BYTES, f"{free / 1e6:.0f} MB free", "for logs and receipts"),
        Finding("running there", True, f"{len(seen.texts('running'))}", "of this user, by any owner"),
    ]
