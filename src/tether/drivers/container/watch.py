"""Hears from an engine what happens to containers, and looks by itself: at a slow pace, and whenever that may have been missed.

Two threads an engine, which wait in the kernel. An event stream is not believed to be all: it can go silent while all else works,
an engine may not know a filter, a proxy may refuse it.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tether.drivers.container import limits, streams
from tether.drivers.container.engine import Absent, Engine, Refused
from tether.errors import DriverUnavailable

__all__ = ["Watch"]

_log = logging.getLogger("tether")

_JOIN_S = 3.0


class Watch:
    """Calls functions when an engine says something, when it is to be looked at, and when it is lost.

    Args:
        engine: the engine.
        happened: called with each event of the engine about a container; must not wait.
        look: called to look at what is watched there; raises DriverUnavailable if the engine does not answer.
        lost: called with the reason when the engine does not answer any more.
    """

    def __init__(
        self,
        engine: Engine,
        happened: Callable[[dict[str, Any]], None],
        look: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._happened = happened
        self._look = look
        self._lost = lost
        self._changed = threading.Condition()
        self._closed = False
        self._listening = False
        self._failures = 0
        self._said = ""
        self._anew = False
        self._refused = ""
        self._stream: socket.socket | None = None
        self._look_now = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"tether-engine-{name}", daemon=True)
            for target, name in ((self._hear_all, "events"), (self._look_always, "looks"))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def refused(self) -> str:
        """Why the engine's events may not be heard, so that it is looked at more often; empty if they may."""
        return self._refused

    def await_listening(self) -> None:
        """Return when events are heard, so that none of what is started from now on is missed.

        Raises:
            DriverUnavailable: the engine does not answer, tried just now.
        """
        with self._changed:
            failures = self._failures
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._listening or self._failures > failures, limits.SUBSCRIBE_S):
                raise DriverUnavailable(
                    f"container engine {self._engine} takes over {limits.SUBSCRIBE_S:g} s to answer; look at its log"
                )
            if not self._listening:
                raise DriverUnavailable(self._said)

    def look_soon(self) -> None:
        """Have it looked at without waiting for the end of the pace."""
        self._look_now.set()

    def listen_anew(self) -> None:
        """Something was seen that was not heard: the stream may be deaf."""
        with self._changed:
            stream = self._stream
            self._anew = stream is not None
        if stream is not None:
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End both threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._look_now.set()
        self.listen_anew()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)

    # -- listening -----------------------------------------------------------------------------------------------------

    def _hear_all(self) -> None:
        pause = limits.FIRST_PAUSE_S
        while not self._closed:
            try:
                self._hear()
                pause = limits.FIRST_PAUSE_S
                said = f"container engine {self._engine} closed the connection"
            except (Refused, Absent) as error:
                self._go_on_without_events(str(error))
                continue
            except DriverUnavailable as error:
                said = str(error)
                if self._stream is None and self._answers():
                    # What stands in front of it holds the stream up, as some do that buffer.
                    self._go_on_without_events(said)
                    continue
            except Exception as error:
                # What the client's library raises when a connection is closed under it.
                said = f"container engine {self._engine}: {type(error).__name__}: {error}"
            with self._changed:
                self._listening, self._stream = False, None
                is_asked, self._anew = self._anew, False
                if is_asked:
                    # It was ended here, so the engine has not failed, and no start is told that it had.
                    continue
                self._said = said
                self._failures += 1
                self._changed.notify_all()
            self.look_soon()
            with self._changed:
                # Whoever starts something does not wait for the end of the pause.
                if not self._closed:
                    self._changed.wait(pause)
            pause = min(2 * pause, limits.LONGEST_PAUSE_S)

    def _hear(self) -> None:
        """Hear events until the engine closes the connection. Raises DriverUnavailable."""
        limit_s = limits.EVENTS_S
        with self._engine.asked(limit_s) as client, streams.events(client, limit_s) as (lines, stream):
            # Answered at once, before anything happens; from now on it may be silent for long.
            stream.settimeout(None)
            with self._changed:
                if self._closed:
                    return
                self._listening, self._stream, self._refused, self._anew = True, stream, "", False
                self._changed.notify_all()
            self.look_soon()
            for line in lines:
                if self._closed:
                    return
                if line:
                    self._tell(self._happened, json.loads(line))

    def _answers(self) -> bool:
        """Whether the engine answers a question, if not with events."""
        try:
            with self._engine.asked(limits.EVENTS_S) as client:
                client.ping()
        except (DriverUnavailable, Absent) as error:
            return isinstance(error, Refused | Absent)
        return True

    def _go_on_without_events(self, why: str) -> None:
        with self._changed:
            if not self._refused:
                _log.warning("events can't be heard, so it is looked at more often: %s", why)
            self._refused, self._listening = why, True
            self._changed.notify_all()
        self.look_soon()
        with self._changed:
            if not self._closed:
                self._changed.wait(limits.LONGEST_PAUSE_S)

    # -- looking -------------------------------------------------------------------------------------------------------

    def _look_always(self) -> None:
        pause = limits.FIRST_PAUSE_S
        is_lost = False
        while not self._closed:
            self._look_now.clear()
            try:
                self._look()
                is_lost, pause = False, limits.FIRST_PAUSE_S
                self._look_now.wait(limits.PACE_WITHOUT_EVENTS_S if self._refused else limits.PACE_S)
                continue
            except Refused as error:
                # It answers: nothing is lost.
                _log.warning("could not be looked at, tried again: %s", error)
            except DriverUnavailable as error:
                if not is_lost and not self._closed:
                    is_lost = True
                    self._tell(self._lost, str(error))
            except Exception:
                # This thread must go on for the other containers.
                _log.exception("tether could not handle what a container engine said")
            self._look_now.wait(pause)
            pause = min(2 * pause, limits.LONGEST_PAUSE_S)

    @staticmethod
    def _tell(action: Callable[..., None], *what: Any) -> None:
        try:
            action(*what)
        except Exception:
            # This thread must go on for the other containers.
            _log.exception("tether could not handle what a container engine said")
