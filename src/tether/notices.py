"""What happens, told to whoever wants to know: a log line and a call for each event."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Protocol, Self, TypeVar

from tether.listeners import Listener, Listeners

__all__ = ["Hearer", "Notice", "Telemetry", "Watch"]

_LISTENERS_S = 5.0

# No handler of ours: where the app has none, Python itself shows warnings on standard error, and nothing below.
_log = logging.getLogger("tether")
_LEVELS = {
    "lost": logging.WARNING,
    "stuck": logging.WARNING,
    "left behind": logging.WARNING,
    "plugin failed": logging.WARNING,
}


@dataclass(frozen=True)
class Notice:
    """One event.

    Attributes:
        owner: the owner's id.
        resource: the resource's; None if it happened to the owner.
        name: the resource's or the owner's name.
        what: what happened, in a word or two: "created", "ready", "exited", "failed", "gone", "left behind", ...
        detail: more of it, in words; may be empty.
        at: when, in seconds since the epoch.
        state: the state of the resource after it; None if it happened to the owner.
        crash: whether a server that was up has failed, with nobody having asked for its end.
    """

    owner: str
    resource: str | None
    name: str
    what: str
    detail: str = ""
    at: float = field(default_factory=time.time)
    state: str | None = None
    crash: bool = False


class Watch:
    """An iterator of events, from its beginning until the owner was shut down or it is closed. Also a context manager."""

    def __init__(self, end: Callable[[Watch], None]) -> None:
        self._end = end
        self._notices: queue.SimpleQueue[Notice | None] = queue.SimpleQueue()
        self._over = False

    def put(self, notice: Notice | None) -> None:
        """Take in a notice; None for the end."""
        self._notices.put(notice)

    def __iter__(self) -> Iterator[Notice]:
        return self

    def __next__(self) -> Notice:
        notice = self.next()
        if notice is None:
            raise StopIteration
        return notice

    def next(self, timeout: float | None = None) -> Notice | None:
        """Wait for the next event, at most so many seconds; None if there was none, or there will be none any more."""
        if self._over:
            return None
        try:
            notice = self._notices.get(timeout=timeout)
        except queue.Empty:
            return None
        self._over = notice is None
        return notice

    def close(self) -> None:
        """End it; who waits for the next event hears that there is none."""
        self._end(self)
        self._notices.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Hearer(Protocol):
    """What takes in notices, in whatever thread they happen, and without blocking; None for the end."""

    def put(self, notice: Notice | None) -> None:
        """Take in a notice."""
        ...


_Hearer = TypeVar("_Hearer", bound=Hearer)


class Telemetry:
    """Passes notices on.

    Attributes:
        listeners: what calls users' listeners.
    """

    def __init__(self) -> None:
        self.listeners = Listeners()
        self._listeners: tuple[Callable[[Notice], object], ...] = ()
        self._watches: tuple[Hearer, ...] = ()
        self._closed = False

    def subscribe(self, listener: Callable[[Notice], object]) -> Callable[[], None]:
        """Have ``listener`` called with each notice, in the thread where it happens; it must not block.

        Returns:
            What ends that; it may be called twice.
        """
        # By another object each time: who subscribes twice is called twice, and leaves once at a time.
        called = Listener(listener)
        self._listeners = (*self._listeners, called)

        def leave() -> None:
            self._listeners = tuple(each for each in self._listeners if each is not called)

        return leave

    def listen(self, listener: Callable[[Notice], object]) -> Callable[[], None]:
        """As `subscribe`, for a user's listener: it is called in the thread of `listeners`, and may do what it likes."""
        called = Listener(listener)
        unsubscribe = self.subscribe(lambda notice: self.listeners.call(partial(called, notice)))

        def leave() -> None:
            called.leave()
            unsubscribe()

        return leave

    def watch(self) -> Watch:
        """Return an iterator of the notices from now on."""
        return self.join(Watch(self.forget))

    def join(self, watch: _Hearer) -> _Hearer:
        """Have ``watch`` take in the notices from now on."""
        self._watches = (*self._watches, watch)
        if self._closed:
            watch.put(None)
        return watch

    def forget(self, watch: Hearer) -> None:
        """Give ``watch`` nothing more."""
        self._watches = tuple(each for each in self._watches if each is not watch)

    def publish(self, notice: Notice) -> None:
        """Log a notice and pass it on. A listener that raises is logged, and keeps nobody from anything."""
        level = logging.WARNING if notice.crash else _LEVELS.get(notice.what, logging.DEBUG)
        said = "crashed" if notice.crash else notice.what
        _log.log(level, "%s: %s%s", notice.name, said, f" ({notice.detail})" if notice.detail else "")
        for listener in self._listeners:
            try:
                listener(notice)
            except Exception:
                _log.exception("a listener for events failed")
        for watch in self._watches:
            watch.put(notice)

    def close(self) -> None:
        """Say that nothing will come any more; users' listeners that are due are waited for, some seconds."""
        self.listeners.finish(_LISTENERS_S)
        self._closed = True
        for watch in self._watches:
            watch.put(None)

    def release_in_fork(self) -> None:
        """In a fork of the owner: nothing will come there, which its iterators hear; no loop of the parent's is woken."""
        watches, self._watches, self._listeners = self._watches, (), ()
        self.listeners.release_in_fork()
        self._closed = True
        for watch in watches:
            if isinstance(watch, Watch):
                watch.put(None)
