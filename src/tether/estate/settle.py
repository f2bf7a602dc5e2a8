"""The estate of a dead owner: what is still on record as live when the process that answered for it has gone.

Settled by its own reaper at once, and by every sweep later: `Owner(...)` at its start, and ``tether reap``. Whoever settles an
estate claims it in the ledger first, so that each is settled once, and a claim of somebody who died is void.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tether.errors import LedgerError, TetherError
from tether.estate import strays
from tether.ledger.store import Ledger, OwnerRow, ResourceRow
from tether.life import registry
from tether.life.driver import CanAdopt, CanAttach, Context, Driver, Drivers, HasGuard, HasPlan, HasRemains
from tether.linux import cgroup, faults, identity
from tether.model import Handle, Identity, State

__all__ = ["Outcome", "dead_owners", "settle_own", "sweep"]

_log = logging.getLogger("tether")

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 30.0
_RETRY_LIMIT_S = 300.0
_LATE_NEWS_S = 0.5
_OTHERS_S = 60.0
_LOOK_AGAIN_S = 0.05
_SIDE_BY_SIDE = 32

What = Literal["ended", "already gone", "let go", "failed", "kept", "ending", "elsewhere", "adopted", "would end"]
_NOT_ENDED = ("kept", "ending", "elsewhere", "adopted")


@dataclass(frozen=True)
class Outcome:
    """What came of one resource of an estate.

    Attributes:
        owner: the owner's name.
        resource: the resource's id; None for what plugins left without being on record.
        name, kind: the resource's.
        what: "ended" now, "already gone", "let go" (it stays), "failed" (it stays on record), "kept" for the next
            owner, "ending" (its shim is at it), "elsewhere" (left to a sweep that waits), "adopted" meanwhile, or "would end" in
            a dry run.
        detail: how that is known, or why it failed.
    """

    owner: str
    resource: str | None
    name: str
    kind: str
    what: What
    detail: str = ""


def _is_dead(owner: OwnerRow) -> bool:
    return not identity.is_alive(owner.identity)


def dead_owners(ledger: Ledger) -> list[OwnerRow]:
    """Return the owners with an estate: whose process has gone (also those of an earlier boot), or who kept something."""
    mine = os.getuid()
    return [owner for owner in ledger.owners() if owner.uid == mine and (owner.ended is not None or _is_dead(owner))]


def _me() -> str:
    me = identity.identify()
    return f"{me.boot}:{me.pid}:{me.start}" if me else ""


def _is_claimed(owner: OwnerRow) -> bool:
    """Whether somebody who lives settles this estate now."""
    if owner.settler is None or owner.settler == _me():
        return False
    boot, pid, start = owner.settler.rsplit(":", 2)
    return identity.is_alive(Identity(boot, int(pid), int(start)))


class _Settling:
    """One estate being settled by this process.

    Attributes:
        drivers: made for it, and the caller's to close.
    """

    def __init__(self, ledger: Ledger, state_dir: Path, owner: OwnerRow, receipts: Mapping[str, Any]) -> None:
        self._ledger = ledger
        self._state_dir = state_dir
        self._owner = owner
        self._receipts = receipts
        self.drivers = Drivers(Context(state_dir, owner.id))
        self._final: dict[str, State] = {}
        self._fences: dict[str, int] = {}
        self._exit_codes: dict[str, int | None] = {row: each["status"] for row, each in receipts.items()}

    def resources(self, *, patient: bool, kept_too: bool) -> Iterator[Outcome]:
        """Settle every resource; one that fails stays on record and keeps nobody from the next."""
        rows = self._ledger.resources(self._owner.id)
        far = [row for row in rows if patient and self._is_far(row)]

        def settle(row: ResourceRow) -> Outcome:
            try:
                outcome = self._settle(row, patient, kept_too)
            except TetherError as error:
                outcome = self._outcome(row, "failed", str(error))
            except OSError as error:
                outcome = self._outcome(row, "failed", f"{type(error).__name__}: {error}")
            faults.point("sweep.settled")
            self._record(row, outcome)
            return outcome

        yield from map(settle, [row for row in rows if row not in far])
        if far:
            # Engines and hosts are asked side by side: one that does not answer holds up nobody.
            with ThreadPoolExecutor(min(len(far), _SIDE_BY_SIDE)) as pool:
                yield from pool.map(settle, far)

    def _is_far(self, row: ResourceRow) -> bool:
        try:
            return isinstance(self.drivers.of(row.kind), HasPlan)
        except TetherError:
            return False

    def _outcome(self, row: ResourceRow, what: What, detail: str) -> Outcome:
        return Outcome(self._owner.name, row.id, row.name, row.kind, what, detail)

    def _settle(self, row: ResourceRow, patient: bool, kept_too: bool) -> Outcome:
        receipt = self._receipts.get(row.id)
        if receipt is not None:
            return self._outcome(row, "ended", receipt["said"])
        driver = self.drivers.of(row.kind)
        if row.handle is not None and isinstance(driver, CanAttach) and driver.is_attached(row.handle):
            return self._outcome(row, "let go", "it stays: it was there before, or is for everybody")
        if isinstance(driver, HasPlan) and not patient:
            return self._pass_over(row, kept_too)
        alive = self._alive(row, driver)
        if not alive:
            return self._already_gone(row, driver)
        return self._spare(row, driver, alive, patient, kept_too) or self._end(row, driver, alive)

    def _spare(
        self, row: ResourceRow, driver: Driver, alive: list[Handle], patient: bool, kept_too: bool
    ) -> Outcome | None:
        """Say why something that is there is not ended here and now; None if it is."""
        guarded = isinstance(driver, HasGuard) and all(driver.is_guarded(handle) for handle in alive)
        keeps = guarded if isinstance(driver, HasGuard) else self._is_kept_now(row)
        if row.on_death == "keep" and not kept_too and keeps:
            return self._kept(row)
        if guarded and not patient:
            return self._outcome(row, "ending", "its shim is at it")
        return None

    def _end(self, row: ResourceRow, driver: Driver, alive: list[Handle]) -> Outcome:
        # Whoever adopts it from now on finds a newer fence, and whoever has adopted it made this one old.
        if not self._ledger.take_over(row.id, row.fence, self._owner.id):
            return self._outcome(row, "adopted", "by another owner, meanwhile")
        self._fences[row.id] = row.fence + 1
        for handle in alive:
            if row.on_death == "stop":
                driver.stop(handle, float(row.spec.get("stop_grace", 0.0)))
            driver.destroy(handle)
        return self._with_remains(row, driver, "ended", "its owner died; seen to be gone after that")

    def _with_remains(self, row: ResourceRow, driver: Driver, what: What, detail: str) -> Outcome:
        """What nobody here could end is never called gone."""
        left = driver.remains(row.handle) if row.handle is not None and isinstance(driver, HasRemains) else ""
        if left:
            self._final[row.id] = State.FAILED
        return self._outcome(row, what, f"{detail}; {left}" if left else detail)

    def _pass_over(self, row: ResourceRow, kept_too: bool) -> Outcome:
        """What is at an engine or a host is not for a sweep that must not wait."""
        if row.on_death == "keep" and not kept_too and self._is_kept_now(row):
            return self._kept(row)
        return self._outcome(row, "elsewhere", "it is not of this machine alone; settled apart, or by 'tether reap'")

    def _kept(self, row: ResourceRow) -> Outcome:
        return self._outcome(row, "kept", f"for {row.keep_for:g} s, to be adopted by an owner named {self._owner.name}")

    def _is_kept_now(self, row: ResourceRow) -> bool:
        """Whether the time for which it is kept is not over; it begins when its owner's death is put on record."""
        return self._owner.ended is None or time.time() < self._owner.ended + row.keep_for

    def _alive(self, row: ResourceRow, driver: Driver) -> list[Handle]:
        """Return what is there under the row's tag.

        What was asked for just before the owner died may appear after a look that did not show it, so one that is on record as
        not yet created is looked for twice.
        """
        for look in range(2):
            alive = []
            for handle in [row.handle] if row.handle is not None else driver.find(row.id):
                status = driver.inspect(handle)
                if status.state is not State.GONE:
                    alive.append(handle)
                    self._exit_codes.setdefault(row.id, status.exit_code)
            if alive or row.state is not State.PENDING or not isinstance(driver, HasPlan):
                break
            if look == 0:
                time.sleep(_LATE_NEWS_S)
        return alive

    def _already_gone(self, row: ResourceRow, driver: Driver) -> Outcome:
        handle = row.handle or Handle(row.kind, row.id, {})
        left = driver.receipt(handle) if isinstance(driver, CanAdopt) and not isinstance(driver, HasPlan) else None
        if left is None:
            return self._with_remains(row, driver, "already gone", "nothing of it was found")
        self._exit_codes[row.id] = left.exit_code
        if not left.asked and left.exit_code != 0:
            self._final[row.id] = State.FAILED
        return self._outcome(row, "already gone", f"{left.why} [{left.proof}]")

    def _record(self, row: ResourceRow, outcome: Outcome) -> None:
        if outcome.what in _NOT_ENDED:
            return
        state = row.state if outcome.what == "failed" else self._final.get(row.id, State.GONE)
        said = "cleanup failed" if outcome.what == "failed" else "gone"
        detail = f"settled by {_me()}: {outcome.what}, {outcome.detail}"
        exit_code = self._exit_codes.get(row.id)
        self._ledger.write(
            row.id,
            self._fences.get(row.id, row.fence),
            state,
            [(said, detail)],
            reason=outcome.detail,
            exit_code=row.exit_code if exit_code is None else exit_code,
        )

    def strays(self) -> Iterator[Outcome]:
        """Do with what the app started beside tether what its owner's rule says, as its orderly end does."""
        owner = self._owner
        rule, successor = strays.remembered(self._state_dir, owner.id)
        living = [(each.identity.pid, each.identity.start) for each in self._ledger.owners() if not _is_dead(each)]
        # By execv() the app's own process lives on, as something else.
        living.append((owner.identity.pid, owner.identity.start))
        if rule == "end":
            found, left = strays.end(owner.id, owner.identity.pid, living, successor)
        else:
            found = strays.find(owner.id, owner.identity.pid, living, successor) if rule == "warn" else []
            left = []
        if not found:
            return
        what: What = "failed" if left else ("ended" if rule == "end" else "let go")
        why = "started beside tether in the app's session" + ("" if rule == "end" else ', left by strays="warn"')
        detail = f"{strays.in_words(left or found)}: {why}"
        self._ledger.add_event(owner.id, None, owner.name, "left behind", f"{what}: {detail}")
        yield Outcome(owner.name, None, "left behind", "process", what, detail)

    def close(self, outcomes: list[Outcome]) -> None:
        """Mark the owner as ended if nothing is left to settle; else leave the estate to others."""
        if not any(outcome.what in ("failed", "ending", "elsewhere") for outcome in outcomes):
            if self._owner.cgroup is not None and not any(outcome.what == "kept" for outcome in outcomes):
                cgroup.remove(self._owner.cgroup)
            self._ledger.end_owner(self._owner.id, f"died; its estate was settled by {_me()}")
            strays.forget(self._state_dir, self._owner.id)
            (self._state_dir / "run" / f"{self._owner.id}.ask").unlink(missing_ok=True)
        self._ledger.unclaim(self._owner.id, _me())


