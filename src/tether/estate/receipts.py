"""What guards say of the ends of trees: believed as far as it makes sense, and of the life that is on record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tether.ledger.rows import ResourceRow

__all__ = ["Receipt", "of"]


@dataclass(frozen=True)
class Receipt:
    """How a tree ended.

    Attributes:
        status: the exit code of its command, negative for a signal; None if it is not known.
        said: what ended it, and how that is known.
    """

    status: int | None
    said: str


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
    return Receipt(status, f"{said}; removed {', '.join(removed)}" if removed else said)
