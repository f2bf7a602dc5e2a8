"""What a look at something that is rented says of it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from tether.drivers.cloud.absence import shown_by_now
from tether.drivers.cloud.watch import Held
from tether.life.machine import Reached, Unreachable
from tether.model import Handle

__all__ = ["Over", "at_a_cost", "of"]


@dataclass(frozen=True)
class Over:
    """It has ended, or is to be ended now: why, and with which exit code, where there is one."""

    why: str
    exit_code: int | None = None


def of(held: Held) -> Over | Unreachable | Reached | None:
    """Judge the last look; None if it says nothing yet."""
    if held.absent or held.seen is None:
        return _absent(held)
    handle, seen = held.handle, held.seen
    if seen.phase == "gone":
        return Over(f"ended at the provider: {seen.reason or seen.word}", seen.exit_code)
    if time.time() > handle.data["made"] + handle.data.get("max_lifetime", math.inf):
        # Where nothing in it or at the provider does.
        return Over("its max_lifetime is over")
    if seen.phase in ("stopping", "stopped"):
        return Unreachable(f"it is {seen.word}: it does not run, is not gone, and what it keeps is billed")
    return Reached()


def _absent(held: Held) -> Over | Unreachable | None:
    """One look that does not show it says nothing; what was just created may not be shown yet."""
    if held.absent < 2:
        return None
    if shown_by_now(held.handle):
        return Over("ended at the provider: it is listed no more")
    return Unreachable(at_a_cost(held.handle, "the provider does not show it"))


def at_a_cost(handle: Handle, why: str) -> str:
    """Say with a reason what it costs, should it run."""
    rate = handle.data.get("cost_per_hour")
    return f"{why}; if it runs, it costs {'an amount that is not known' if rate is None else f'{rate:g} US dollars'} an hour"
