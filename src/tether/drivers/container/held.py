"""What an owner's containers do, as their engines say it: heard, seen, and passed on to the owner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tether.drivers.container import limits, reach
from tether.drivers.container.engine import Absent, Engine, Refused
from tether.drivers.container.watch import Watch
from tether.errors import DriverUnavailable, NotRemoved
from tether.life.machine import Continued, Ended, Event, LeftOver, MainExited, Paused, Reached, Unreachable
from tether.model import Handle

__all__ = ["Held", "Live", "runs"]

_DIED = ("die", "died")
_REMOVED = ("destroy", "remove")
_IN_ONE_LOOK = 100


@dataclass
class Live:
    """A container that is watched.

    Attributes:
        handle: the driver's.
        engine: where it is.
        container: its id; of one that was there before, the id that its name means now.
        port: where it is reached; None if it has no port.
        starting: it may not run yet, and whoever starts it looks whether it has ended.
        ending: somebody here ends it, and says so when that is done.
        settling: its end was noticed, and is being dealt with.
        paused: whether its engine froze it.
        seen: when it was last seen, on the monotonic clock.
        unseen: why it could not be seen at the last glance; empty if it was.
    """

    handle: Handle
    engine: Engine
    container: str
    port: int | None = None
    starting: bool = False
    ending: bool = False
    settling: bool = False
    paused: bool = False
    seen: float = field(default_factory=time.monotonic)
    unseen: str = ""

    @property
    def tag(self) -> str:
        """The resource's."""
        return self.handle.tag

    @property
    def ref(self) -> str | None:
        """The name or id by which one that was there before is followed; None for what tether made."""
        data = self.handle.data
        return data.get("ref", data["container"]) if data["attached"] else None


def runs(state: dict[str, Any]) -> bool:
    """Whether a container runs, by the ``State`` of an inspection; one that is paused does."""
    return bool(state["Running"] or state.get("Paused"))


