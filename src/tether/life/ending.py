"""How a supervisor ends a resource, and waits until one has ended."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from functools import partial
from typing import cast

from tether import threads
from tether.errors import DeadlineExceeded, DriverUnavailable, NotRemoved, TetherError
from tether.ledger.writer import Writer
from tether.life.clock import Clock
from tether.life.driver import CanAsk
from tether.life.machine import End, Ended, Event, Life, StopAsked, Stuck
from tether.life.managed import Managed, Wanted
from tether.life.retries import Retries
from tether.linux import faults
from tether.model import State

__all__ = ["Ending"]

_log = logging.getLogger("tether")

_CREATION_S = 30.0


class Ending:
    """The half of the supervisor that ends what the other half starts.

    Whoever asks for an end asks for that of the life which the resource has then: one that begins later, by a restart in another
    thread, is not ended for it, and nothing that is seen of the old one is said of the new.

    Args:
        ledger: where everything is recorded.
        clock: the clock.
    """

    def __init__(self, ledger: Writer, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._retries = Retries()

    def apply(self, managed: Managed, *events: Event) -> list[End]:
        """Advance a life by events, record it once, and return what is to be ended."""
        raise NotImplementedError

    def _advance_from(self, managed: Managed, state: State, event: Event) -> None:
        """Apply an event, unless something else happened meanwhile."""
        with managed.lock:
            if managed.state is state:
                self.advance(managed, event)

    def advance(self, managed: Managed, *events: Event) -> None:
        """Apply events, and have that life ended if it is to end; in a thread of its own, for its caller has others to wait for.

        Where no thread can be made, a driver that need not wait is asked, and of another the caller waits.
        """
        with managed.lock:
            ends, begun = self.apply(managed, *events), managed.begun
            for end in () if managed.state.is_final else ends:
                work = partial(self._end_quietly, managed, begun, end)
                begins = threads.begin(work, f"tether-end-{managed.name}")
                if not begins and (end.force or not self._begin_end(managed)):
                    work()

    def _take_in(self, managed: Managed, *events: Event) -> None:
        """Apply what says that it is there, and then what was heard of it before that."""
        with managed.lock:
            self.advance(managed, *events)
            early, managed.early = managed.early, []
            for event in early:
                if not managed.state.is_final:
                    self.advance(managed, event)

    def _end_quietly(self, managed: Managed, begun: int, end: End) -> None:
        try:
            self._end(managed, begun, end)
        except TetherError as error:
            _log.error("%s: could not be ended: %s", managed.name, error)

    # -- ending --------------------------------------------------------------------------------------------------------

    def stop(self, managed: Managed, why: str, *, grace: float | None = None, force: bool = False) -> None:
        """End a resource and return when it has ended. Idempotent.

        From a signal handler that interrupted its own start there is nothing to wait for: that ends it as soon as it goes on.

        Raises:
            DeadlineExceeded: it was killed and is still there; it stays on record.
            Gone: this is a fork of its owner, or it was left to the next one.
        """
        managed.check_owned()
        begun, ends = self._ask(managed, why, force, grace)
        try:
            for end in ends:
                self._end(managed, begun, end)
            if not ends:
                # Somebody is just creating it, and ends it as soon as it is there.
                self._await_creation(managed, begun)
            if managed.carrier is not None:
                self.stop(managed.carrier, why)
        finally:
            self._ledger.flush()

    def begin_stop(self, managed: Managed, why: str, *, grace: float | None = None) -> bool:
        """Ask a resource to end, and return at once: its end is heard (see `Managed.on_end`), as is that it is stuck.

        Returns:
            False: it was not asked. Its driver waits while it ends something, so whoever can wait must call `stop`.
        """
        if not managed.can_be_asked:
            return False
        if self._ask(managed, why, False, grace)[1]:
            self._begin_end(managed)
        return True

    def _begin_end(self, managed: Managed) -> bool:
        """Ask for an end, without waiting; False where its driver can't."""
        if managed.handle is None or not managed.can_be_asked:
            return False
        faults.point("stop.asked")
        cast("CanAsk", managed.driver).ask(managed.handle, managed.grace, again=managed.insists)
        return True

    def _ask(self, managed: Managed, why: str, force: bool, grace: float | None) -> tuple[int, list[End]]:
        """Note that its end is asked for, so that a restart that has not begun the next life yet does not; and of which life."""
        with managed.lock:
            managed.stops += 1
            managed.asked_grace = grace
            return managed.begun, self.apply(managed, StopAsked(why, force))

    def _await_creation(self, managed: Managed, begun: int) -> None:
        if managed.creator != threading.get_ident():
            self._await_end(managed, begun, _CREATION_S)

    def _end(self, managed: Managed, begun: int, end: End) -> None:
        with managed.lock:
            handle = managed.handle
            if managed.begun != begun:
                return
        if handle is None:
            self._await_creation(managed, begun)
            return
        faults.point("destroy.asked" if end.force else "stop.asked")
        try:
            if end.force:
                managed.driver.destroy(handle)
            else:
                managed.ask_to_end(handle, managed.grace)
        except DeadlineExceeded as error:
            self._say_stuck(managed, begun, Stuck(str(error), hopeless=True))
            raise
        except DriverUnavailable as error:
            over = isinstance(error, NotRemoved)
            said = str(error) if over else f"can't be ended now, tried again: {error}"
            self._say_stuck(managed, begun, Stuck(said, over))
            self._try_again(managed, begun, end)
            raise
        faults.point("stop.ended")
        with managed.lock:
            # Another thread may have restarted it meanwhile: what ended here is not the life that began there.
            if managed.begun == begun and not managed.state.is_final:
                why = f"let go, it stays ({end.why})" if managed.is_attached else end.why
                self.apply(managed, Ended(None, why))

    def _say_stuck(self, managed: Managed, begun: int, stuck: Stuck) -> None:
        with managed.lock:
            if managed.begun == begun and managed.state is State.STOPPING:
                self.apply(managed, stuck)

    def _try_again(self, managed: Managed, begun: int, end: End) -> None:
        def is_over() -> bool:
            return managed.state.is_final or managed.begun != begun

        def attempt() -> bool:
            with suppress(DriverUnavailable, DeadlineExceeded):
                if not is_over():
                    self._end(managed, begun, end)
            return is_over()

        self._retries.begin(managed.tag, attempt)

    # -- waiting -------------------------------------------------------------------------------------------------------

    def wait(self, managed: Managed, timeout_s: float | None, *, of: Wanted = "tree") -> Life:
        """Wait until the life that a resource has now is over, and return that, as it ended.

        It is over when nothing of it runs, also where something else of it can't be removed now; with ``of="main"`` when its
        command has ended, which may not be on record yet.

        Raises:
            DeadlineExceeded: it goes on.
            Gone: this is a fork of its owner, or it was left to the next one.
        """
        managed.check_owned()
        life = self._await_end(managed, managed.begun, timeout_s, of)
        if of == "tree":
            self._ledger.flush()
        return life

    def _await_end(self, managed: Managed, begun: int, timeout_s: float | None, of: Wanted = "tree") -> Life:
        deadline = None if timeout_s is None else self._clock.monotonic() + timeout_s
        with managed.lock:
            while managed.begun == begun and not managed.has_ended(of):
                managed.check_owned()
                left = None if deadline is None else deadline - self._clock.monotonic()
                if left is not None and left <= 0:
                    raise DeadlineExceeded(f"resource {managed.name} is still {managed.state} after {timeout_s:g} s")
                self._clock.wait(managed.condition, left)
            return managed.life if managed.begun == begun else managed.former
