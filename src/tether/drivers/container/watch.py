"""Hears from an engine when a container ends: one thread an engine, which waits in the kernel."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from tether.drivers.container import engine
from tether.errors import DriverUnavailable

__all__ = ["Watch"]

_log = logging.getLogger("tether")

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_SUBSCRIBE_S = 10.0


class Watch:
    """Calls functions when the engine is lost, is back, and says something about a container.

    Args:
        where: the engine's address.
        happened: called with an event of the engine about a container.
        lost: called with the reason when the engine does not answer any more.
        back: called whenever the engine answers (again), the first time too.
    """

    def __init__(
        self,
        where: str,
        happened: Callable[[dict[str, Any]], None],
        lost: Callable[[str], None],
        back: Callable[[], None],
    ) -> None:
        self._where = where
        self._happened = happened
        self._lost = lost
        self._back = back
        self._changed = threading.Condition()
        self._listening = False
        self._failures = 0
        self._said = ""
        threading.Thread(target=self._run, name="tether-engine", daemon=True).start()

    def await_listening(self) -> None:
        """Return when events are heard, so that none of what is started from now on is missed.

        Raises:
            DriverUnavailable: the engine does not answer, tried just now.
        """
        with self._changed:
            failures = self._failures
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._listening or self._failures > failures, _SUBSCRIBE_S):
                raise DriverUnavailable(
                    f"container engine {self._where} takes over {_SUBSCRIBE_S:g} s to answer; look at its log"
                )
            if not self._listening:
                raise DriverUnavailable(self._said)

    def _run(self) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            try:
                self._listen()
                pause = _FIRST_PAUSE_S
                said = f"container engine {self._where} closed the connection"
            except DriverUnavailable as error:
                said = str(error)
            with self._changed:
                was_listening, self._listening, self._said = self._listening, False, said
                self._failures += 1
                self._changed.notify_all()
            if was_listening:
                self._tell(self._lost, said)
            with self._changed:
                # Whoever starts something does not wait for the end of the pause.
                self._changed.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _listen(self) -> None:
        """Hear events until the engine closes the connection. Raises DriverUnavailable."""
        with engine.asking(self._where):
            events = engine.connect(self._where).events(
                decode=True, filters={"type": "container", "event": ["start", "die", "destroy"]}
            )
            # The engine answers this at once, before anything happens.
            with self._changed:
                self._listening = True
                self._changed.notify_all()
            self._tell(self._back)
            for event in events:
                self._tell(self._happened, event)

    @staticmethod
    def _tell(action: Callable[..., None], *what: Any) -> None:
        try:
            action(*what)
        except Exception:
            # This thread must go on for the other containers.
            _log.exception("tether could not handle what a container engine said")
