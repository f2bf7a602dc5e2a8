"""From a spec to a machine: what is on record before it, what is made beside it, and what is on record after."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from tether.drivers.cloud import creation
from tether.drivers.cloud.provider import CanLease, Choice, HasParts, Order, Part, Provider, Seen, provider_class
from tether.drivers.cloud.spec import Machine, MachineRef
from tether.errors import NotCreated
from tether.linux import faults
from tether.model import Progress

__all__ = ["attach", "create", "plan"]


def plan(spec: Machine | MachineRef, tag: str) -> dict[str, Any]:
    """Return what is on record before anything is created: who, how reached, the proof, the names of parts, and since when."""
    made = provider_class(str(spec.provider))
    where = made.where(spec)
    data: dict[str, Any] = {"provider": spec.provider, "where": where, "attached": isinstance(spec, MachineRef)}
    if isinstance(spec, MachineRef):
        return data
    provider = made(where)
    parts = provider.planned(spec, tag) if isinstance(provider, HasParts) else []
    return {
        **data,
        # New for each attempt: what is said of an earlier life is not believed of this one.
        "proof": f"tether-{tag}-{secrets.token_hex(4)}",
        "began": time.time(),
        "lag": made.lag_s if spec.listing_lag is None else spec.listing_lag,
        "parts": [[part.what, part.name] for part in parts],
    }


def create(
    order: Order, provider: Provider, planned: Mapping[str, Any], choice: Choice, kept_s: float, progress: Progress
) -> tuple[dict[str, Any], Seen]:
    """Make the parts and the machine of an order, and return what is on record from now on.

    Raises:
        Refused: there is no machine, by the provider's own word.
        DriverUnavailable: there may be one.
    """
    spec = order.spec
    parts = [Part(*each) for each in planned["parts"]]
    if isinstance(provider, HasParts):
        for part in parts:
            progress(f"making {part.what} {part.name}")
            provider.make(part, order)
            faults.point("start.making")
    progress(f"renting a machine{f' of type {choice.type}' if choice.type else ''}")
    seen = creation.create(provider, order, choice, planned["began"], planned["lag"])
    faults.point("start.making")
    made = {
        "made": time.time(),
        "port": spec.port,
        "lease": spec.lease,
        "kept": kept_s,
        "max_lifetime": spec.max_lifetime,
        "key": spec.key is True,
        "spot": spec.spot,
        "leased_by_provider": isinstance(provider, CanLease) and any(part.what == "schedule" for part in parts),
    }
    return {**planned, **made, **_shown(seen, choice, spec.cost_per_hour)}, seen


def attach(spec: MachineRef, provider: Provider, planned: Mapping[str, Any]) -> tuple[dict[str, Any], Seen]:
    """Look at a machine that is there already. Raises NotCreated."""
    seen = provider.look([spec.machine]).get(spec.machine)
    if seen is None or seen.phase != "running":
        what = "there is no machine of that id" if seen is None else f"it is {seen.word}"
        raise NotCreated(f"cannot attach to {spec.machine}: {what}", resource=spec.name or spec.machine)
    more = {"port": spec.port, "made": seen.made or time.time(), "lag": provider.lag_s, "lease": None}
    return {**planned, **more, **_shown(seen, None, spec.cost_per_hour)}, seen


def _shown(seen: Seen, choice: Choice | None, cost_per_hour: float | None) -> dict[str, Any]:
    """What of a machine goes into its handle."""
    rate = cost_per_hour
    for each in (seen.cost_per_hour, None if choice is None else choice.cost_per_hour):
        rate = each if rate is None else rate
    return {
        "id": seen.id,
        "address": seen.address,
        "ssh_port": seen.ssh_port,
        "ssh_user": None if choice is None else choice.ssh_user,
        "type": seen.type or (choice.type if choice is not None else None),
        "gpu": seen.gpu or (choice.gpu if choice is not None else None),
        "gpu_count": seen.gpu_count or (choice.gpu_count if choice is not None else 0),
        "cost_per_hour": rate,
    }
