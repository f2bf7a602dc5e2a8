"""What resources cost, by the ledger: how long each was there, and the price of an hour that stands with it.

An estimate by time, not the provider's bill: disks, traffic and least times are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tether.ledger.rows import EventRow, ResourceRow

__all__ = ["Cost", "by_day", "is_rented", "lives", "price", "spent"]

_BEGINS = "created"
_ENDS = ("gone", "failed", "forgotten")
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Cost:
    """What some resources cost on one day.

    Attributes:
        owner: the owner's name.
        kind: the resources' kind.
        day: in UTC, like "2026-11-25".
        hours: how long they were there, all together.
        usd: US dollars; None where the price of one of them is not known.
    """

    owner: str
    kind: str
    day: str
    hours: float
    usd: float | None


def price(row: ResourceRow) -> float | None:
    """Return the price of an hour that is on record, in US dollars; None if none is."""
    data = row.handle.data if row.handle is not None else {}
    rate = data.get("cost_per_hour", row.spec.get("cost_per_hour"))
    return None if rate is None else float(rate)


def is_rented(row: ResourceRow) -> bool:
    """Whether a resource is one that is paid for by the hour, by this owner."""
    data = row.handle.data if row.handle is not None else {}
    return "cost_per_hour" in row.spec and not data.get("attached", False)


def lives(row: ResourceRow, events: Iterable[EventRow], now: float) -> list[tuple[float, float]]:
    """Return from when to when it was there, once for each of its lives, in seconds since the epoch.

    Args:
        row: the resource.
        events: its own, the oldest first; those of long ago may be missing.
        now: the end of what goes on.
    """
    found: list[tuple[float, float]] = []
    began: float | None = None
    for event in events:
        if event.what == _BEGINS:
            began = event.at
        elif event.what in _ENDS and began is not None:
            found.append((began, event.at))
            began = None
    if began is None and not found:
        # Its owner died before it could say so, or that was long ago.
        made = row.handle.data.get("made") if row.handle is not None else None
        began = None if made is None else float(made)
    if began is not None:
        found.append((began, max(began, row.changed if row.state.is_final else now)))
    return found


def spent(row: ResourceRow, events: Iterable[EventRow], now: float) -> float | None:
    """Return what a resource has cost so far, in US dollars; None if its price is not known."""
    rate = price(row)
    return None if rate is None else rate * sum(end - began for began, end in lives(row, events, now)) / _HOUR_S


def _days(began: float, end: float) -> Iterable[tuple[str, float]]:
    """Split a time into days of UTC: each with the seconds that fall on it."""
    while began < end:
        day = datetime.fromtimestamp(began, UTC)
        midnight = (day.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)).timestamp()
        yield f"{day:%Y-%m-%d}", min(end, midnight) - began
        began = midnight


def by_day(
    rows: Iterable[ResourceRow], owners: Mapping[str, str], events: Iterable[EventRow], now: float
) -> list[Cost]:
    """Return what rented resources cost, by owner, kind and day; the oldest day first.

    Args:
        rows: all resources on record.
        owners: the name of each owner by its id.
        events: all events, the oldest first.
        now: the end of what goes on.
    """
    own: dict[str, list[EventRow]] = {}
    for event in events:
        own.setdefault(event.resource or "", []).append(event)
    sums: dict[tuple[str, str, str], tuple[float, float | None]] = {}
    for row in filter(is_rented, rows):
        rate = price(row)
        for began, end in lives(row, own.get(row.id, ()), now):
            for day, seconds in _days(began, end):
                key = (day, owners.get(row.owner, row.owner), row.kind)
                hours, usd = sums.get(key, (0.0, 0.0))
                more = None if rate is None or usd is None else usd + rate * seconds / _HOUR_S
                sums[key] = (hours + seconds / _HOUR_S, more)
    return [Cost(owner, kind, day, hours, usd) for (day, owner, kind), (hours, usd) in sorted(sums.items())]