class Held:
    """The containers that one owner watches.

    Args:
        emit: tells the owner what happened to the resource with a tag.
        clear: removes what was made for a container; raises DriverUnavailable if that can't be done now.
    """

    def __init__(self, emit: Callable[[str, Event], None], clear: Callable[[Handle], None]) -> None:
        self._emit_to_owner = emit
        self._clear = clear
        self._lock = threading.Lock()
        self._held: dict[str, Live] = {}
        self._watches: dict[Engine, Watch] = {}
        self._closed = False

    def __bool__(self) -> bool:
        return bool(self._held)

    # -- who is watched ------------------------------------------------------------------------------------------------

    def watch(self, engine: Engine) -> Watch:
        """Return what watches an engine, from now on."""
        with self._lock:
            if self._closed:
                raise DriverUnavailable(f"container engine {engine} is not watched any more: its owner was shut down")
            if engine not in self._watches:
                self._watches[engine] = Watch(
                    engine,
                    lambda event: self._happened(engine, event),
                    lambda: self._look(engine),
                    lambda why: self._lost(engine, why),
                )
            return self._watches[engine]

    def add(self, live: Live) -> None:
        """Watch a container from now on."""
        with self._lock:
            self._held[live.tag] = live

    def started(self, live: Live) -> None:
        """It was started: from now on its end is told. It may have ended already, so it is looked at."""
        live.starting = False
        self.add(live)
        self.watch(live.engine).look_soon()

    def get(self, tag: str) -> Live | None:
        """Return the container of a resource, if it is watched."""
        return self._held.get(tag)

    def let_go(self, tag: str) -> None:
        """Watch it no more."""
        with self._lock:
            self._held.pop(tag, None)

    def close(self) -> None:
        """Watch nothing any more: what happens from now on is nobody's concern here."""
        with self._lock:
            self._closed = True
            watches = list(self._watches.values())
            self._watches.clear()
            self._held.clear()
        for watch in watches:
            watch.close()

    def _at(self, engine: Engine) -> list[Live]:
        with self._lock:
            return [live for live in self._held.values() if live.engine is engine]

    def _is_current(self, live: Live) -> bool:
        return not self._closed and self._held.get(live.tag) is live

    def _emit(self, live: Live, event: Event) -> None:
        if self._is_current(live):
            self._emit_to_owner(live.tag, event)

    # -- what the engine says ------------------------------------------------------------------------------------------

    def _happened(self, engine: Engine, event: dict[str, Any]) -> None:
        """Take in an event; called in the listening thread, so nothing here waits."""
        action, actor = event.get("Action", ""), event.get("Actor") or {}
        container, attributes = actor.get("ID", event.get("id")), actor.get("Attributes") or {}
        for live in self._at(engine):
            if live.ref is not None and attributes.get("name") == live.ref and action in ("start", "rename"):
                # Perhaps another container of this name, and another port.
                self.watch(engine).look_soon()
            elif live.container != container or live.starting:
                continue
            elif action in _DIED:
                self._heard_end(live, attributes)
            elif action in _REMOVED:
                self._removed(live)
            elif action in ("pause", "unpause"):
                self._set_paused(live, paused=action == "pause")
            elif action == "start" and live.ref is not None:
                self.watch(engine).look_soon()

    def _heard_end(self, live: Live, attributes: dict[str, Any]) -> None:
        if live.ref is not None:
            self._emit(live, Unreachable("its container ended"))
            return
        code = attributes.get("exitCode", attributes.get("containerExitCode"))
        if code is None:
            self._settle(live)
        else:
            self._ended(live, int(code), "ended by itself")

    def _removed(self, live: Live) -> None:
        if live.ref is not None:
            self._emit(live, Unreachable("its container was removed"))
            # Perhaps there is another one of its name by now.
            self.watch(live.engine).look_soon()
        else:
            self._ended(live, None, "removed by somebody else")

    def _set_paused(self, live: Live, *, paused: bool) -> None:
        if live.paused != paused:
            live.paused = paused
            self._emit(live, Paused(None) if paused else Continued())

    def _lost(self, engine: Engine, why: str) -> None:
        for live in self._at(engine):
            live.unseen = why
            if not live.starting:
                self._emit(live, Unreachable(why))

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _ended(self, live: Live, exit_code: int | None, why: str) -> None:
        """It has ended: say so at once; what was made for it is removed apart from that, since that may take long."""
        if live.settling or not self._is_current(live):
            return
        live.settling = True
        if exit_code is not None:
            self._emit(live, MainExited(exit_code))
        if not live.ending:
            _apart(live, lambda: self._clear_away(live, exit_code, why))

    def _clear_away(self, live: Live, exit_code: int | None, why: str) -> None:
        if live.ending or not self._is_current(live):
            # Whoever ends it says so when that is done.
            return
        try:
            self._clear(live.handle)
        except (Refused, NotRemoved) as error:
            self._emit(live, LeftOver(why, str(error)))
            return
        except DriverUnavailable:
            # Lost in the same moment: seen when the engine is back.
            live.settling = False
            return
        self._emit(live, Ended(exit_code, why, proof="seen to be gone from the engine"))
        if self._is_current(live):
            self.let_go(live.tag)

    def _settle(self, live: Live) -> None:
        """It seems to have ended: see how, apart from all else, for its trouble is its own."""

        def settle() -> None:
            # What can't be said now is seen at the next look.
            with suppress(DriverUnavailable):
                try:
                    with live.engine.asked() as client:
                        state = client.inspect_container(live.container)["State"]
                except Absent:
                    self._ended(live, None, "removed by somebody else")
                    return
                if not runs(state) and state["Status"] not in ("created", "configured", "restarting"):
                    self._ended(live, state["ExitCode"], "ended by itself")

        if not live.ending and not live.settling:
            _apart(live, settle)

    # -- looks ---------------------------------------------------------------------------------------------------------

    def _look(self, engine: Engine) -> None:
        """Look at all that is watched at an engine. Raises DriverUnavailable if it does not answer."""
        started = [live for live in self._at(engine) if not live.starting]
        watched = [live for live in started if not live.ending]
        if started and not watched:
            # Whoever ends the others is to know whether the engine is there.
            with engine.asked_for_lists() as client:
                client.ping()
        unheard = False
        for live, state in self._seen(engine, [live for live in watched if live.ref is None], limits.LOOK_S):
            if state in ("running", "paused"):
                self._is_there(live, paused=state == "paused")
            elif not live.settling:
                unheard = True
                self._settle(live)
        for live in watched:
            if live.ref is not None:
                # A refusal for one says nothing of the others.
                with suppress(Refused):
                    self._look_at_theirs(live, live.ref)
        for live in started:
            if live.ending:
                self._emit(live, Reached())
        if unheard:
            self.watch(engine).listen_anew()

    @staticmethod
    def _seen(engine: Engine, lives: list[Live], limit_s: float) -> Iterable[tuple[Live, str]]:
        """Pair each with its state, in the engine's word; empty if it is not there. One question for many."""
        for start in range(0, len(lives), _IN_ONE_LOOK):
            some = lives[start : start + _IN_ONE_LOOK]
            with engine.asked_for_lists(limit_s) as client:
                shown = client.containers(all=True, filters={"id": [live.container for live in some]})
            states = {each["Id"]: str(each["State"]) for each in shown}
            yield from ((live, states.get(live.container, "")) for live in some)

    def _is_there(self, live: Live, *, paused: bool) -> None:
        live.seen, live.unseen = time.monotonic(), ""
        self._emit(live, Reached())
        self._set_paused(live, paused=paused)

    def _look_at_theirs(self, live: Live, ref: str) -> None:
        """Follow a container that was there before by its name, through restarts (another port) and recreations (another id)."""
        try:
            with live.engine.asked() as client:
                shown = client.inspect_container(ref)
        except Absent:
            self._emit(live, Unreachable("its container was removed"))
            return
        if not runs(shown["State"]):
            self._emit(live, Unreachable("its container ended"))
            return
        inside = live.handle.data["inside"]
        port = None if inside is None else reach.port(shown, inside)
        live.container = shown["Id"]
        if inside is not None and port is None:
            self._emit(live, Unreachable(f"its container does not publish its port {inside} any more"))
            return
        live.port = port
        self._is_there(live, paused=bool(shown["State"].get("Paused")))

    def glance(self, within_s: float) -> None:
        """See how all are, one look at each engine, side by side; of what is not seen by then it is said that it was not."""
        with self._lock:
            engines = {live.engine for live in self._held.values()}
        looks = [
            (engine, threading.Thread(target=self._glance_at, args=(engine,), name="tether-glance", daemon=True))
            for engine in engines
        ]
        deadline = time.monotonic() + within_s
        for _, thread in looks:
            thread.start()
        for engine, thread in looks:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                for live in self._at(engine):
                    live.unseen = f"container engine {engine} does not answer within {within_s:g} s"

    def _glance_at(self, engine: Engine) -> None:
        lives, began = self._at(engine), time.monotonic()
        try:
            for live, state in self._seen(engine, lives, limits.GLANCE_S):
                if state:
                    live.seen, live.unseen = time.monotonic(), ""
        except DriverUnavailable as error:
            for live in lives:
                # Late news of one that was seen meanwhile is no news.
                if live.seen < began:
                    live.unseen = str(error)


def _apart(live: Live, action: Callable[[], None]) -> None:
    threading.Thread(target=action, name=f"tether-ended-{live.tag}", daemon=True).start()
