"""What guards say of the ends of trees: believed as far as it makes sense, and of the life that is on record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.ledger.rows import ResourceRow

__all__ = ["Receipt", "of", "path", "read"]


@dataclass(frozen=True)
class Receipt:
    """How a tree ended.

    Attributes:
        status: the exit code of its command, negative for a signal; None if it is not known.
        said: what ended it, and how that is known.
        by_itself: whether nobody asked for it.
    """

    status: int | None
    said: str
    by_itself: bool = False


def path(state_dir: Path, owner: str) -> Path:
    """Return the file to which the shims of an owner append how their trees ended, a line of JSON each."""
    return state_dir / "run" / f"{owner}.receipts"


def read(state_dir: Path, owner: str) -> dict[str, Any]:
    """Return what the shims of an owner said, by resource: of each its last life. A line that is none of theirs is left aside."""
    found: dict[str, Any] = {}
    try:
        lines = path(state_dir, owner).read_bytes().splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            said = json.loads(line)
            tag, life = str(said["tag"]), int(said["life"])
        except (ValueError, KeyError, TypeError):
            continue
        if tag not in found or found[tag]["life"] <= life:
            found[tag] = {**said, "life": life}
    return found


def of(row: ResourceRow, receipts: Mapping[str, Any]) -> Receipt | None:
    """Return the receipt for a resource as on record; None without one, or with one that is nonsense or of an earlier life."""
    given = receipts.get(row.id)
    if not isinstance(given, Mapping):
        return None
    life, status, said = given.get("life"), given.get("status"), given.get("said")
    if life is not None and (not isinstance(life, int) or life < row.life):
        return None
    if isinstance(status, bool) or not isinstance(status, int | None) or not isinstance(said, str):
        return None
    shm = given.get("shm")
    removed = [str(name) for name in shm] if isinstance(shm, list | tuple) else []
    by_itself = given.get("why") == "by itself"
    return Receipt(status, f"{said}; removed {', '.join(removed)}" if removed else said, by_itself)
