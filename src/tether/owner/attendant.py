"""The thread that attends to an owner's plugins: it looks at what they start, and hears what is asked of them from outside.

tether is not told when a plugin starts something by itself. Python tells, though: its audit events name every
`subprocess.Popen`, `os.fork`, `os.posix_spawn` and `os.system` of this process, so that a look follows at once. What is started
in another way (by a library in C) is seen by the regular look.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tether import threads
from tether.linux.readable import await_readable
from tether.owner import asking

__all__ = ["Attendant"]

_log = logging.getLogger("tether")

_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 2.0
_REQUEST_LIMIT_S = 10.0
_LOOKS_AT_MOST = 0.05
"""The part of the time that looks may take, however often the app starts something."""
_STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system"})


class _Starts:
    """Tells attendants that this process is just starting something."""

    def __init__(self) -> None:
        self._wakes: tuple[int, ...] = ()
        self._lock = threading.Lock()
        self._hooked = False

    def _heard(self, event: str, _: object) -> None:
        """Wake them. Runs wherever the app starts something, also in a signal handler: it takes no lock and raises nothing."""
        if event in _STARTS:
            for wake in self._wakes:
                with contextlib.suppress(OSError):
                    os.eventfd_write(wake, 1)

    def tell(self, wake: int) -> None:
        with self._lock:
            self._wakes = (*self._wakes, wake)
            if not self._hooked:
                # It stays for as long as the process lives: Python has no way to remove one.
                sys.addaudithook(self._heard)
                self._hooked = True

    def tell_no_more(self, wake: int) -> None:
        with self._lock:
            self._wakes = tuple(each for each in self._wakes if each != wake)

    def forget_in_fork(self) -> None:
        """No attendant runs there; and a lock that another thread held just then would stay locked."""
        self._wakes, self._lock = (), threading.Lock()


_starts = _Starts()
os.register_at_fork(after_in_child=_starts.forget_in_fork)


class Attendant:
    """One thread of an owner with plugins.

    Args:
        name: the owner's, for the thread.
        path: the socket on which it hears; see `tether.owner.asking`.
        look: looks at the plugins; whether there are any that must be looked at again.
        answer: does what was asked from outside, in a thread of its own, and returns the answer, ready for JSON.
    """

    def __init__(
        self, name: str, path: Path, look: Callable[[], bool], answer: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        self._name = name
        self._path = path
        self._look = look
        self._answer = answer
        self._closing = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._listener: socket.socket | None = None
        try:
            self._listener = asking.listen(path)
        except OSError as error:
            # Plugins are looked at all the same; 'tether stop' can't ask.
            _log.warning("owner %s can't be asked from outside: %s: %s", name, path, error)
        self._thread = threading.Thread(target=self._run, name=f"tether-plugins-{name}", daemon=True)
        self._thread.start()
        _starts.tell(self._wake)

    def wake(self) -> None:
        """Have it look soon."""
        os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        heard = [self._wake, *([] if self._listener is None else [self._listener.fileno()])]
        pause, due, not_before = _FIRST_PAUSE_S, time.monotonic(), 0.0
        while not self._closing:
            wait_s = None if due == float("inf") else max(0.0, max(due, not_before) - time.monotonic())
            ready = await_readable(heard, wait_s)
            now = time.monotonic()
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
                pause = _FIRST_PAUSE_S
                due = min(due, now + pause)
            if self._listener is not None and self._listener.fileno() in ready:
                self._accept(self._listener)
            if not self._closing and now >= max(due, not_before):
                again = self._look_once()
                end = time.monotonic()
                not_before = end + min((end - now) / _LOOKS_AT_MOST, _LONGEST_PAUSE_S)
                due = end + pause if again else float("inf")
                pause = min(pause * 2, _LONGEST_PAUSE_S)

    def _look_once(self) -> bool:
        try:
            return self._look()
        except Exception:
            # This thread must go on for the other plugins.
            _log.exception("owner %s could not look at its plugins", self._name)
            return True

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        if not threads.begin(lambda: self._serve(connection), f"tether-asked-{self._name}"):
            # No thread can be made: who asked sees the connection closed, and says so.
            connection.close()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                if not asking.is_allowed(connection):
                    return
                connection.settimeout(_REQUEST_LIMIT_S)
                request = asking.receive(connection)
                asking.send(connection, self._answer(request))
            except (OSError, ValueError) as error:
                _log.warning("owner %s could not answer what was asked from outside: %s", self._name, error)

    def close(self) -> None:
        """End the thread and take the socket away."""
        _starts.tell_no_more(self._wake)
        self._closing = True
        self.wake()
        if threading.current_thread() is not self._thread:
            # A look that hangs in a plugin has a time limit, but is not waited for.
            self._thread.join(1.0)
        self._path.unlink(missing_ok=True)
        if not self._thread.is_alive():
            self.release_in_fork()

    def release_in_fork(self) -> None:
        """Close this process's descriptors; all that a fork of the owner, which has no such thread, has to do."""
        _starts.tell_no_more(self._wake)
        os.close(self._wake)
        if self._listener is not None:
            self._listener.close()
