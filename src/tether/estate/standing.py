"""Whether an owner lives, as far as that can be told from here.

Where pids mean the same, its identity tells. Elsewhere, a lock on its own file: held, it lives; free, it is dead if the kernel
is the same. What can't be judged is not dead: another host with the same home folder, another namespace without a lock.
"""

from __future__ import annotations

import enum
from pathlib import Path

from tether.ledger import proof
from tether.ledger.rows import OwnerRow
from tether.linux import whereabouts
from tether.linux.whereabouts import Whereabouts

__all__ = ["Standing", "describe", "is_here", "standing"]


class Standing(enum.Enum):
    """What is known of an owner."""

    ALIVE = "alive"
    """Here, and its process runs."""
    DEAD = "dead"
    """Its process has gone."""
    ELSEWHERE = "elsewhere"
    """It lives in another namespace or on another host, or can't be judged from here; in either case it is left alone."""


def is_here(owner: OwnerRow, here: Whereabouts | None = None) -> bool:
    """Whether the pids of this owner and of its resources mean the same here."""
    return owner.whereabouts.counts_like(here or whereabouts.here())


def standing(owner: OwnerRow, state_dir: Path, here: Whereabouts | None = None) -> Standing:
    """Return what is known of an owner.

    Args:
        owner: as recorded in the ledger of ``state_dir``.
        state_dir: the state directory.
        here: where this process is, should that be known already.
    """
    here = here or whereabouts.here()
    there = owner.whereabouts
    if there.counts_like(here):
        alive = whereabouts.lives(owner.identity)
        if alive is None:
            return Standing.ELSEWHERE
        return Standing.ALIVE if alive else Standing.DEAD
    held = proof.is_held(proof.path(state_dir, owner.id))
    if held:
        return Standing.ELSEWHERE
    if there.boot == here.boot:
        return Standing.DEAD if held is False else Standing.ELSEWHERE
    if not whereabouts.is_shared(str(state_dir)):
        # A disk has one kernel at a time: it was an earlier boot.
        return Standing.DEAD
    return Standing.DEAD if held is False and there.is_same_machine(here) else Standing.ELSEWHERE


def describe(owner: OwnerRow) -> str:
    """Say where an owner is that can't be judged from here."""
    there = owner.whereabouts
    here = whereabouts.here()
    if there.boot != here.boot:
        return f"on host {there.host or 'unknown'}, boot {there.boot}"
    if there.counts_like(here):
        return "here, but its process can't be looked at now"
    return f"in another namespace of this machine ({there.host or 'host unknown'}, {there.pid_ns or there.time_ns})"
