"""What is heard of the pods that this process holds, made into events of their resources."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from tether.drivers.kubernetes import doubt, pods
from tether.drivers.kubernetes.client import POD, Cluster, connect
from tether.drivers.kubernetes.doubt import Doubt
from tether.drivers.kubernetes.pods import Seen
from tether.drivers.kubernetes.where import Where
from tether.errors import DriverUnavailable, TetherError
from tether.life.machine import Ended, Event, NotReady, Reached, Unreachable
from tether.model import Handle, State

__all__ = ["Track"]

_log = logging.getLogger("tether")

Object = dict[str, Any]

_REMOVED = "removed by somebody else, or by the cluster"


class Clear(Protocol):
    """Removes what was made for a resource that has ended. Raises DriverUnavailable."""

    def __call__(self, handle: Handle) -> None: ...


class Track:
    """Knows the pods that are held, and how each was when it was last heard of.

    Args:
        emit: tells the owner of a resource, by its tag, what happened.
        clear: see `Clear`.

    Attributes:
        doubts: by tag, about those whose object is gone.
    """

    def __init__(self, emit: Callable[[str, Event], None], clear: Clear) -> None:
        self._emit = emit
        self._clear = clear
        self._changed = threading.Condition()
        self._held: dict[str, Handle] = {}
        self._last: dict[str, Object] = {}
        self._lost: set[str] = set()
        self._ending: set[str] = set()
        self._clearing: set[str] = set()
        self._given_up: set[str] = set()
        self._closed = False
        self.doubts: dict[str, Doubt] = {}

    # -- who is held ---------------------------------------------------------------------------------------------------

    def hold(self, handle: Handle, pod: Object) -> None:
        """Its end is of interest from now on."""
        with self._changed:
            for each in (self._lost, self._ending, self._clearing, self._given_up):
                each.discard(handle.tag)
            self._held[handle.tag] = handle
            self._last[handle.tag] = pod
        self._judge(handle, pod)

    def is_ending(self, tag: str) -> None:
        """Somebody ends it, and says so when that is done."""
        self._ending.add(tag)

    def let_go(self, tag: str) -> None:
        """Nothing of it is of interest any more."""
        with self._changed:
            self._held.pop(tag, None)
            self._last.pop(tag, None)
            for each in (self._lost, self._ending, self._clearing, self._given_up):
                each.discard(tag)
            self._changed.notify_all()

    def last(self, tag: str) -> Object | None:
        """How its pod was when it was last heard of."""
        return self._last.get(tag)

    def close(self) -> None:
        """Wake who waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def await_running(
        self, handle: Handle, within_s: float, progress: Callable[[str], None], now: Callable[[], float]
    ) -> Seen:
        """Wait until a pod runs, has ended, or never will. Raises DriverUnavailable if that takes too long, or all is closed."""
        deadline = time.monotonic() + within_s
        said = ""
        while True:
            with self._changed:
                pod = self._last.get(handle.tag)
                seen = None if pod is None else pods.judge(pod, handle.data["container"], now())
                waits = (
                    seen is not None and seen.state is not State.READY and not seen.has_ended and not seen.is_hopeless
                )
                left = deadline - time.monotonic()
                if waits and left > 0 and not self._closed and seen is not None and seen.reason == said:
                    self._changed.wait(left)
                    continue
            if seen is None or self._closed:
                raise DriverUnavailable("it was ended while it started")
            if not waits:
                return seen
            if left <= 0:
                raise DriverUnavailable(f"it does not run after {within_s:g} s: {seen.reason}")
            said = seen.reason
            progress(said)

    def _at(self, where: Where) -> list[Handle]:
        with self._changed:
            return [handle for handle in self._held.values() if handle.data["where"] == where.record()]

    # -- what is heard -------------------------------------------------------------------------------------------------

    def listed(self, where: Where, found: list[Object]) -> None:
        """All pods, as they are."""
        by_uid = {pod["metadata"]["uid"]: pod for pod in found}
        for handle in self._at(where):
            pod = by_uid.get(handle.data["uid"])
            if pod is None:
                self._look(handle, seen_to_end=False)
            else:
                self._judge(handle, pod)

    def changed(self, where: Where, what: str, pod: Object) -> None:
        """One pod that changed, as a watch says."""
        uid = pod["metadata"]["uid"]
        handle = next((each for each in self._at(where) if each.data["uid"] == uid), None)
        if handle is None:
            return
        if what == "DELETED":
            with self._changed:
                self._last[handle.tag] = pod
            self._look(handle, seen_to_end=True)
        else:
            self._judge(handle, pod)

    def lost(self, where: Where, why: str) -> None:
        """The cluster does not answer."""
        for handle in self._at(where):
            self._say_lost(handle.tag, why)

    def look(self, handle: Handle) -> None:
        """Look at one now. Raises DriverUnavailable."""
        self._look(handle, seen_to_end=False)

    def _look(self, handle: Handle, *, seen_to_end: bool) -> None:
        """It was not in a list that may be older than itself, or is said to have gone: look again, and believe that."""
        cluster = connect(Where.recorded(handle.data["where"]))
        pod = cluster.get(POD, handle.data["pod"])
        if pod is not None and pod["metadata"]["uid"] == handle.data["uid"]:
            self._judge(handle, pod)
        elif handle.data["attached"]:
            self._say_lost(handle.tag, "its pod was removed")
        else:
            self._in_thread(handle, lambda: self._settle_absent(handle, cluster, seen_to_end=seen_to_end))

    def _judge(self, handle: Handle, pod: Object) -> None:
        tag = handle.tag
        with self._changed:
            if self._held.get(tag) is not handle:
                return
            self._last[tag] = pod
            self._changed.notify_all()
        seen = pods.judge(pod, handle.data["container"], connect(Where.recorded(handle.data["where"])).now())
        if seen.state is State.LOST:
            self._say_lost(tag, seen.reason)
        elif handle.data["attached"]:
            self._say_reached(tag) if seen.state is State.READY else self._say_lost(
                tag, seen.reason or "its pod has ended"
            )
        elif seen.has_ended:
            code, why = seen.exit_code, seen.reason or "ended by itself"
            if pod["metadata"].get("deletionTimestamp"):
                # A command that obeys when somebody ends it has not done what it was started for, even if it says 0.
                code, why = code or None, _REMOVED
            self._in_thread(handle, lambda: self._settle(handle, code, why, "its node says so"))
        else:
            self._say_reached(tag)
            if seen.is_hopeless and tag not in self._given_up:
                self._given_up.add(tag)
                self._emit(tag, NotReady(seen.reason))

    def _say_lost(self, tag: str, why: str) -> None:
        with self._changed:
            new = tag in self._held and tag not in self._lost
            self._lost.add(tag)
        if new:
            self._emit(tag, Unreachable(why))

    def _say_reached(self, tag: str) -> None:
        with self._changed:
            was_lost = tag in self._lost
            self._lost.discard(tag)
        if was_lost:
            self._emit(tag, Reached())

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _in_thread(self, handle: Handle, work: Callable[[], None]) -> None:
        """Do what takes long in a thread of its own, once at a time for each; whoever ends it on purpose does it otherwise."""
        with self._changed:
            if handle.tag in self._ending or handle.tag in self._clearing or self._held.get(handle.tag) is not handle:
                return
            self._clearing.add(handle.tag)

        def run() -> None:
            try:
                work()
            except TetherError as error:
                # Lost in the same moment, or held up by something; the next list comes back to it.
                _log.info("resource %s has ended, and is not cleared yet: %s", handle.tag, error)
            finally:
                with self._changed:
                    self._clearing.discard(handle.tag)

        threading.Thread(target=run, name=f"tether-ended-{handle.tag}", daemon=True).start()

    def _settle(self, handle: Handle, exit_code: int | None, why: str, proof: str) -> None:
        """It has ended: remove what was made for it, and say so."""
        self._clear(handle)
        with self._changed:
            if self._held.get(handle.tag) is not handle or handle.tag in self._ending:
                return
        self._say_reached(handle.tag)
        self._emit(handle.tag, Ended(exit_code, why, proof=proof))
        self.let_go(handle.tag)

    def _settle_absent(self, handle: Handle, cluster: Cluster, *, seen_to_end: bool) -> None:
        """Its object has gone without our doing: believe that it ended only if there is no sign that it runs on."""
        last = self.last(handle.tag)
        if handle.tag not in self.doubts and last is not None:
            found = doubt.about(cluster, last, seen_to_end=seen_to_end)
            if found is not None:
                self.doubts[handle.tag] = found
        if self.doubt(cluster, handle.tag):
            return
        seen = None if last is None else pods.judge(last, handle.data["container"], cluster.now())
        code = seen.exit_code if seen is not None and seen.has_ended else None
        self._settle(handle, code, _REMOVED, "the cluster has it no more")

    def doubt(self, cluster: Cluster, tag: str) -> str:
        """Say why it is in doubt whether one has ended whose object is gone; empty if it is not. Raises DriverUnavailable."""
        found = self.doubts.get(tag)
        why = "" if found is None else found.remains(cluster)
        if why:
            self._say_lost(tag, why)
        else:
            self.doubts.pop(tag, None)
        return why
