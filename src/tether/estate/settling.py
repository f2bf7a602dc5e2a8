"""Settle the estates of some dead owners together: decide, look once, end in one pass, record in one transaction."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.errors import TetherError
from tether.estate import receipts
from tether.estate import strays as stray
from tether.estate.case import Case, Strays, kept_for_s
from tether.estate.outcome import NOT_ENDED, UNSETTLED, Outcome, What
from tether.estate.standing import is_here
from tether.ledger import changes
from tether.ledger.database import Database
from tether.ledger.look import Look
from tether.ledger.rows import OwnerRow
from tether.life.context import Context
from tether.life.driver import CanAdopt, CanAttach, Driver, HasGuard, HasMarks, HasPlan, HasRemains
from tether.life.drivers import Drivers
from tether.linux import census, cgroup, faults, tree, whereabouts
from tether.linux.members import Marks
from tether.linux.whereabouts import Whereabouts
from tether.model import Handle, State

__all__ = ["Settling"]

_log = logging.getLogger("tether")

_END_LIMIT_S = 10.0
_LATE_NEWS_S = 0.5
_SIDE_BY_SIDE = 32


class Settling:
    """Some estates being settled by this process, which has claimed them.

    Args:
        look: where they are on record.
        database: where what comes of it is put on record; None only to foresee what would come of it.
        state_dir: the state directory.
        settler: the claim.
        receipts: what guards said of ends, by resource.
        patient: also wait for trees that their shims are just ending, and for engines and hosts.
        kept_too: end what was kept for the next owner, too.
    """

    def __init__(
        self,
        look: Look,
        database: Database | None,
        state_dir: Path,
        settler: str,
        receipts: Mapping[str, Any],
        *,
        patient: bool,
        kept_too: bool,
    ) -> None:
        self._ledger = look
        self._database = database
        self._state_dir = state_dir
        self._settler = settler
        self._receipts = receipts
        self._patient = patient
        self._kept_too = kept_too
        self._drivers: dict[str, Drivers] = {}

    def settle(self, owners: Sequence[OwnerRow]) -> dict[str, list[Outcome]]:
        """Settle every resource; one that fails stays on record and keeps nobody from the next. Returns the outcomes by owner.

        Raises:
            LedgerError: what came of it is not on record; what could be ended has been, all the same.
        """
        here = whereabouts.here()
        live = self._ledger.resources_of([owner.id for owner in owners])
        cases = [Case(owner, row, is_here(owner, here)) for owner in owners for row in live[owner.id]]
        try:
            apart = [case for case in cases if self._tried(case, self._decide)]
            strays = [Strays(owner, Marks(tags=[owner.id], exclude=tree.line_of(os.getpid()))) for owner in owners]
            self._look_and_end([case for case in cases if case.marks is not None], strays)
            self._end_apart(apart)
            if self._database is not None:
                self._clear_cgroups(owners, cases, here)
                faults.point("sweep.settled")
                self._record(self._database, owners, cases, strays)
        finally:
            for drivers in self._drivers.values():
                drivers.close()
        outcomes: dict[str, list[Outcome]] = {owner.id: [] for owner in owners}
        found: list[Case | Strays] = [*cases, *strays]
        for each in found:
            if each.outcome is not None:
                outcomes[each.owner.id].append(each.outcome)
        return outcomes

    # -- decide --------------------------------------------------------------------------------------------------------

    def _tried(self, case: Case, do: Callable[[Case], Any]) -> Any:
        """Do something for one resource; what goes wrong is its outcome, and nobody else's."""
        try:
            return do(case)
        except TetherError as error:
            case.close("failed", str(error))
        except Exception as error:
            _log.debug("settling %s", case.row.id, exc_info=True)
            case.close("failed", f"{type(error).__name__}: {error}")
        return None

    def _driver(self, case: Case) -> Driver:
        # A driver's context has one owner.
        if case.owner.id not in self._drivers:
            self._drivers[case.owner.id] = Drivers(Context(self._state_dir, case.owner.id))
        return self._drivers[case.owner.id].of(case.row.kind)

    def _decide(self, case: Case) -> bool:
        """Decide what is to be done; True if that is not done with the others."""
        row, driver = case.row, self._driver(case)
        case.fence, case.exit_code = row.fence, row.exit_code
        if self._by_receipt(case):
            return False
        if row.handle is not None and isinstance(driver, CanAttach) and driver.is_attached(row.handle):
            case.close("let go", "it stays: it was there before, or is for everybody")
            return False
        if isinstance(driver, HasPlan):
            if not self._patient:
                self._pass_over(case)
            return self._patient
        if self._by_guard(case, driver):
            return case.outcome is None
        if not isinstance(driver, HasMarks):
            return True
        case.marks = driver.marks(row.handle if case.is_here else None, row.id)
        if case.marks is None:
            self._already_gone(case)
        return False

    def _by_guard(self, case: Case, driver: Driver) -> bool:
        """Leave to its shim what that keeps or ends. True without an outcome: the shim lives, and is asked."""
        if not isinstance(driver, HasGuard):
            return False
        keeps = case.row.on_death == "keep" and not self._kept_too
        if not case.is_here:
            # Pids on record are of another namespace: what is not kept is recognised by its tag alone.
            if keeps:
                case.close("elsewhere", "kept in another namespace: to be adopted, or ended in time by its shim, there")
            return keeps
        if case.row.handle is None or not driver.is_guarded(case.row.handle):
            return False
        if keeps:
            self._keep(case)
        elif not self._patient:
            case.close("ending", "its shim is at it")
        return True

    def _by_receipt(self, case: Case) -> bool:
        receipt = receipts.of(case.row, self._receipts)
        if receipt is None:
            return False
        if receipt.status is not None:
            case.exit_code = receipt.status
        if not receipt.by_itself:
            case.close("ended", receipt.said)
            return True
        if receipt.status != 0:
            case.state = State.FAILED
        case.close("already gone", f"ended by itself [{receipt.said}]")
        return True

    def _pass_over(self, case: Case) -> None:
        """What is at an engine or a host is not for a sweep that must not wait."""
        if self._is_kept_now(case):
            self._keep(case)
        else:
            case.close("later", "it is not of this machine alone; settled apart, or by 'tether reap'")

    def _is_kept_now(self, case: Case) -> bool:
        return case.row.on_death == "keep" and not self._kept_too and kept_for_s(case.owner, case.row) > 0

    @staticmethod
    def _keep(case: Case) -> None:
        case.close("kept", f"for {case.row.keep_for:g} s, to be adopted by an owner named {case.owner.name}")

    # -- processes of this machine -------------------------------------------------------------------------------------

    def _look_and_end(self, cases: list[Case], strays: list[Strays]) -> None:
        """Look for all of them at once, and end what is found."""
        trees = [*(case.marks for case in cases if case.marks is not None), *(each.marks for each in strays)]
        try:
            found = census.find(trees) if trees else []
            present = []
            for case, live in zip(cases, found, strict=False):
                if live:
                    present.append(case)
                else:
                    self._tried(case, self._already_gone)
            mine = self._take_over(present)
            for each, live in zip(strays, found[len(cases) :], strict=True):
                each.pids = [pid for pid, _ in live]
            ending = [case.marks for case in mine if case.marks is not None]
            left = census.end(ending, _END_LIMIT_S) if ending else []
        except OSError as error:
            self._all_failed(cases, strays, f"not every process can be looked at now: {error}")
            return
        for case, stays in zip(mine, left, strict=False):
            if stays:
                pids = ", ".join(str(pid) for pid, _ in stays)
                case.close("failed", f"killed and still there, probably in an uninterruptible sleep: pid {pids}")
            else:
                self._close_with_remains(case, "ended", "its owner died; seen to be gone after that")
        others = [each.owner.id for each in strays]
        living = [(each.identity.pid, each.identity.start) for each in self._ledger.owners() if each.id not in others]
        for each in strays:
            if each.pids:
                self._see_to_strays(each, living)

    def _see_to_strays(self, each: Strays, living: list[tuple[int, int]]) -> None:
        """Do with what the app started beside tether what its owner's rule says, as its orderly end does."""
        owner = each.owner
        rule, successor = stray.remembered(self._state_dir, owner.id)
        # By execv() the app's own process lives on, as something else.
        spared = [*living, (owner.identity.pid, owner.identity.start)]
        left: list[stray.Stray] = []
        if rule == "end" and self._database is not None:
            found, left = stray.end(owner.id, owner.identity.pid, spared, successor)
        else:
            found = stray.find(owner.id, owner.identity.pid, spared, successor) if rule != "leave" else []
        if not found:
            return
        what: What = "failed" if left else ("ended" if rule == "end" else "let go")
        if rule == "end" and self._database is None:
            what = "would end"
        why = "started beside tether in the app's session" + ("" if rule == "end" else ', left by strays="warn"')
        each.close(what, f"{stray.in_words(left or found)}: {why}")

    @staticmethod
    def _all_failed(cases: Iterable[Case], strays: Iterable[Strays], why: str) -> None:
        for case in cases:
            if case.outcome is None:
                case.close("failed", why)
        for each in strays:
            each.outcome = Outcome(each.owner.name, None, "left behind", "process", "failed", why)

    def _take_over(self, cases: list[Case]) -> list[Case]:
        """Make every older fence void: whoever adopts from now on finds a newer one, and what was adopted meanwhile is let be."""
        if self._database is None:
            for case in cases:
                how = ", politely first" if case.row.on_death == "stop" else ""
                case.close("would end", f"its owner, pid {case.owner.identity.pid}, is dead{how}")
        if self._database is None or not cases:
            return []
        mine = []
        taken = self._database.transact(
            lambda db: [
                self._settles(db, case.owner) and changes.take_over(db, case.row.id, case.row.fence, case.owner.id)
                for case in cases
            ]
        )
        for case, is_mine in zip(cases, taken, strict=True):
            if is_mine:
                case.fence = case.row.fence + 1
                mine.append(case)
            else:
                case.close("adopted", "by another owner, or by another sweep, meanwhile")
        return mine

    def _settles(self, db: Any, owner: OwnerRow) -> bool:
        """Whether the claim still stands: somebody else takes it over from a process that was stopped."""
        return (
            db.execute("SELECT 1 FROM owners WHERE id = ? AND settler = ?", (owner.id, self._settler)).fetchone()
            is not None
        )

    def _already_gone(self, case: Case) -> None:
        driver = self._driver(case)
        handle = case.row.handle or Handle(case.row.kind, case.row.id, {})
        left = None
        if isinstance(driver, CanAdopt) and not isinstance(driver, HasPlan):
            try:
                left = driver.receipt(handle)
            except Exception as error:
                # A file may hold anything; it costs an exit code.
                _log.warning("resource %s: what its shim left can't be read: %s", case.row.name, error)
        if left is None:
            where = "" if case.is_here else "; its owner, which was in another namespace, let its lock go when it died"
            self._close_with_remains(case, "already gone", f"nothing of it was found{where}")
            return
        case.exit_code = left.exit_code
        if not left.asked and left.exit_code != 0:
            case.state = State.FAILED
        case.close("already gone", f"{left.why} [{left.proof}]")

    def _close_with_remains(self, case: Case, what: What, detail: str) -> None:
        """What nobody here could end is never called gone."""
        driver = self._driver(case)
        left = ""
        if case.row.handle is not None and isinstance(driver, HasRemains):
            left = driver.remains(case.row.handle)
        if left:
            case.state = State.FAILED
        case.close(what, f"{detail}; {left}" if left else detail)

    def _clear_cgroups(self, owners: Sequence[OwnerRow], cases: list[Case], here: Whereabouts) -> None:
        """Kill what is in the folders of these owners and belongs to nothing that stays: what no record knew of."""
        folders = [
            (owner, folder)
            for owner in owners
            if owner.cgroup is not None and is_here(owner, here)
            for folder in cgroup.trees(owner.cgroup)
            if cgroup.pids(folder)
        ]
        if not folders:
            return
        ended = {case.row.id for case in cases if case.outcome is not None and case.outcome.what not in NOT_ENDED}
        used = {
            str(row.handle.data.get("cgroup"))
            for row in self._ledger.resources()
            if row.handle is not None and row.id not in ended
        }
        pending = {case.owner.id for case in cases if case.outcome is not None and case.outcome.what == "ending"}
        for owner, folder in folders:
            if folder not in used and owner.id not in pending:
                cgroup.kill(folder)

    # -- what is not of this machine alone, or has a shim that lives ------------------------------------------------------

    def _end_apart(self, cases: list[Case]) -> None:
        """End first what runs on something else, such as a machine, then that; with which is gone, too, what could not be asked."""
        upon = {case.row.id: case.upon for case in cases if case.upon is not None}
        carriers = [case for case in cases if case.row.id in upon.values()]
        self._end_side_by_side([case for case in cases if case not in carriers])
        if not carriers:
            return
        self._end_side_by_side(carriers)
        gone = {
            case.row.id
            for case in carriers
            if case.outcome is not None and case.outcome.what not in (*NOT_ENDED, "failed")
        }
        failed = [
            case for case in cases if case.upon in gone and case.outcome is not None and case.outcome.what == "failed"
        ]
        for case in failed:
            case.outcome = None
        self._end_side_by_side(failed)

    def _end_side_by_side(self, cases: list[Case]) -> None:
        """Engines, hosts and shims are asked side by side: one that does not answer holds up nobody."""
        if len(cases) > 1:
            # Most sweeps find nothing, and most of those that do one.
            from concurrent.futures import ThreadPoolExecutor

            try:
                with ThreadPoolExecutor(min(len(cases), _SIDE_BY_SIDE), thread_name_prefix="tether-settle") as pool:
                    list(pool.map(lambda case: self._tried(case, self._settle_apart), cases))
            except RuntimeError as error:
                _log.debug("no threads to settle with: %s", error)
        for case in cases:
            if case.outcome is None:
                self._tried(case, self._settle_apart)

    def _settle_apart(self, case: Case) -> None:
        driver = self._driver(case)
        alive = self._alive(case, driver)
        if not alive:
            self._already_gone(case)
        elif (not isinstance(driver, HasGuard) and self._is_kept_now(case)) or (
            isinstance(driver, HasGuard)
            and case.row.on_death == "keep"
            and not self._kept_too
            and all(driver.is_guarded(handle) for handle in alive)
        ):
            self._keep(case)
        elif self._take_over([case]):
            for handle in alive:
                if case.row.on_death == "stop":
                    driver.stop(handle, float(case.row.spec.get("stop_grace", 0.0)))
                driver.destroy(handle)
            self._close_with_remains(case, "ended", "its owner died; seen to be gone after that")

    def _alive(self, case: Case, driver: Driver) -> list[Handle]:
        """Return what is there under the row's tag.

        What was asked for just before the owner died may appear after a look that did not show it, so one that is on record as
        not yet created is looked for twice.
        """
        row = case.row
        for look in range(2):
            alive = []
            for handle in [row.handle] if row.handle is not None else driver.find(row.id):
                status = driver.inspect(handle)
                if status.state is not State.GONE:
                    alive.append(handle)
                elif status.exit_code is not None:
                    case.exit_code = status.exit_code
            if alive or row.state is not State.PENDING or not isinstance(driver, HasPlan):
                break
            if look == 0:
                time.sleep(_LATE_NEWS_S)
        return alive

    # -- record --------------------------------------------------------------------------------------------------------

    def _record(self, database: Database, owners: Sequence[OwnerRow], cases: list[Case], strays: list[Strays]) -> None:
        """Put all that came of it on record, and say of each owner whether anything is left to settle."""
        by = self._settler.rpartition(":")[0].rpartition(":")[0]
        everything: list[Case | Strays] = [*cases, *strays]
        unsettled = {
            each.owner.id for each in everything if each.outcome is not None and each.outcome.what in UNSETTLED
        }

        def change(db: sqlite3.Connection) -> None:
            for case in cases:
                _record_end(db, case, by)
            for each in strays:
                if each.outcome is not None:
                    said = f"{each.outcome.what}: {each.outcome.detail}"
                    changes.add_event(db, each.owner.id, None, each.owner.name, "left behind", said)
            for owner in owners:
                if not self._settles(db, owner):
                    continue
                if owner.id not in unsettled:
                    changes.end_owner(db, owner.id, f"died; its estate was settled by {by}")
                db.execute("UPDATE owners SET settler = NULL WHERE id = ?", (owner.id,))

        database.transact(change)
        kept = {
            case.owner.id for case in cases if case.outcome is not None and case.outcome.what in ("kept", "adopted")
        }
        for owner in owners:
            if owner.cgroup is not None and owner.id not in unsettled | kept:
                cgroup.remove(owner.cgroup)


def _record_end(db: sqlite3.Connection, case: Case, by: str) -> None:
    outcome = case.outcome
    if outcome is None or outcome.what in NOT_ENDED:
        return
    failed = outcome.what == "failed"
    event = ("cleanup failed" if failed else "gone", f"settled by {by}: {outcome.what}, {outcome.detail}")
    state = case.row.state if failed else case.state
    changes.write(db, case.row.id, case.fence or case.row.fence, state, [event], outcome.detail, case.exit_code)
