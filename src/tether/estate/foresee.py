"""Which estates there are, and what a sweep would do with them: the same questions and decisions, and nothing done or recorded."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from tether.estate.claims import is_claimed
from tether.estate.outcome import Outcome
from tether.estate.settling import Settling
from tether.estate.standing import Standing, describe, standing
from tether.ledger.look import Look
from tether.ledger.rows import OwnerRow
from tether.linux import whereabouts

__all__ = ["estates", "foresee", "left_alone"]


def estates(look: Look, state_dir: Path, also: Collection[str] = ()) -> tuple[list[OwnerRow], list[OwnerRow]]:
    """Return this user's owners with an estate: whose process has gone, also those of an earlier boot, or who kept something.

    Args:
        look: the ledger of ``state_dir``.
        state_dir: the state directory.
        also: ids of owners that are to be taken for dead, though they can't be judged from here.

    Returns:
        These, and the owners that can't be judged.
    """
    mine, here = os.getuid(), whereabouts.here()
    dead, elsewhere = [], []
    for owner in look.owners():
        if owner.uid != mine:
            continue
        known = Standing.DEAD if owner.ended is not None else standing(owner, state_dir, here)
        if known is Standing.DEAD or (known is Standing.ELSEWHERE and owner.id in also):
            dead.append(owner)
        elif known is Standing.ELSEWHERE:
            elsewhere.append(owner)
    return dead, elsewhere


def left_alone(look: Look, owners: Sequence[OwnerRow]) -> list[Outcome]:
    """Say what is left alone, since its owner can't be judged from here."""
    live = look.resources_of([owner.id for owner in owners])
    return [
        Outcome(owner.name, row.id, row.name, row.kind, "elsewhere", f"its owner is {describe(owner)}")
        for owner in owners
        for row in live[owner.id]
    ]


def foresee(look: Look, state_dir: Path, *, kept_too: bool = False, also: Collection[str] = ()) -> list[Outcome]:
    """Return what `sweep`, patient as by hand, would do for each resource of dead owners.

    Args:
        look: the ledger of ``state_dir``; it is only read.
        state_dir: the state directory.
        kept_too: whether what was kept for the next owner would be ended too.
        also: as for `estates`.
    """
    dead, elsewhere = estates(look, state_dir, also)
    claimed = [owner for owner in dead if is_claimed(owner.settler, state_dir)]
    live = look.resources_of([owner.id for owner in claimed])
    said = "somebody is settling it just now; a sweep would wait for that"
    busy = [
        Outcome(owner.name, row.id, row.name, row.kind, "ending", said) for owner in claimed for row in live[owner.id]
    ]
    settling = Settling(look, None, state_dir, "", {}, patient=True, kept_too=kept_too)
    foreseen = settling.settle([owner for owner in dead if owner not in claimed])
    return [*(outcome for each in foreseen.values() for outcome in each), *busy, *left_alone(look, elsewhere)]
