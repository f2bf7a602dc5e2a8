"""Carries out what `tether.life.machine` decides: starts, probes, records and ends resources. It decides nothing itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from tether import threads
from tether.errors import (
    Busy,
    DeadlineExceeded,
    Gone,
    NotCreated,
    SpecError,
    StartError,
    TetherError,
)
from tether.ledger.writer import Writer
from tether.life import machine as lifecycle
from tether.life import outside
from tether.life.adopting import Adopting
from tether.life.clock import Clock, SystemClock
from tether.life.context import Context, Emit
from tether.life.creation import Creation
from tether.life.driver import Driver
from tether.life.drivers import Drivers
from tether.life.machine import (
    AskedOutside,
    Created,
    End,
    Ended,
    Event,
    Instruction,
    MainExited,
    NotReady,
    Probed,
    Record,
    Refused,
    StopAsked,
)
from tether.life.managed import Managed, new_id
from tether.life.steps import Steps, alone
from tether.linux import faults
from tether.model import Handle, OnDeath, Progress, Spec, State
from tether.notices import Notice, Telemetry

__all__ = ["Supervisor"]

_log = logging.getLogger("tether")

_CONTENTION_S = 0.05


class Supervisor(Adopting):
    """Starts, watches, restarts and ends the resources of one owner.

    Attributes:
        drivers: this owner's.
        telemetry: who is told.

    Args:
        owner: the owner's id.
        ledger: where everything is recorded.
        telemetry: as above.
        context: what drivers may use; its ``emit`` is set here.
        clock: the clock.
    """

    def __init__(
        self,
        owner: str,
        ledger: Writer,
        telemetry: Telemetry,
        context: Callable[[Emit], Context],
        clock: Clock | None = None,
    ) -> None:
        super().__init__(owner, ledger, clock or SystemClock())
        self.telemetry = telemetry
        self._context = replace(context(self.emit), subject=self._live.get)
        self.drivers = Drivers(self._context)
        self._creation = Creation(ledger, self._record)
        self._is_closed = False

    def live(self) -> list[Managed]:
        """Return what has not ended, in the order of its start."""
        return self._live.all()

    def by_name(self, name: str) -> Managed | None:
        """Return the live resource of this name."""
        return self._live.by_name(name)

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
            Busy, SpecError, LedgerError: the name is in use, it needs what is not there, it can't be recorded; nothing was created.
            StartError: it did not come up; nothing is left running.
        """
        return alone(self.starting(spec, on_death, progress, fingerprint, held, carrier))

    def starting(
        self,
        spec: Any,
        on_death: OnDeath,
        progress: Progress,
        fingerprint: str = "",
        held: Callable[[Managed], object] | None = None,
        carrier: Managed | None = None,
    ) -> Steps[Managed]:
        """As `start`, in steps: to be on record, to be created and to have that on record is waited for together with others."""
        driver = self.drivers.of(spec.kind)
        entered: list[Managed] = []
        try:
            managed = self._enter(spec, driver, on_death, carrier, entered)
            yield from self._record_first(managed, fingerprint)
            faults.point("start.recorded")
            if held is not None:
                held(managed)
            yield from self._bring_up(managed, progress)
            managed.creator = None
            self._ledger.flush()
        except BaseException:
            # Interrupted anywhere (by Ctrl-C): what was not handed out must not stay.
            for each in entered:
                self._abandon(each, "its start was interrupted")
            self._ledger.flush()
            raise
        return managed

    def _record_first(self, managed: Managed, fingerprint: str) -> Steps[None]:
        """Put it on record, with what will hold it."""
        spec = managed.spec
        try:
            managed.plan = self._creation.plan(managed)
            managed.reserved = self._creation.reserve(managed)
            await_record = self._ledger.enter_resource(
                *(managed.tag, self._owner, managed.name, spec.kind),
                {**spec.record(), "fingerprint": fingerprint},
                *(managed.on_death, spec.keep_for, managed.plan, managed.reserved),
            )
            yield
            await_record()
        except BaseException:
            self._creation.release(managed)
            self._live.leave(managed)
            self._ledger.withdraw(managed.tag)
            raise

    def _abandon(self, managed: Managed, why: str) -> None:
        """End a life that nobody has in hand, since what would have handed it out was interrupted."""
        managed.creator = None
        if managed.state.is_final or self._live.get(managed.tag) is None:
            return
        if managed.handle is None:
            self._creation.release(managed)
            self.apply(managed, Refused(why))
        elif managed.state is not State.STOPPING and not self._is_closed:
            # Else a signal handler has shut the owner down meanwhile, so that the guard ends it.
            self.stop(managed, why, force=True)

    def _bring_up(self, managed: Managed, progress: Progress) -> Steps[None]:
        """Create a resource that is on record, and wait until it is ready. Raises StartError."""
        try:
            yield from self._attempt(managed, progress)
        except StartError:
            if not managed.was_port_taken():
                raise
            taken, stops = managed.port, managed.stops
            again = f"port {taken} was taken, once more on another"
            self._begin_again(managed, again, stops, self._creation.plan(managed))
            progress(f"port {taken} is taken, trying another")
            yield from self._attempt(managed, progress)

    def _enter(
        self, spec: Spec, driver: Driver, on_death: OnDeath, carrier: Managed | None, entered: list[Managed]
    ) -> Managed:
        with self._live.lock:
            self._live.check_open()
            missing = {each for each in spec.needs or () if self._live.by_name(each) is None}
            if missing:
                raise SpecError(f"{spec.name or spec.kind} needs {', '.join(sorted(missing))}, which was not started")
            name = spec.name or self._live.choose_name(spec.default_name or spec.kind)
            if self._live.by_name(name) is not None:
                raise Busy(f"resource {name} is running already; stop it first, or give the new one another name")
            managed = Managed(new_id(), name, spec, driver, on_death, carrier)
            managed.creator = threading.get_ident()
            entered.append(managed)
            self._live.add(managed)
            return managed

    def _attempt(self, managed: Managed, progress: Progress) -> Steps[None]:
        try:
            handle = yield from self._creation.create(managed, progress)
        except BaseException as error:
            self._creation.release(managed)
            if isinstance(error, NotCreated):
                self.apply(managed, Refused(f"could not start: {error}"))
            elif isinstance(error, Exception):
                self._clear_attempt(managed, managed.plan, f"could not start: {error}")
            else:
                # It may have been created already, and only not have been said.
                self._clear_attempt(managed, managed.plan or managed.reserved, "its start was interrupted")
            raise
        try:
            faults.point("start.spawned")
            self._ledger.quietly(lambda: self._created(managed, handle))
            yield
            self._ledger.at_once(bool)
            faults.point("start.created")
            self.await_ready(managed, progress)
        except StartError:
            raise
        except BaseException:
            # Interrupted, for instance by Ctrl-C: what was not handed out must not stay.
            if managed.state is State.PENDING:
                self._created(managed, handle)
            if not self._is_closed:
                # Else a signal handler has shut the owner down meanwhile, so that the guard ends it.
                self.stop(managed, "its start was interrupted", force=True)
            raise

    def await_ready(self, managed: Managed, progress: Progress) -> None:
        """Wait until what was created is ready, if it has a probe. Raises StartError: it has ended instead."""
        if managed.spec.ready is None:
            return
        from tether.life import readiness

        readiness.await_ready(managed, self._clock, progress, lambda *step: self._advance_from(managed, *step))
        if managed.state is not State.READY:
            self.wait(managed, None, of="outcome")
            with suppress(DeadlineExceeded):
                self.stop(managed, "it did not come up", force=True)
            raise managed.start_error()

    def _clear_attempt(self, managed: Managed, made: Handle | None, why: str) -> None:
        """See that nothing is left of an attempt to create; what can't be removed now stays on record, and is tried again."""
        if made is not None:
            try:
                managed.driver.destroy(made)
            except (TetherError, OSError) as error:
                managed.handle = made
                failed = f"{why}; what was made of it could not be removed yet: {error}"
                event = StopAsked(failed) if managed.state is State.STOPPING else NotReady(failed)
                self.advance(managed, event)
                return
        self.apply(managed, Refused(why))

    def _created(self, managed: Managed, handle: Handle) -> None:
        """Record that it is there, and hear what was quicker than that."""
        with managed.lock:
            managed.handle = handle
            managed.take_streams()
            ready = managed.spec.ready is None and managed.state is State.PENDING
            self._take_in(managed, Created(), *([Probed()] if ready else []))

    def restart(self, managed: Managed, grace: float | None, progress: Progress) -> None:
        """End a resource and bring it up again under the same name and id; one restart after the other.

        It is checked first that it can be started again, as far as that can be known; else it goes on, and the error says why.

        Raises:
            StartError: it did not come up again.
            SpecError, ExecError, LedgerError: it can't be started again, or not recorded; nothing was ended.
            Gone: somebody stopped it, or shut the owner down, before its next life began: that was asked for last, and holds.
        """
        managed.check_owned()
        with managed.restarting:
            with managed.lock:
                stops = managed.stops + 1  # that of its own
            # What can't be started again is not ended for that.
            self._live.check_open()
            plan, former = self._creation.check(managed), managed.handle
            with managed.without_carrier():
                self.stop(managed, "restarted", grace=grace)
            managed.creator = threading.get_ident()
            try:
                self._begin_again(managed, "restarted", stops, plan, former)
                alone(self._bring_up(managed, progress))
                managed.creator = None
                self._ledger.flush()
            except BaseException:
                self._abandon(managed, "its restart was interrupted")
                self._ledger.flush()
                raise

    def _begin_again(
        self, managed: Managed, why: str, stops: int, plan: Handle | None, former: Handle | None = None
    ) -> None:
        if plan is not None:
            # What it depends on (a lock file, the address of an engine) may have changed since.
            self._ledger.plan_again(managed.tag, managed.fence, plan)
        with self._live.lock:
            self._live.check_open()
            if self._live.by_name(managed.name) is not None:
                raise Busy(f"another resource is called {managed.name} by now; stop that first")
            self._live.add(managed)
        try:
            self._creation.begin_life(managed)
            reserved = self._creation.reserve(managed, former)
            with managed.lock:
                if managed.stops != stops:
                    raise Gone(f"resource {managed.name} was stopped while it was being restarted, and stays so")
                managed.begin(plan, reserved)
                self._record(managed, [Record("again", why)])
            # What holds it is on record before its command is executed, as at a first start.
            self._ledger.flush()
        except BaseException:
            self._creation.release(managed)
            if managed.state is State.PENDING:
                self.apply(managed, Refused("its next life was not begun"))
            else:
                self._live.leave(managed)
                self._record(managed, [])
            raise

    # -- events --------------------------------------------------------------------------------------------------------

    def emit(self, tag: str, *events: Event) -> None:
        """Take in what a driver saw. Called in the watching thread, so it never waits for anybody."""
        managed = self._live.get(tag)
        if managed is None:
            return
        managed.heard.extend(events)
        if managed.condition.acquire(timeout=_CONTENTION_S):
            try:
                self._take_in_heard(managed)
            finally:
                managed.condition.release()
        else:
            # A signal handler may be ending the owner while the start that it interrupted holds this one.
            work = partial(self._take_in_heard, managed)
            if not threads.begin(work, f"tether-heard-{tag}"):
                work()

    def _take_in_heard(self, managed: Managed) -> None:
        with managed.lock:
            heard: list[Event] = []
            while managed.heard:
                heard.append(managed.heard.popleft())
            if managed.state.is_final or not heard:
                return
            if not managed.life.created:
                # Quicker than its own start, or adoption: heard when that is on record.
                managed.early += heard
                return
            ended = [number for number, event in enumerate(heard, 1) if isinstance(event, Ended)]
            heard = heard[: ended[0]] if ended else heard
            asks = any(isinstance(event, MainExited | Ended) for event in heard)
            asked = outside.who_asked(self._ledger, managed) if asks else ""
            # In one step: a command whose tree has ended with it needs nobody who ends the rest.
            self.advance(managed, *([AskedOutside(asked)] if asked else []), *heard)

    def apply(self, managed: Managed, *events: Event) -> list[End]:
        """Advance a life by events, record it once, and return what is to be ended."""
        with managed.lock:
            todo: list[Instruction] = []
            for event in events:
                managed.life, instructions = lifecycle.advance(managed.life, event)
                todo += instructions
            self._record(managed, [each for each in todo if isinstance(each, Record)])
            managed.condition.notify_all()
            if managed.state.is_final:
                self._live.leave(managed)
                if managed.carrier is not None:
                    self.advance(managed.carrier, StopAsked(f"{managed.name}, for which it was started, has ended"))
            # Only now: who hears of its end may use its name again.
            managed.tell_end()
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
            self.telemetry.publish(
                Notice(self._owner, managed.tag, managed.name, what, detail, state=life.state.value, crash=crash)
            )

    # -- the end of the supervisor --------------------------------------------------------------------------------------

    def refuse_starts(self) -> None:
        """Start and restart nothing any more: what is live now is all that there will be."""
        self._live.close()

    def release_in_fork(self) -> None:
        """In a fork of the owner, where no lock may be waited for: nothing is known of what is the owner's."""
        for managed in self._live.all():
            managed.release_in_fork()

    def close(self) -> None:
        """Try nothing again any more, and close connections: what is left is the reaper's."""
        self._is_closed = True
        self._retries.close()
        self.drivers.close()
