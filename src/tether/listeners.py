"""Calls what users gave to be called, in a thread of its own: a listener may take its time, and end or restart what it hears of."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, ParamSpec

from tether import threads

__all__ = ["Listener", "Listeners"]

_log = logging.getLogger("tether")

P = ParamSpec("P")


class Listener(Generic[P]):
    """Something of a user's that is called until that leaves, also where a call was due by then."""

    def __init__(self, call: Callable[P, object]) -> None:
        self._call: Callable[P, object] | None = call

    def __call__(self, *args: P.args, **more: P.kwargs) -> None:
        """Call it, unless it has left. Raises what it raises."""
        call = self._call
        if call is not None:
            call(*args, **more)

    def leave(self) -> None:
        """Have it called no more; it may be said twice."""
        self._call = None


class Listeners:
    """Calls listeners one after the other, in a thread that lives while any are due.

    What sees an end must go on seeing: a listener that stopped another resource in that thread would wait for itself.
    """

    def __init__(self) -> None:
        self._release()

    def _release(self) -> None:
        # Again and again by one thread: a signal handler may end something in the middle of this.
        self._lock = threading.RLock()
        self._due: deque[Callable[[], object]] = deque()
        self._thread: threading.Thread | None = None

    def call(self, listener: Callable[[], object]) -> None:
        """Have ``listener`` called soon, after those that are due; by this thread where no other can be made.

        One that raises is logged, and keeps nobody from anything.
        """
        with self._lock:
            self._due.append(listener)
            if self._thread is not None and self._thread.is_alive():
                return
            self._thread = threads.begin(self._work, "tether-listeners")
            if self._thread is not None:
                return
        self._work()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._due:
                    # An interruption may have left another thread beside this one.
                    if self._thread is threading.current_thread():
                        self._thread = None
                    return
                listener = self._due.popleft()
            try:
                listener()
            except Exception:
                _log.exception("a listener failed")

    def finish(self, timeout_s: float) -> None:
        """Wait until all that are due were called, at most so long; a listener that asks for that does not wait for itself."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def release_in_fork(self) -> None:
        """In a fork: nothing is due there, and no thread of the parent's holds anything."""
        self._release()
