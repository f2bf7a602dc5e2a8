"""What another host offers, for ``tether doctor user@host``."""

from __future__ import annotations

from typing import Any

from tether.model import Finding

__all__ = ["findings"]

_ROOM_BYTES = 1 << 20


def findings(hello: dict[str, Any], seen: dict[str, Any]) -> list[Finding]:
    """Say what follows from what the other side said of itself when it was reached, and when it was asked."""
    files = f"boot {hello['boot']}, files in {hello['home']}"
    if hello["python"]:
        shim = Finding("shim there", True, f"Python {hello['python']}", "the whole tree is held, whatever it does")
    else:
        follows = "only the command's process group is held: what leaves it escapes"
        shim = Finding("shim there", False, "no Python 3.8 or later, only sh", follows)
    return [
        Finding("connection", True, files, "leases can be held there"),
        shim,
        Finding("room there", seen["free"] > _ROOM_BYTES, f"{seen['free'] / 1e6:.0f} MB free", "for logs and receipts"),
        Finding("running there", True, f"{len(seen['running'])}", "of this user, by any owner"),
    ]