def _settle(
    ledger: Ledger,
    state_dir: Path,
    owner: OwnerRow,
    receipts: Mapping[str, Any],
    *,
    patient: bool,
    kept_too: bool = False,
) -> list[Outcome] | None:
    """Settle one estate once; None if somebody else is at it, or was faster."""
    if _is_claimed(owner) or not ledger.claim(owner.id, _me(), owner.settler):
        return None
    faults.point("sweep.claimed")
    settling = _Settling(ledger, state_dir, owner, receipts)
    try:
        outcomes = [*settling.resources(patient=patient, kept_too=kept_too), *settling.strays()]
        settling.close(outcomes)
    finally:
        settling.drivers.close()
    return outcomes


def settle_own(state_dir: str, owner: str, receipts: Mapping[str, Any]) -> None:
    """What a reaper does when its owner has died and its shims have ended: settle, with growing pauses, up to a limit.

    What is left then stays on record for the next sweep. Without a ledger the trees have ended all the same: the shims saw to it.
    What is kept with nothing beside it that ends it in time is watched until it is adopted or that time is over.
    """
    pause = _FIRST_PAUSE_S
    deadline = time.monotonic() + _RETRY_LIMIT_S
    while True:
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
    outcomes = _settle(ledger, state_dir, row, receipts, patient=True)
    if outcomes is None:
        # A sweep is at it; what it can't end is tried again here.
        return _FIRST_PAUSE_S
    if any(outcome.what == "failed" for outcome in outcomes):
        return 0.0
    row = ledger.owner(owner) or row
    until = [
        (row.ended or time.time()) + each.keep_for
        for each in ledger.resources(owner)
        if not issubclass(registry.driver_class(each.kind), HasGuard)
    ]
    return max(_FIRST_PAUSE_S, min(until) - time.time()) if until else None


