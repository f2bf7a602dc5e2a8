"""One resource under supervision, and its last words."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tether.errors import DriverUnavailable, Gone, StartError, TetherError
from tether.ledger import logs
from tether.life.driver import CanAttach, CanInsist, Driver, HasDetails, HasLogsApart, HasOutput, HasTarget
from tether.life.machine import Event, Life, describe_exit
from tether.linux import sockets
from tether.model import Handle, OnDeath, State

if TYPE_CHECKING:
    from tether.life.probes import Target

__all__ = ["Managed", "Wanted", "new_id"]

_log = logging.getLogger("tether")

_TAIL_LINES = 20

Wanted = Literal["tree", "main", "outcome"]
"""What of a resource somebody waits for: the end of all of it, of its command, or of all hope that it ends."""


def new_id() -> str:
    """Return a new tag: short, and never used before."""
    return os.urandom(8).hex()


class Managed:
    """One resource under supervision.

    Attributes:
        tag, name, spec, driver: fixed.
        life: where it is in its life; changes under ``condition``, which is notified then.
        handle: the driver's; None before it was created.
        plan: by what it is found before that; None where the tag is enough.
        reserved: what is to hold it, on record before it is created; None for kinds without such.
        streams: the pipes to it, which stay until they are closed.
        number: of its life, as it is on record; each restart and each new guard begins another.
        begun: how often it was begun again; changes under ``condition``.
        former: the life before the last restart.
        stops: how often somebody asked for its end; changes under ``condition``.
        asked_grace: with what grace, if somebody said; also for who ends it later, since it is just being created.
        restarting: held by who restarts it.
        creator: the thread that brings it up just now.
        answers_at: where its probe found that it answers; empty where that is not known better than by its port.
        fence: the number of its ownership.
        carrier: what was started for it alone and ends with it: a machine; None if there is none.
    """

    def __init__(
        self, tag: str, name: str, spec: Any, driver: Driver, on_death: OnDeath, carrier: Managed | None = None
    ) -> None:
        self.tag = tag
        self.name = name
        self.spec = spec
        self.driver = driver
        self.on_death = on_death
        self.life = self.new_life()
        self.handle: Handle | None = None
        self.plan: Handle | None = None
        self.reserved: Handle | None = None
        self.answers_at = ""
        self.number = 1
        self.begun = 0
        self._whose = ""
        self.former = self.life
        self.stops = 0
        self.asked_grace: float | None = None
        self.restarting = threading.RLock()
        self.creator: int | None = None
        self.streams: dict[str, Any] = {}
        self.fence = 1
        self.carrier = carrier
        # Taken by `with managed.lock`: that of a Condition is code in Python, in the middle of which Ctrl-C may come, and then
        # nobody would let go of it.
        self.lock = threading.RLock()
        self.condition = threading.Condition(self.lock)
        self.early: list[Event] = []
        self.heard: deque[Event] = deque()
        self._on_end: dict[object, tuple[Wanted, Callable[[], object], bool]] = {}
        # Looked up by name, not isinstance(): that costs a start more than anything else of this object.
        self._port_of: Callable[[Handle], int | None] | None = getattr(driver, "port", None)
        self._log_of: Callable[[Handle], Path | None] | None = getattr(driver, "log_path", None)
        # Where there can be none, nobody is asked: that may be another host, which may take long to answer.
        self._has_pids: bool = getattr(driver, "has_pids", True)
        self._pids_of: Callable[[Handle], tuple[int, ...]] | None = getattr(driver, "pids", None)
        self._can_ask: Callable[[Handle], bool] | None = getattr(driver, "can_ask", None)
        self._url_of: Callable[[Handle], str | None] | None = getattr(driver, "url", None)

    @contextmanager
    def without_carrier(self) -> Iterator[None]:
        """For the time between two lives: what it runs on stays."""
        carrier, self.carrier = self.carrier, None
        try:
            yield
        finally:
            self.carrier = carrier

    def new_life(self) -> Life:
        """A life as its spec wants it, from the beginning."""
        return Life(stays_up=self.spec.stays_up, rest_goes_on=getattr(self.spec, "ends", None) == "last")

    def begin(self, plan: Handle | None, reserved: Handle | None) -> None:
        """Begin another life, under ``condition``."""
        self.former, self.life = self.life, self.new_life()
        self.plan, self.handle, self.reserved = plan, None, reserved
        self.answers_at = ""
        self.asked_grace = None
        self.begun += 1
        self.early.clear()
        self.condition.notify_all()

    def release_in_fork(self) -> None:
        """In a fork of its owner: what becomes of it is not seen here. Whoever held a lock is not here to let go of it."""
        self.lock = threading.RLock()
        self.condition = threading.Condition(self.lock)
        self.restarting = threading.RLock()
        if not self.state.is_final:
            self.life = replace(
                self.life, state=State.LOST, reason=f"not known in process {os.getpid()}, a fork of its owner"
            )
            self._whose = (
                "is the parent process's: in a fork it can't be ended or waited for; do that in the parent, "
                "or start it here with an Owner of this process"
            )

    @property
    def is_held_here(self) -> bool:
        """Whether this thread holds ``condition``, as in a signal handler that interrupted it there: no other can tell of it."""
        return bool(self.condition._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001

    @property
    def stays(self) -> bool:
        """Whether a shutdown leaves it to the next owner; what somebody ends just now is ended, and waited for."""
        return self.on_death == "keep" and self.state is not State.STOPPING and not self.state.is_final

    def leave(self, owner: str) -> None:
        """Leave it to the next owner of that name: it goes on, and what becomes of it is not heard here any more."""
        with self.lock:
            if not self.stays:
                return
            self.life = replace(self.life, state=State.LOST, reason=f"left to the next owner named {owner}")
            self._whose = (
                f"was left to the next owner named {owner} when this one was shut down: adopt it there, "
                f"or end it with 'tether kill {owner}/{self.name}'"
            )
            self.condition.notify_all()
            for key, (_, listener, waits) in list(self._on_end.items()):
                self._on_end.pop(key, None)
                if waits:
                    listener()

    @property
    def is_left(self) -> bool:
        """Whether it is another owner's by now: it can neither be ended from here nor waited for."""
        return bool(self._whose)

    def check_owned(self) -> None:
        """Raise Gone in a fork of its owner, and where it was left to the next: neither can end it, nor hear of its end."""
        if self._whose:
            raise Gone(f"resource {self.name} {self._whose}")

    @property
    def is_over(self) -> bool:
        """Whether it has ended: nothing of it runs, though something else that was made for it may be left."""
        return self.life.state.is_final or self.life.over

    def has_ended(self, of: Wanted) -> bool:
        """Whether all of it has ended, or its command alone, or whether there is no use in waiting for either."""
        if of == "outcome" and self.life.hopeless:
            return True
        return self.is_over or (of == "main" and self.life.exit_code is not None)

    def on_end(self, listener: Callable[[], object], *, of: Wanted = "tree", waits: bool = False) -> Callable[[], None]:
        """Have ``listener`` called once when it has ended, at once if it has; the function that is returned forgets it.

        It is called in the thread that saw the end, with ``condition`` held: it must not block. One that ``waits`` is called also
        when it is left to the next owner, and looks whether it is. Raises Gone where it is not this owner's.
        """
        self.check_owned()
        key = object()
        with self.lock:
            if not self.has_ended(of):
                self._on_end[key] = of, listener, waits
                return lambda: self._forget(key)
        listener()
        return lambda: None

    def _forget(self, key: object) -> None:
        # Without the lock: a waiter that is cancelled waits for nobody.
        self._on_end.pop(key, None)

    def tell_end(self) -> None:
        """Call who waits for an end that has come."""
        for key, (of, listener, _) in list(self._on_end.items()):
            if not self.has_ended(of):
                continue
            self._on_end.pop(key, None)
            try:
                listener()
            except Exception:
                _log.exception("%s: a listener for its end failed", self.name)

    @property
    def grace(self) -> float:
        """The grace of its end: what was asked for last, or its spec's."""
        grace: float = self.spec.stop_grace if self.asked_grace is None else self.asked_grace
        return grace

    @property
    def insists(self) -> bool:
        """Whether its polite signal is sent again: before it was ready, when it may not hear yet, or where its spec says so."""
        again = getattr(self.spec, "stop_again", None)
        return not self.life.was_ready if again is None else bool(again)

    @property
    def can_be_asked(self) -> bool:
        """Whether its driver can ask for its end without waiting for it."""
        return self.handle is not None and self._can_ask is not None and self._can_ask(self.handle)

    def ask_to_end(self, handle: Handle, grace: float) -> None:
        """End it politely."""
        if self.insists and isinstance(self.driver, CanInsist):
            self.driver.insist(handle, grace)
        else:
            self.driver.stop(handle, grace)

    def take_streams(self) -> None:
        """Take the pipes of a life that begins; those of the last one are closed."""
        take = getattr(self.driver, "streams", None)
        if take is not None and self.handle is not None:
            self.close_streams()
            self.streams = take(self.handle)

    def close_streams(self) -> None:
        """Close the pipes; one that nobody reads any more may hold what can't be written."""
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            with suppress(OSError, ValueError):
                stream.close()

    def __del__(self) -> None:
        # Who forgot to close a pipe has forgotten the resource by now.
        if getattr(self, "streams", None):
            self.close_streams()

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self.life.state

    @property
    def port(self) -> int | None:
        """Its port on this machine, if it has one."""
        return None if self.handle is None or self._port_of is None else self._port_of(self.handle)

    @property
    def url(self) -> str | None:
        """Where it answers, if it does."""
        if self._url_of is not None:
            url = None if self.handle is None else self._url_of(self.handle)
        else:
            url = None if self.port is None else self.answers_at or f"http://127.0.0.1:{self.port}"
        by_tls = url is not None and url.startswith("http:") and self.spec.ready is not None and self.spec.ready.by_tls
        return f"https:{url.partition(':')[2]}" if url is not None and by_tls else url

    @property
    def log_path(self) -> Path | None:
        """The file with its output, if it has one."""
        return None if self.handle is None or self._log_of is None else self._log_of(self.handle)

    def log(self, lines: int | None) -> str:
        """Its output, or the last lines of it, as text; empty if it goes elsewhere. Raises DriverUnavailable."""
        if self.handle is not None and isinstance(self.driver, HasOutput):
            return self.driver.read_log(self.handle, lines).decode(errors="replace")
        said = [logs.tail(path, lines) for path in self.log_paths]
        if len(said) < 2:
            return "".join(said)
        # What went to standard error comes last: it is what the end of a log is looked at for.
        both = [line for each in said for line in each.splitlines()]
        return "\n".join(both if lines is None else both[len(both) - lines :] if lines < len(both) else both)

    @property
    def log_paths(self) -> tuple[Path, ...]:
        """The files with its output."""
        if self.handle is not None and isinstance(self.driver, HasLogsApart):
            return self.driver.log_paths(self.handle)
        return () if self.log_path is None else (self.log_path,)

    def target(self) -> Target:
        """What a readiness probe looks at."""
        # What has no probe needs none of all that looks.
        from tether.life.probes import Target

        if self.handle is not None and isinstance(self.driver, HasTarget):
            return replace(self.driver.target(self.handle), subject=self)
        return Target(port=self.port, pids=self.pids, log_from=self._log_from, subject=self)

    def _log_from(self, start: int) -> tuple[bytes, int]:
        return (b"", 0) if self.log_path is None else logs.read_from(self.log_path, start)

    def details(self) -> dict[str, Any]:
        """What its driver tells of it beside what all do."""
        if self.handle is None or not isinstance(self.driver, HasDetails):
            return {}
        return self.driver.details(self.handle)

    @property
    def is_attached(self) -> bool:
        """Whether it was there before, so that it is only let go of."""
        return self.handle is not None and isinstance(self.driver, CanAttach) and self.driver.is_attached(self.handle)

    def pids(self) -> tuple[int, ...]:
        """Its live processes on this machine; of one that is lost, none can be seen."""
        if self.handle is None or self.state.is_final or self.state is State.LOST or not self._has_pids:
            return ()
        if self._pids_of is not None:
            return self._pids_of(self.handle)
        try:
            return self.driver.inspect(self.handle).pids
        except DriverUnavailable:
            # Not to be seen now, which its state says.
            return ()

    def was_port_taken(self) -> bool:
        """Whether somebody listens on the port that was chosen for it, now that it has ended."""
        chosen = getattr(self.spec, "port", None) is None and self.port is not None
        return chosen and self.state.is_final and bool(sockets.listening_inodes(self.port or 0))

    def start_error(self) -> StartError:
        """Why it did not come up, with the end of its output."""
        try:
            log_tail = self.log(_TAIL_LINES)
        except TetherError as error:
            log_tail = f"(can't be read: {error})"
        reason = self.life.doomed or self.life.reason or describe_exit(self.life.exit_code)
        left = (
            "nothing of it is left running"
            if self.is_over
            else f"it is still there: {self.life.reason}; it stays on record"
        )
        return StartError(
            f"cannot start {self.name}: {reason}; {left}",
            resource=self.name,
            exit_code=self.life.exit_code,
            log_tail=log_tail,
        )
