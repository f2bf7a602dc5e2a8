"""Hears what becomes of the machines that an owner holds, and renews their leases. Providers tell nobody: they are asked."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from tether.drivers.cloud.lease import Lease
from tether.drivers.cloud.provider import Lists, Seen
from tether.errors import DriverUnavailable
from tether.model import Handle

__all__ = ["Held", "Watch"]

_LOOK_S = 10.0
_SHORTEST_S = 0.5


@dataclass
class Held:
    """One machine that is watched; ``seen`` is the last that was shown of it, ``absent`` how often in a row it was not."""

    handle: Handle
    lease: Lease | None
    seen: Seen | None = None
    absent: int = 0


class Watch:
    """Looks at all held machines of one provider, in a thread that lives while there are any.

    Args:
        provider: who has them.
        look: called with a machine after each look that showed it, or did not.
        lost: called with each machine, and why, after a look that failed.
    """

    def __init__(self, provider: Lists, look: Callable[[Held], None], lost: Callable[[Held, str], None]) -> None:
        self._provider = provider
        self._look = look
        self._lost = lost
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    def hold(self, handle: Handle, lease: Lease | None, seen: Seen | None) -> None:
        """Watch a machine from now on."""
        with self._lock:
            self._held[handle.tag] = Held(handle, lease, seen)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="tether-cloud", daemon=True)
                self._thread.start()
        self._wake.set()

    def let_go(self, tag: str) -> None:
        """Watch a machine no longer."""
        with self._lock:
            self._held.pop(tag, None)
        self._wake.set()

    def held(self, tag: str) -> Held | None:
        """Return what is known of a machine; None if it is not watched."""
        with self._lock:
            return self._held.get(tag)

    def close(self) -> None:
        """Watch nothing any more; what was held goes on until its lease is over."""
        with self._lock:
            self._closed = True
            self._held.clear()
            thread = self._thread
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    def _pause(self, held: list[Held]) -> float:
        leases = [each.lease.seconds / 6 for each in held if each.lease is not None and each.lease.seconds is not None]
        return max(_SHORTEST_S, min([_LOOK_S, *leases]))

    def _run(self) -> None:
        while True:
            with self._lock:
                held = list(self._held.values())
                if not held:
                    self._thread = None
                    return
            for each in held:
                if each.lease is not None and self.held(each.handle.tag) is each:
                    each.lease.tick()
            self._look_at(held)
            self._wake.clear()
            self._wake.wait(self._pause(held))

    def _look_at(self, held: list[Held]) -> None:
        try:
            shown = self._provider.look([each.handle.data["id"] for each in held])
        except DriverUnavailable as error:
            for each in held:
                if self.held(each.handle.tag) is each:
                    self._lost(each, str(error))
            return
        for each in held:
            if self.held(each.handle.tag) is not each:
                continue
            seen = shown.get(each.handle.data["id"])
            each.absent = 0 if seen is not None else each.absent + 1
            each.seen = seen or each.seen
            self._look(each)