def _remove_folders_of_ended(ledger: Ledger) -> None:
    """Remove cgroups that nobody is in any more: a folder goes only after the last shim, when its reaper may have gone already."""
    folders = cgroup.owner_folders()
    if folders:
        ended = {owner.id for owner in ledger.owners(ended=True) if owner.ended is not None}
        for owner, folder in folders.items():
            if owner in ended:
                cgroup.remove(folder)


def sweep(
    ledger: Ledger, state_dir: Path, *, dry_run: bool = False, patient: bool = False, kept_too: bool = False
) -> list[Outcome]:
    """Settle the estates of all owners of this user that are dead, and return what came of each resource.

    Args:
        ledger: the ledger of ``state_dir``.
        state_dir: the state directory.
        dry_run: only say what would be done.
        patient: also wait for trees that their shims are just ending, for estates that somebody else is settling, and for
            engines and hosts.
        kept_too: end what was kept for the next owner, too.

    Safe from several processes at once.
    """
    dead = dead_owners(ledger)
    if dry_run:
        return [
            Outcome(
                owner.name, row.id, row.name, row.kind, "would end", f"its owner, pid {owner.identity.pid}, is dead"
            )
            for owner in dead
            for row in ledger.resources(owner.id)
        ]
    outcomes: list[Outcome] = []
    others = []
    for owner in dead:
        settled = _settle(ledger, state_dir, owner, {}, patient=patient, kept_too=kept_too)
        outcomes += settled or []
        if settled is None and patient:
            others.append(owner)
    for owner in others:
        outcomes += _settle_after_others(ledger, state_dir, owner, kept_too=kept_too)
    _remove_folders_of_ended(ledger)
    return outcomes


def _settle_after_others(ledger: Ledger, state_dir: Path, owner: OwnerRow, *, kept_too: bool) -> list[Outcome]:
    """Wait for somebody else who settles an estate, and do it if they could not, or died of it."""
    deadline = time.monotonic() + _OTHERS_S
    while time.monotonic() < deadline:
        row = ledger.owner(owner.id)
        if row is None or (row.ended is not None and not ledger.resources(owner.id)):
            return []
        settled = _settle(ledger, state_dir, row, {}, patient=True, kept_too=kept_too)
        if settled is not None:
            return settled
        time.sleep(_LOOK_AGAIN_S)
    return [
        Outcome(owner.name, row.id, row.name, row.kind, "ending", "somebody else has been settling it for a long time")
        for row in ledger.resources(owner.id)
    ]
