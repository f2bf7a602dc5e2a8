"""One resource under supervision, and its last words."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tether.errors import DriverUnavailable, StartError, TetherError
from tether.ledger import logs
from tether.life.driver import CanAttach, CanInsist, Driver, HasDetails, HasOutput, HasTarget
from tether.life.machine import Event, Life, describe_exit
from tether.life.probes import Target
from tether.linux import sockets
from tether.model import Handle, OnDeath, State

__all__ = ["Managed", "Names", "new_id"]

_TAIL_LINES = 20


def new_id() -> str:
    """Return a new tag: short, and never used before."""
    return secrets.token_hex(8)


class Names:
    """The names that an owner makes for resources without one."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def choose(self, text: str, used: Collection[str]) -> str:
        """Return a name made of ``text``, with a number if it was used before."""
        cleaned = "".join(character if character.isalnum() or character in "._-" else "-" for character in text)
        base = cleaned.lstrip("._-")[:100] or "resource"
        while True:
            number = self._numbers[base] = self._numbers.get(base, 0) + 1
            name = base if number == 1 else f"{base}-{number}"
            if name not in used:
                return name


class Managed:
    """One resource under supervision.

    Attributes:
        tag, name, spec, driver: fixed.
        life: where it is in its life; changes under ``condition``, which is notified then.
        handle: the driver's; None before it was created.
        plan: by what it is found before that; None where the tag is enough.
        reserved: what is to hold it, on record before it is created; None for kinds without such.
        streams: the pipes to it, which stay until they are closed.
        number: of its life; each restart begins another.
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
        self.life = Life(stays_up=spec.stays_up)
        self.handle: Handle | None = None
        self.plan: Handle | None = None
        self.reserved: Handle | None = None
        self.number = 1
        self.streams: dict[str, Any] = {}
        self.fence = 1
        self.carrier = carrier
        self.condition = threading.Condition(threading.RLock())
        self.early: list[Event] = []
        # Looked up by name, not isinstance(): that costs a start more than anything else of this object.
        self._port_of: Callable[[Handle], int | None] | None = getattr(driver, "port", None)
        self._log_of: Callable[[Handle], Path | None] | None = getattr(driver, "log_path", None)
        # Where there can be none, nobody is asked: that may be another host, which may take long to answer.
        self._has_pids: bool = getattr(driver, "has_pids", True)
        self._pids_of: Callable[[Handle], tuple[int, ...]] | None = getattr(driver, "pids", None)
        self._url_of: Callable[[Handle], str | None] | None = getattr(driver, "url", None)

    @contextmanager
    def without_carrier(self) -> Iterator[None]:
        """For the time between two lives: what it runs on stays."""
        carrier, self.carrier = self.carrier, None
        try:
            yield
        finally:
            self.carrier = carrier

    def ask_to_end(self, handle: Handle, grace: float) -> None:
        """Ask politely; more than once only what has not been ready yet, and may not have heard, or where the spec says so."""
        again = getattr(self.spec, "stop_again", None)
        if (not self.life.was_ready if again is None else again) and isinstance(self.driver, CanInsist):
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
            return None if self.handle is None else self._url_of(self.handle)
        return None if self.port is None else f"http://127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path | None:
        """The file with its output, if it has one."""
        return None if self.handle is None or self._log_of is None else self._log_of(self.handle)

    def log(self, lines: int | None) -> str:
        """Its output, or the last lines of it, as text; empty if it goes elsewhere. Raises DriverUnavailable."""
        if self.handle is not None and isinstance(self.driver, HasOutput):
            return self.driver.read_log(self.handle, lines).decode(errors="replace")
        if lines is not None:
            return logs.tail(self.log_path, lines)
        path = self.log_path
        return path.read_bytes().decode(errors="replace") if path is not None and path.exists() else ""

    def target(self) -> Target:
        """What a readiness probe looks at."""
        if self.handle is not None and isinstance(self.driver, HasTarget):
            return replace(self.driver.target(self.handle), subject=self)
        return Target(port=self.port, pids=self.pids, log=self._read_log_file, subject=self)

    def _read_log_file(self) -> bytes:
        return b"" if self.log_path is None else self.log_path.read_bytes()

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
        return StartError(
            f"cannot start {self.name}: {reason}; nothing of it is left running",
            resource=self.name,
            exit_code=self.life.exit_code,
            log_tail=log_tail,
        )
