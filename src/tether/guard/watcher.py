"""The one thread of an owner that waits, in the kernel, for word from its hub and its shims."""

from __future__ import annotations

import logging
import os
import selectors
import threading
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Readable", "Watcher"]

_log = logging.getLogger("tether")

_AGAIN_S = 0.01


class Readable(Protocol):
    """What can be watched: a socket, or a file of the kernel's with news."""

    def fileno(self) -> int:
        """Return the descriptor."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Watcher:
    """Calls a function whenever what it belongs to can be read."""

    def __init__(self, name: str) -> None:
        # By way of selectors, which gevent and eventlet replace by ones that wait without holding up everybody else.
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        # What is registered meanwhile an epoll notices by itself; others look at their list when they begin to wait.
        self._notices = isinstance(self._selector, getattr(selectors, "EpollSelector", ()))
        self._watched: dict[int, tuple[Readable, Callable[[], bool]]] = {}
        self._thread = threading.Thread(target=self._run, name=f"tether-{name}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            os.close(self._wake)
            self.release()
            raise

    def watch(self, sock: Readable, readable: Callable[[], bool]) -> None:
        """Call ``readable`` whenever ``sock`` can be read, until it returns False; then ``sock`` is closed here."""
        fd = sock.fileno()
        self._watched[fd] = (sock, readable)
        try:
            self._selector.register(fd, selectors.EVENT_READ)
        except KeyError:
            # Its number was that of another, which whoever was interrupted closed without a word.
            self._selector.unregister(fd)
            self._selector.register(fd, selectors.EVENT_READ)
        if not self._notices:
            # Not write(), of which eventlet refuses two at once.
            os.writev(self._wake, [b"\0"])

    def _run(self) -> None:
        while True:
            try:
                ready = self._selector.select()
                # Its end, and nothing else, comes by way of the pipe for good.
                if any(key.fd == self._wake_read for key, _ in ready) and not os.read(self._wake_read, 4096):
                    return
            except OSError as error:
                # For want of memory, for instance: it passes, and without this thread nobody would hear of any end any more.
                _log.debug("tether could not look who has news, and looks again: %s", error)
                time.sleep(_AGAIN_S)
                continue
            for key, _ in ready:
                if key.fd != self._wake_read:
                    self._call(key.fd)

    def _call(self, fd: int) -> None:
        sock, readable = self._watched[fd]
        try:
            more = readable()
        except Exception:
            # This thread must go on for the others; a socket that fails would fail again at once.
            _log.exception("tether could not handle a message")
            more = False
        if not more:
            self._selector.unregister(fd)
            del self._watched[fd]
            sock.close()

    def end(self) -> None:
        """End the thread; what it watched stays open."""
        # It may be called again, after it was interrupted: between the two nothing is called that could be.
        wake, self._wake = self._wake, -1
        if wake >= 0:
            os.close(wake)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def close(self) -> None:
        """End the thread, and close what it still watched."""
        self.end()
        self.release()

    def release(self) -> None:
        """Close this process's descriptors; all that a fork of the owner, which has no such thread, has to do."""
        for sock, _ in list(self._watched.values()):
            sock.close()
        self._selector.close()
        wake_read, self._wake_read = self._wake_read, -1
        if wake_read >= 0:
            os.close(wake_read)
