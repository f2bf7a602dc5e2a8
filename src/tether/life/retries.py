"""What could not be done now is tried again, with growing pauses, until it is done or nobody waits for it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tether import threads

__all__ = ["Retries"]

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 30.0


class Retries:
    """Attempts that go on in the background, one thread for each key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._closed = threading.Event()

    def begin(self, key: str, attempt: Callable[[], bool]) -> None:
        """Call ``attempt`` until it returns True; nothing if that is being done for this key already."""
        with self._lock:
            if key in self._running:
                return
            self._running.add(key)
        if not threads.begin(lambda: self._run(key, attempt), f"tether-retry-{key}"):
            # It stays on record; whoever asks for its end again brings another try, and so does a sweep.
            with self._lock:
                self._running.discard(key)

    def _run(self, key: str, attempt: Callable[[], bool]) -> None:
        pause = _FIRST_PAUSE_S
        try:
            while not self._closed.wait(pause) and not attempt():
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        finally:
            with self._lock:
                self._running.discard(key)

    def close(self) -> None:
        """Try nothing again any more."""
        self._closed.set()
