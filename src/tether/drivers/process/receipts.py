"""What shims say of the end of their trees: over the line, in a file of their own, or in that of their owner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tether.guard.wire import Message
from tether.life.machine import Ended

__all__ = ["of_life", "outcome", "outcome_of"]


def of_life(state_dir: Path, owner: str, tag: str, life: int) -> dict[str, Any] | None:
    """Return what the shim of this life of a resource appended to its owner's file; None if there is nothing that makes sense."""
    try:
        lines = (state_dir / "run" / f"{owner}.receipts").read_bytes().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        if tag.encode() not in line:
            continue
        try:
            said: dict[str, Any] = json.loads(line)
            if said["tag"] == tag and said["life"] == life:
                outcome(said)
                return said
        except (ValueError, KeyError, TypeError, AttributeError):
            # Cut by a full disk, or somebody else's.
            continue
    return None


def outcome(receipt: dict[str, Any]) -> Ended:
    """Turn a receipt, as a shim left it, into an event."""
    asked = receipt["why"] == "asked by signal"
    why = "ended by itself" if receipt["why"] == "by itself" else receipt["why"]
    proof = receipt["said"]
    if receipt["shm"]:
        proof += f"; removed {', '.join(f'/dev/shm/{name}' for name in receipt['shm'])}"
    return Ended(receipt["status"], why, asked=asked, proof=proof)


def outcome_of(message: Message) -> Ended:
    """Turn what a shim says at its end into an event."""
    said = {"why": message.text("why"), "said": message.text("said"), "shm": message.texts("shm")}
    return outcome({**said, "status": message.number("status")})
