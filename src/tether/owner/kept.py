"""What is known of a resource that an earlier owner kept: enough to stop it, not to start it again."""

from __future__ import annotations

from tether.ledger.store import ResourceRow
from tether.model import Recorded

__all__ = ["recorded"]


def recorded(row: ResourceRow) -> Recorded:
    """Return the spec of a resource as far as it is on record."""
    return Recorded(
        kind=row.kind,
        name=row.name,
        recorded=row.spec,
        on_death="keep",
        keep_for=row.keep_for,
        stop_grace=float(row.spec.get("stop_grace", 10.0)),
        stays_up=bool(row.spec.get("stays_up", False)),
    )
