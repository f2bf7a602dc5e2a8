"""The estate of a dead owner: what is still on record as live when the process that answered for it has gone.

Settled by its own reaper at once, and by every sweep later: `Owner(...)` at its start, and ``tether reap``. Whoever settles an
estate claims it in the ledger first, so that each is settled once; a claim of somebody who died or was stopped is void.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tether import threads
from tether.errors import LedgerError, TetherError
from tether.estate import guards, strays
from tether.estate import receipts as said_by_shims
from tether.estate.case import kept_for_s
from tether.estate.claims import Claim, is_claimed
from tether.estate.foresee import estates, foresee, left_alone
from tether.estate.outcome import UNSETTLED, Outcome
from tether.estate.settling import Settling
from tether.estate.standing import Standing, standing
from tether.ledger import proof
from tether.ledger.store import Ledger, OwnerRow
from tether.life import registry
from tether.life.driver import HasGuard
from tether.linux import cgroup, faults

__all__ = ["Outcome", "settle_own", "sweep", "sweep_later"]

_log = logging.getLogger("tether")

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 30.0
_RETRY_LIMIT_S = 300.0
_OTHERS_S = 60.0
_LOOK_AGAIN_S = 0.05
_WRITES_S = 1.0


def _settle(
    ledger: Ledger,
    state_dir: Path,
    owners: Sequence[OwnerRow],
    receipts: Mapping[str, Any],
    *,
    patient: bool,
    kept_too: bool = False,
) -> tuple[dict[str, list[Outcome]], list[OwnerRow]]:
    """Settle estates once, all together. Returns the outcomes by owner, and those that somebody else is at, or was faster with."""
    free = {owner.id: owner for owner in owners if not is_claimed(owner.settler, state_dir)}
    if not free:
        return {}, list(owners)
    with Claim(state_dir) as claim:
        got = ledger.claim_all(claim.text, {owner.id: owner.settler for owner in free.values()})
        if got:
            faults.point("sweep.claimed")
        said: dict[str, Any] = {}
        for owner in got:
            said.update(said_by_shims.read(state_dir, owner))
        said.update(receipts)
        settling = Settling(ledger, ledger.database, state_dir, claim.text, said, patient=patient, kept_too=kept_too)
        outcomes = settling.settle([free[owner] for owner in got]) if got else {}
    guards.wake(state_dir, got)
    for owner in got:
        if not any(outcome.what in UNSETTLED for outcome in outcomes[owner]):
            _forget(state_dir, owner, kept=any(outcome.what == "kept" for outcome in outcomes[owner]))
    return outcomes, [owner for owner in owners if owner.id not in outcomes]


def _forget(state_dir: Path, owner: str, *, kept: bool) -> None:
    """Remove the files of an owner whose estate is settled."""
    proof.path(state_dir, owner).unlink(missing_ok=True)
    for suffix in ("ask", "restart"):
        (state_dir / "run" / f"{owner}.{suffix}").unlink(missing_ok=True)
    strays.forget(state_dir, owner)
    if not kept:
        said_by_shims.path(state_dir, owner).unlink(missing_ok=True)


def settle_own(state_dir: str, owner: str, receipts: Mapping[str, Any]) -> None:
    """What a reaper does when its owner has died and its shims have ended: settle, with growing pauses, up to a limit.

    While the owner lives and goes on to write its record, which somebody had locked, it is left to that.
    What is left then stays on record for the next sweep. Without a ledger the trees have ended all the same: the shims saw to it.
    What is kept with nothing beside it that ends it in time is watched until it is adopted or that time is over.
    """
    pause = _FIRST_PAUSE_S
    deadline = time.monotonic() + _RETRY_LIMIT_S
    while Path(state_dir).is_dir():
        try:
            ledger = Ledger(Path(state_dir))
            try:
                wait = _settle_once(ledger, Path(state_dir), owner, receipts)
            finally:
                ledger.close()
            if wait is None:
                return
            if wait > 0:
                time.sleep(wait)
                deadline = time.monotonic() + _RETRY_LIMIT_S
                continue
        except LedgerError as error:
            _log.error("estate of owner %s: %s", owner, error)
        if time.monotonic() > deadline:
            return
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _settle_once(ledger: Ledger, state_dir: Path, owner: str, receipts: Mapping[str, Any]) -> float | None:
    """Settle one's own owner's estate: None when all is done, how many seconds to wait where something is kept, 0 to try again."""
    row = ledger.owner(owner)
    live = ledger.resources(owner)
    if row is None or (row.ended is not None and not live):
        return None
    if standing(row, state_dir) is Standing.ALIVE and proof.is_held(proof.path(state_dir, owner)):
        # It was shut down while somebody else held the ledger, and still has to write what it saw.
        return _WRITES_S
    outcomes, others = _settle(ledger, state_dir, [row], receipts, patient=True)
    if others:
        # A sweep is at it; what it can't end is tried again here.
        return _FIRST_PAUSE_S
    if any(outcome.what == "failed" for outcome in outcomes[owner]):
        return 0.0
    row = ledger.owner(owner) or row
    left = [
        kept_for_s(row, each)
        for each in ledger.resources(owner)
        if not issubclass(registry.driver_class(each.kind), HasGuard)
    ]
    return max(_FIRST_PAUSE_S, min(left)) if left else None


def _remove_folders_of_ended(ledger: Ledger) -> None:
    """Remove cgroups that nobody is in any more: a folder goes only after the last shim, when its reaper may have gone already."""
    folders = cgroup.owner_folders()
    if folders:
        for owner in ledger.owners_by_id(list(folders)).values():
            if owner.ended is not None:
                cgroup.remove(folders[owner.id])


def sweep(
    ledger: Ledger,
    state_dir: Path,
    *,
    dry_run: bool = False,
    patient: bool = False,
    kept_too: bool = False,
    also: Collection[str] = (),
) -> list[Outcome]:
    """Settle the estates of all owners of this user that are dead, and return what came of each resource.

    Args:
        ledger: the ledger of ``state_dir``.
        state_dir: the state directory.
        dry_run: only say what would be done.
        patient: also wait for trees that their shims are just ending, for estates that somebody else is settling, and for
            engines and hosts; and say what is left alone since its owner is elsewhere.
        kept_too: end what was kept for the next owner, too.
        also: ids of owners that are to be taken for dead, though they can't be judged from here.

    Safe from several threads and processes at once.
    """
    if dry_run:
        return foresee(ledger, state_dir, kept_too=kept_too, also=also)
    dead, elsewhere = estates(ledger, state_dir, also)
    settled, others = _settle(ledger, state_dir, dead, {}, patient=patient, kept_too=kept_too)
    outcomes = [outcome for each in settled.values() for outcome in each]
    if patient and others:
        outcomes += _settle_after_others(ledger, state_dir, others, kept_too=kept_too)
    _remove_folders_of_ended(ledger)
    return outcomes + (left_alone(ledger, elsewhere) if patient else [])


def sweep_later(state_dir: Path) -> None:
    """Sweep patiently, in a thread of its own: engines and hosts may take long to answer. Without one the next sweep does it."""

    def settle() -> None:
        try:
            ledger = Ledger(state_dir)
            try:
                sweep(ledger, state_dir, patient=True)
            finally:
                ledger.close()
        except (TetherError, OSError) as error:
            _log.warning("what dead owners left at engines and hosts is not settled yet: %s", error)

    threads.begin(settle, "tether-sweep")


def _settle_after_others(
    ledger: Ledger, state_dir: Path, owners: Sequence[OwnerRow], *, kept_too: bool
) -> list[Outcome]:
    """Wait for somebody else who settles estates, and do it if they could not, were stopped, or died of it."""
    outcomes: list[Outcome] = []
    waiting = [owner.id for owner in owners]
    deadline = time.monotonic() + _OTHERS_S
    while waiting:
        rows = ledger.owners_by_id(waiting)
        live = ledger.resources_of(waiting)
        open_ones = [rows[owner] for owner in waiting if owner in rows and (rows[owner].ended is None or live[owner])]
        settled, others = _settle(ledger, state_dir, open_ones, {}, patient=True, kept_too=kept_too)
        outcomes += [outcome for each in settled.values() for outcome in each]
        waiting = [owner.id for owner in others]
        if waiting and time.monotonic() > deadline:
            break
        if waiting:
            time.sleep(_LOOK_AGAIN_S)
    said = "somebody else has been settling it for a long time"
    rows = ledger.owners_by_id(waiting)
    return outcomes + [
        Outcome(rows[owner].name, row.id, row.name, row.kind, "ending", said)
        for owner, resources in ledger.resources_of(waiting).items()
        for row in resources
    ]
