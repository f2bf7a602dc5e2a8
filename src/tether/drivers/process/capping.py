"""Keeps the logs of an owner's commands small, without looking at those that nobody writes."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tether import threads
from tether.errors import TetherError
from tether.guard.watcher import Readable
from tether.ledger import rotation
from tether.linux import inotify

__all__ = ["Capping"]

_log = logging.getLogger("tether")

_CONTENTION_S = 0.05
_PAUSE_S = 1.0
_LAST_S = 2.0


@dataclass
class _Capped:
    path: Path
    most: int
    number: int | None = None
    """Under which the kernel tells of it, once it is asked to."""
    failed: bool = False


class Capping:
    """Rotates the logs of one owner when they are too long.

    The kernel says when a log is written, once; then it is looked at, and again a second later, before the kernel is asked to
    say so again. So a log that is written all the time costs a look a second, and one that is not costs nothing. Threads are made
    for looking only, and end.

    Args:
        watch: has the owner's thread call a function whenever something can be read.
    """

    def __init__(self, watch: Callable[[Readable, Callable[[], bool]], None]) -> None:
        self._watch = watch
        self._lock = threading.RLock()
        self._told: io.FileIO | None = None
        self._capped: dict[str, _Capped] = {}
        self._tags: dict[int, str] = {}
        self._due: dict[str, _Capped] = {}
        self._looking: threading.Thread | None = None
        self._closing = threading.Event()

    def begin(self, tag: str, path: Path, most: int) -> None:
        """Cap a log from now on."""
        with self._lock:
            self._capped[tag] = self._due[tag] = _Capped(path, most)
            if not rotation.is_over(path, most) and self._ask(tag):
                del self._due[tag]
                return
        self._look_soon()

    def end(self, tag: str) -> None:
        """The command has ended: look once more, for what it wrote last. Called in the owner's thread."""
        self._soon(lambda: self._end(tag))

    def _soon(self, work: Callable[[], None]) -> None:
        """Do it now if nobody holds the lock, else in another thread: the owner's waits for nobody.

        A signal handler may be ending the owner while the start that it interrupted holds it, and waits for what that thread hears.
        """
        if self._lock.acquire(timeout=_CONTENTION_S):
            try:
                work()
            finally:
                self._lock.release()
        elif not threads.begin(work, "tether-logs"):
            work()

    def _end(self, tag: str) -> None:
        with self._lock:
            capped = self._capped.pop(tag, None)
            if capped is None:
                return
            if capped.number is not None and self._told is not None:
                # ValueError: the owner was shut down meanwhile.
                with suppress(ValueError):
                    inotify.stop(self._told.fileno(), capped.number)
                self._tags.pop(capped.number, None)
            if not rotation.is_over(capped.path, capped.most):
                return
            self._due[tag] = capped
        self._look_soon()

    def close(self) -> None:
        """Look no more; a rotation that has begun is ended first."""
        self._closing.set()
        looking = self._looking
        if looking is not None and looking is not threading.current_thread():
            looking.join(_LAST_S)

    def _ask(self, tag: str) -> bool:
        """Have the kernel say when a log is written next; False if it can't now. Called with the lock."""
        capped = self._capped[tag]
        try:
            if self._told is None:
                told = io.FileIO(inotify.opened())
                self._watch(told, self._hear)
                self._told = told
            capped.number = inotify.once_written(self._told.fileno(), capped.path)
        except FileNotFoundError:
            # Somebody removed it.
            return True
        except (OSError, ValueError, TetherError) as error:
            self._failed(capped, f"the kernel can't say when it is written, so it is looked at each second: {error}")
            return False
        self._tags[capped.number] = tag
        return True

    def _hear(self) -> bool:
        """Some logs were written. Called in the owner's thread."""
        self._soon(self._take_in_written)
        return True

    def _take_in_written(self) -> None:
        told = self._told
        if told is None:
            return
        with self._lock:
            for number in inotify.written(told.fileno()):
                tag = self._tags.pop(number, "")
                if tag in self._capped:
                    self._due[tag] = self._capped[tag]
                    self._due[tag].number = None
        self._look_soon()

    def _look_soon(self) -> None:
        with self._lock:
            if self._looking is not None or self._closing.is_set() or not self._due:
                return
            looking = self._looking = threading.Thread(target=self._look, name="tether-logs", daemon=True)
        try:
            looking.start()
        except RuntimeError:
            # No thread can be made now: the next log that is written, begins or ends brings another try.
            self._looking = None

    def _look(self) -> None:
        """Look at the logs that were written, and after a pause have the kernel say when they are written again."""
        while not self._closing.is_set():
            with self._lock:
                looked, self._due = self._due, {}
            for capped in looked.values():
                self._rotate(capped)
            self._closing.wait(_PAUSE_S)
            with self._lock:
                for tag, capped in looked.items():
                    # What was written in the pause is told by nobody.
                    if tag in self._capped and (rotation.is_over(capped.path, capped.most) or not self._ask(tag)):
                        self._due[tag] = capped
                if not self._due:
                    self._looking = None
                    return

    def _rotate(self, capped: _Capped) -> None:
        try:
            rotation.rotate(capped.path, capped.most)
            capped.failed = False
        except FileNotFoundError:
            return
        except OSError as error:
            self._failed(capped, f"it can't be rotated now, tried again: {error}")

    @staticmethod
    def _failed(capped: _Capped, why: str) -> None:
        if not capped.failed:
            _log.warning("log %s is to take at most %d bytes: %s", capped.path, capped.most, why)
        capped.failed = True
