"""Carries out what `tether.life.machine` decides: starts, probes, records and ends resources. It decides nothing itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from tether.errors import (
    Busy,
    DeadlineExceeded,
    DriverUnavailable,
    Gone,
    NotCreated,
    NotRemoved,
    SpecError,
    StartError,
    TetherError,
)
from tether.ledger.store import ResourceRow
from tether.ledger.writer import Writer
from tether.life import machine as lifecycle
from tether.life import outside, readiness
from tether.life.clock import Clock, SystemClock
from tether.life.creation import Creation
from tether.life.driver import CanAdopt, Context, Driver
from tether.life.drivers import Drivers
from tether.life.machine import (
    Adopted,
    AskedOutside,
    Created,
    End,
    Ended,
    Event,
    Instruction,
    Life,
    MainExited,
    NotReady,
    Probed,
    Record,
    Refused,
    StopAsked,
    Stuck,
)
from tether.life.managed import Managed, Names, new_id
from tether.life.retries import Retries
from tether.linux import faults
from tether.model import Handle, OnDeath, Progress, Spec, State
from tether.notices import Notice, Telemetry

__all__ = ["Supervisor"]

_log = logging.getLogger("tether")

_CREATION_S = 30.0


class Supervisor:
    """Starts, watches, restarts and ends the resources of one owner.

    Attributes:
        drivers: this owner's.

    Args:
        owner: the owner's id.
        ledger: where everything is recorded.
        telemetry: who is told.
        context: what drivers may use; its ``emit`` is set here.
        clock: the clock.
    """

    def __init__(
        self,
        owner: str,
        ledger: Writer,
        telemetry: Telemetry,
        context: Callable[[Callable[[str, Event], None]], Context],
        clock: Clock | None = None,
    ) -> None:
        self._owner = owner
        self._ledger = ledger
        self._telemetry = telemetry
        self._clock = clock or SystemClock()
        self.drivers = Drivers(context(self.emit))
        self._creation = Creation(ledger, self._record)
        self._retries = Retries()
        self._lock = threading.Lock()
        self._managed: dict[str, Managed] = {}
        self._names = Names()

    def live(self) -> list[Managed]:
        """Return what has not ended, in the order of its start."""
        with self._lock:
            return list(self._managed.values())

    def by_name(self, name: str) -> Managed | None:
        """Return the live resource of this name."""
        return next((managed for managed in self.live() if managed.name == name), None)

    # -- start ---------------------------------------------------------------------------------------------------------

    def start(
        self,
        spec: Any,
        on_death: OnDeath,
        progress: Progress,
        fingerprint: str = "",
        held: Callable[[Managed], object] | None = None,
        carrier: Managed | None = None,
    ) -> Managed:
        """Start a resource and wait until it is ready; ``held`` is called as soon as it is on record, ``carrier`` ends with it.

        Raises:
            Busy: the name is in use.
            SpecError: it needs what is not there.
            LedgerError: it could not be recorded, so nothing was created.
            StartError: it did not come up; nothing is left running.
        """
        driver = self.drivers.of(spec.kind)
        managed = self._enter(spec, driver, on_death, carrier)
        try:
            managed.plan = self._creation.plan(managed)
            managed.reserved = self._creation.reserve(managed)
            self._ledger.add_resource(
                *(managed.tag, self._owner, managed.name, spec.kind),
                {**spec.record(), "fingerprint": fingerprint},
                *(on_death, spec.keep_for, managed.plan, managed.reserved),
            )
            faults.point("start.recorded")
        except BaseException:
            self._creation.release(managed)
            self._leave(managed)
            raise
        if held is not None:
            held(managed)
        try:
            self.bring_up(managed, progress)
        finally:
            self._ledger.flush()
        return managed

    def adopt(self, row: ResourceRow, spec: Any) -> Managed:
        """Take over a live resource that an earlier owner left on purpose.

        Raises:
            Busy: somebody else has adopted it, or it has a living owner.
            Gone: it has ended meanwhile.
        """
        driver = self.drivers.of(row.kind)
        if row.handle is None or not isinstance(driver, CanAdopt):
            raise Gone(
                f"resource {row.name} can't be adopted: it is of a kind that can't be kept, or was never created"
            )
        if not self._ledger.take_over(row.id, row.fence, self._owner):
            raise Busy(f"resource {row.name} was adopted by another owner just now")
        managed = Managed(row.id, row.name, spec, driver, "keep")
        managed.handle = row.handle
        managed.fence = row.fence + 1
        managed.number = row.life
        managed.life = Life(
            stays_up=spec.stays_up, state=row.state, reason=row.reason, exit_code=row.exit_code, was_ready=True
        )
        if row.state.is_final:
            return managed
        with self._lock:
            self._managed[managed.tag] = managed
        faults.point("adopt.taken")
        try:
            exit_code = driver.adopt(row.handle, managed.fence)
        except Gone:
            self._settle_gone(managed, driver)
            return managed
        faults.point("adopt.met")
        self.apply(managed, Adopted(self._owner), *([] if exit_code is None else [MainExited(exit_code)]))
        self._ledger.flush()
        return managed

    def _settle_gone(self, managed: Managed, driver: CanAdopt) -> None:
        """It ended while nobody owned it: say how, if its shim left word."""
        if managed.handle is None:
            return
        ended = driver.receipt(managed.handle) or Ended(None, "ended while nobody owned it")
        managed.driver.destroy(managed.handle)
        self.apply(managed, ended)
        self._ledger.flush()

    def bring_up(self, managed: Managed, progress: Progress) -> None:
        """Create a resource that is on record, and wait until it is ready. Raises StartError."""
        try:
            self._attempt(managed, progress)
        except StartError:
            if not managed.was_port_taken():
                raise
            taken = managed.port
            self._begin_again(managed, f"port {taken} was taken, once more on another")
            progress(f"port {taken} is taken, trying another")
            self._attempt(managed, progress)

    def _enter(self, spec: Spec, driver: Driver, on_death: OnDeath, carrier: Managed | None) -> Managed:
        with self._lock:
            used = {managed.name for managed in self._managed.values()}
            missing = set(spec.needs or ()) - used
            if missing:
                raise SpecError(f"{spec.name or spec.kind} needs {', '.join(sorted(missing))}, which was not started")
            name = spec.name or self._names.choose(spec.default_name or spec.kind, used)
            if name in used:
                raise Busy(f"resource {name} is running already; stop it first, or give the new one another name")
            managed = Managed(new_id(), name, spec, driver, on_death, carrier)
            self._managed[managed.tag] = managed
            return managed

    def _leave(self, managed: Managed) -> None:
        with self._lock:
            self._managed.pop(managed.tag, None)

    def _attempt(self, managed: Managed, progress: Progress) -> None:
        try:
            handle = self._creation.create(managed, progress)
        except BaseException as error:
            self._creation.release(managed)
            if isinstance(error, NotCreated):
                self.apply(managed, Refused(f"could not start: {error}"))
            else:
                self._clear_attempt(managed, f"could not start: {error}")
            raise
        try:
            faults.point("start.spawned")
            self._created(managed, handle)
            faults.point("start.created")
            if managed.spec.ready is not None:
                readiness.await_ready(managed, self._clock, progress, lambda *step: self._advance_from(managed, *step))
                if managed.state is not State.READY:
                    self.wait(managed, None)
                    raise managed.start_error()
        except BaseException:
            # Interrupted, for instance by Ctrl-C: what was not handed out must not stay.
            if managed.state is State.PENDING:
                self._created(managed, handle)
            self.stop(managed, "its start was interrupted", force=True)
            raise

    def _clear_attempt(self, managed: Managed, why: str) -> None:
        """See that nothing is left of an attempt to create; what can't be removed now stays on record, and is tried again."""
        if managed.plan is not None:
            try:
                managed.driver.destroy(managed.plan)
            except (TetherError, OSError) as error:
                managed.handle = managed.plan
                failed = f"{why}; what was made of it could not be removed yet: {error}"
                event = StopAsked(failed) if managed.state is State.STOPPING else NotReady(failed)
                self._carry_out(managed, self.apply(managed, event))
                return
        self.apply(managed, Refused(why))

    def _created(self, managed: Managed, handle: Handle) -> None:
        """Record that it is there, and hear what was quicker than that."""
        with managed.condition:
            managed.handle = handle
            managed.take_streams()
            ready = managed.spec.ready is None and managed.state is State.PENDING
            self._carry_out(managed, self.apply(managed, Created(), *([Probed()] if ready else [])))
            for event in managed.early:
                self._carry_out(managed, self.apply(managed, event))
            managed.early.clear()

    def _advance_from(self, managed: Managed, state: State, event: Event) -> None:
        """Apply an event, unless something else happened meanwhile."""
        with managed.condition:
            instructions = self.apply(managed, event) if managed.state is state else []
        self._carry_out(managed, instructions)

    def _begin_again(self, managed: Managed, why: str) -> None:
        plan = self._creation.plan(managed)
        if plan is not None:
            # What it depends on (a lock file, the address of an engine) may have changed since.
            self._ledger.plan_again(managed.tag, managed.fence, plan)
        with self._lock:
            if any(other.name == managed.name for other in self._managed.values()):
                raise Busy(f"another resource is called {managed.name} by now; stop that first")
            self._managed[managed.tag] = managed
        try:
            self._creation.begin_life(managed)
            reserved = self._creation.reserve(managed)
        except BaseException:
            self._leave(managed)
            raise
        with managed.condition:
            managed.plan, managed.handle, managed.reserved = plan, None, reserved
            managed.life = Life(stays_up=managed.spec.stays_up)
            managed.early.clear()
            self._record(managed, [Record("again", why)])

    def restart(self, managed: Managed, grace: float | None, progress: Progress) -> None:
        """End a resource and bring it up again under the same name and id. Raises StartError."""
        with managed.without_carrier():
            self.stop(managed, "restarted", grace=grace)
        self._begin_again(managed, "restarted")
        try:
            self.bring_up(managed, progress)
        finally:
            self._ledger.flush()

    # -- events --------------------------------------------------------------------------------------------------------

    def emit(self, tag: str, event: Event) -> None:
        """Take in what a driver saw. Called in the watching thread, so it never waits."""
        with self._lock:
            managed = self._managed.get(tag)
        if managed is None:
            return
        with managed.condition:
            if managed.state is State.PENDING:
                # Quicker than its own start: heard when that is on record.
                managed.early.append(event)
                return
            if managed.state.is_final:
                return
            asked = outside.who_asked(self._ledger, managed) if isinstance(event, MainExited | Ended) else ""
            instructions = self.apply(managed, *([AskedOutside(asked)] if asked else []), event)
        self._carry_out(managed, instructions)

    def apply(self, managed: Managed, *events: Event) -> list[End]:
        """Advance a life by events, record it once, and return what is to be ended."""
        with managed.condition:
            todo: list[Instruction] = []
            for event in events:
                managed.life, instructions = lifecycle.advance(managed.life, event)
                todo += instructions
            self._record(managed, [each for each in todo if isinstance(each, Record)])
            managed.condition.notify_all()
            if managed.state.is_final:
                self._leave(managed)
                if managed.carrier is not None:
                    over = StopAsked(f"{managed.name}, for which it was started, has ended")
                    self._carry_out(managed.carrier, self.apply(managed.carrier, over))
        return [each for each in todo if isinstance(each, End)]

    def _record(self, managed: Managed, records: Iterable[Record]) -> None:
        """Write a transition: the one place that does. Nobody waits for it; see `Writer.flush`."""
        said = [(record.what, record.detail) for record in records]
        life = managed.life
        self._ledger.write(
            managed.tag,
            managed.fence,
            life.state,
            said,
            reason=life.reason,
            exit_code=life.exit_code,
            url=managed.url,
            handle=managed.handle or managed.reserved,
        )
        for what, detail in said:
            # A server that was up, and failed without having been asked to end.
            crash = what == "failed" and life.stays_up and any(each.endswith("-> READY") for each in life.history)
            self._telemetry.publish(
                Notice(self._owner, managed.tag, managed.name, what, detail, state=life.state.value, crash=crash)
            )

    def _carry_out(self, managed: Managed, ends: Iterable[End]) -> None:
        """End, in a thread of its own: whoever learns that something must end has other things to wait for."""
        for end in ends:
            threading.Thread(
                target=self._end_quietly, args=(managed, end), name=f"tether-end-{managed.name}", daemon=True
            ).start()

    # -- end -----------------------------------------------------------------------------------------------------------

    def stop(self, managed: Managed, why: str, *, grace: float | None = None, force: bool = False) -> None:
        """End a resource and return when it has ended. Idempotent.

        Raises:
            DeadlineExceeded: it was killed and is still there; it stays on record.
        """
        ends = self.apply(managed, StopAsked(why, force))
        try:
            for end in ends:
                self._end(managed, end, grace)
            if not ends:
                # Somebody is just creating it, and ends it as soon as it is there.
                self.wait(managed, _CREATION_S)
            if managed.carrier is not None:
                self.stop(managed.carrier, why)
        finally:
            self._ledger.flush()

    def _end(self, managed: Managed, end: End, grace: float | None = None) -> None:
        if managed.handle is None:
            self.wait(managed, _CREATION_S)
            return
        number = managed.number
        faults.point("destroy.asked" if end.force else "stop.asked")
        try:
            if end.force:
                managed.driver.destroy(managed.handle)
            else:
                managed.ask_to_end(managed.handle, managed.spec.stop_grace if grace is None else grace)
        except DeadlineExceeded as error:
            self._advance_from(managed, State.STOPPING, Stuck(str(error)))
            raise
        except DriverUnavailable as error:
            over = isinstance(error, NotRemoved)
            said = str(error) if over else f"can't be ended now, tried again: {error}"
            self._advance_from(managed, State.STOPPING, Stuck(said, over))
            self._try_again(managed, end)
            raise
        faults.point("stop.ended")
        with managed.condition:
            # Another thread may have restarted it meanwhile: what ended here is not the life that began there.
            if managed.number == number and not managed.state.is_final:
                why = f"let go, it stays ({end.why})" if managed.is_attached else end.why
                self.apply(managed, Ended(None, why))

    def _try_again(self, managed: Managed, end: End) -> None:
        def attempt() -> bool:
            with suppress(DriverUnavailable, DeadlineExceeded):
                if not managed.state.is_final:
                    self._end(managed, end)
            return managed.state.is_final

        self._retries.begin(managed.tag, attempt)

    def close(self) -> None:
        """Try nothing again any more, and close connections: what is left is the reaper's."""
        self._retries.close()
        self.drivers.close()

    def _end_quietly(self, managed: Managed, end: End) -> None:
        try:
            self._end(managed, end)
        except TetherError as error:
            _log.error("%s: could not be ended: %s", managed.name, error)

    def wait(self, managed: Managed, timeout_s: float | None) -> None:
        """Wait until a resource has ended: until nothing of it runs, where something else of it can't be removed now.

        Raises:
            DeadlineExceeded: it goes on.
        """
        deadline = None if timeout_s is None else self._clock.monotonic() + timeout_s
        with managed.condition:
            while not (managed.state.is_final or managed.life.over):
                left = None if deadline is None else deadline - self._clock.monotonic()
                if left is not None and left <= 0:
                    raise DeadlineExceeded(
                        f"resource {managed.name} is still {managed.state.value} after {timeout_s:g} s"
                    )
                self._clock.wait(managed.condition, left)
        self._ledger.flush()
