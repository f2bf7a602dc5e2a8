"""The owner's side of the guard: its hub, started when first needed and again if it is killed, and the thread that hears it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tether.errors import Gone, ReaperError, TetherError
from tether.guard.launch import Hub, ShimChannel
from tether.guard.watcher import Readable, Watcher
from tether.guard.wire import Kind, Message
from tether.linux import attributes, cgroup
from tether.linux.attributes import Attributes

__all__ = ["Guard", "Shim", "describe_stuck"]

_HUB_END_S = 5.0
_ORPHANS_S = 10.0


class Shim:
    """A shim that waits for its command.

    Attributes:
        channel: the socket to it, and who it is.
        hub: who forked it.
        born: what its command would inherit.
        now: what this thread has now, which its command shall have.
    """

    def __init__(self, channel: ShimChannel, hub: Hub, born: Attributes, now: Attributes) -> None:
        self.channel = channel
        self.hub = hub
        self.born = born
        self.now = now


class _Many:
    """Starts of one thread that follow each other at once.

    Attributes:
        now: what the thread has, which all of their commands shall have.
        left: so many of the shims that were forked for them are still to be had.
    """

    def __init__(self, now: Attributes, hub: Hub, count: int) -> None:
        self.now = now
        self.left = count
        self._hub = hub

    def take(self, hub: Hub) -> None:
        """One is taken from ``hub``: one of theirs, or one more where those are used up, or their hub was killed."""
        if hub is self._hub and self.left > 0:
            self.left -= 1
        else:
            hub.fork(1)


class Guard:
    """What ends everything should this process die.

    A command inherits what this process has when it is started. A hub can't follow a change of privileges or namespaces, nor enter
    a session, so there is one for each set of them that was met; they all end with the same lifeline.

    Args:
        owner: the owner's id.
        name: the owner's name, for the thread.
        state_dir: the state directory.
        note: told of what happens to the guard itself: what, and the detail.

    Attributes:
        cgroup: the folder for the owner's trees, or None.
        shares_terminal: commands join the session and process group of this process.
    """

    def __init__(self, owner: str, name: str, state_dir: Path, note: Callable[[str, str], None]) -> None:
        self.cgroup = cgroup.owner_folder(owner)
        self.shares_terminal = False
        self._owner = owner
        self._name = name
        self._state_dir = state_dir
        self._note = note
        self._lock = threading.RLock()
        self._closed = False
        self._watcher: Watcher | None = None
        self._hubs: dict[tuple[bytes, ...], tuple[Hub, Attributes]] = {}
        self._last: Hub | None = None
        self._many: dict[int, _Many] = {}
        # One for the owner's whole life: its end is the owner's death to every shim, also of a hub that was killed.
        self._lifeline, self._lifeline_held = os.pipe()
        self._orphans_lock = threading.RLock()
        self._orphans = threading.Condition(self._orphans_lock)
        self._ended_orphans: set[int] = set()

    def arm(self, *, in_session: bool = False) -> Hub:
        """Return a hub, started if there is none: enough for what needs no shim. Raises ReaperError."""
        with self._lock:
            if self._hubs and not self._closed:
                return next(iter(self._hubs.values()))[0]
        return self._arm(attributes.read(), in_session=in_session)[0]

    def _arm(self, now: Attributes, *, in_session: bool = False) -> tuple[Hub, Attributes]:
        shared = in_session or self.shares_terminal
        key = (*now.privileges, b"%d" % os.getsid(0)) if shared else now.privileges
        with self._lock:
            if self._closed:
                raise Gone(f"owner {self._name} was shut down; make a new one")
            found = self._hubs.get(key)
            if found is not None:
                return found
            if self._watcher is None:
                try:
                    self._watcher = Watcher(self._name)
                except (OSError, RuntimeError) as error:
                    raise ReaperError(
                        f"nobody can hear the guard now: {error}; nothing was started, try again"
                    ) from error
            hub = Hub(self._owner, self._state_dir, self.cgroup, self._lifeline, new_session=not shared)
            made = self._hubs[key] = hub, now
            self._last = hub
            self._watcher.watch(hub.control, lambda: self._hear(hub))
            return made

    @property
    def tier(self) -> str | None:
        """How trees are held; None before the first start."""
        return self._last.tier if self._last else None

    @property
    def pid(self) -> int | None:
        """The hub's pid; None before the first start."""
        return self._last.pid if self._last else None

    def shim(self, *, in_session: bool = False) -> Shim:
        """Return a shim that said that it holds the lifeline. Have the next one forked with `prepare`. Raises ReaperError.

        With ``in_session`` it is in the session of this process, as a command must be from its birth that is to be in that.
        """
        many = self._many.get(threading.get_ident())
        now = attributes.read() if many is None else many.now
        hub, born = self._arm(now, in_session=in_session)
        if many is not None:
            many.take(hub)
        try:
            return Shim(hub.shim(), hub, born, now)
        except ReaperError:
            if not (hub.is_deaf or hub.wait(0)):
                raise
            # It was killed just now, or hears nobody any more: another takes its place.
            self._hub_ended(hub)
            hub, born = self._arm(now, in_session=in_session)
            if many is not None:
                many.take(hub)
            return Shim(hub.shim(), hub, born, now)

    @contextmanager
    def many(self, count: int) -> Iterator[None]:
        """While this thread starts so many: their shims are forked at once, and what it has now is what all of them get.

        Raises:
            ReaperError: there is no hub to guard them.
        """
        now = attributes.read()
        hub = self._arm(now)[0]
        hub.fork(count)
        many = self._many[threading.get_ident()] = _Many(now, hub, count)
        try:
            yield
        finally:
            del self._many[threading.get_ident()]
            hub.leave(many.left)

    def prepare(self, shim: Shim) -> None:
        """Have the next shim forked, so that no start waits for it; once the command runs, for before they share the processor."""
        if threading.get_ident() not in self._many:
            shim.hub.prepare()

    def armed_lifeline(self) -> int:
        """The descriptor for a tree that is adopted, which is guarded by this owner's hub from then on."""
        self.arm()
        return self._lifeline

    def watch(self, sock: Readable, readable: Callable[[], bool]) -> None:
        """Have the watching thread call ``readable`` whenever ``sock`` can be read, until it returns False."""
        if self._watcher is None:
            raise Gone(f"owner {self._name} was shut down")
        self._watcher.watch(sock, readable)

    def _hear(self, hub: Hub) -> bool:
        """Take in a message of a hub; False when it has gone. Runs in the watching thread."""
        message = hub.receive()
        if message is None:
            self._hub_ended(hub)
            return False
        if message.kind == Kind.LOST:
            with self._orphans_lock:
                self._ended_orphans.add(message.number("pid") or 0)
                self._orphans.notify_all()
        elif message.kind == Kind.STUCK:
            self._note("stuck", describe_stuck(message))
        return True

    def _hub_ended(self, hub: Hub) -> None:
        """A hub was killed. Its shims go on by themselves; what is started from now on needs another."""
        with self._lock:
            keys = [key for key, (each, _) in self._hubs.items() if each is hub]
            for key in keys:
                del self._hubs[key]
            closing = self._closed
        with self._orphans_lock:
            self._orphans.notify_all()
        if not keys:
            return
        hub.release()
        if not closing:
            self._note("reaper lost", f"pid {hub.pid} ended; its shims go on, another guard is started")
            try:
                self.arm()
            except TetherError as error:
                self._note("reaper lost", f"another could not be started, the next start tries again: {error}")

    def await_orphans(self, shim: int) -> None:
        """Wait until the hub said that it ended the tree of a shim that was killed, or has gone itself."""
        with self._lock:
            hub = next((hub for hub, _ in self._hubs.values() if shim in hub.forked), None)
        if hub is None:
            return
        hub.wake()
        with self._orphans_lock:
            self._orphans.wait_for(
                lambda: shim in self._ended_orphans or all(each is not hub for each, _ in self._hubs.values()),
                timeout=_ORPHANS_S,
            )

    def hand_over(self) -> tuple[int, int]:
        """Have nobody here hear the guard any more, and return the lifeline and the line to the hub, for a program that takes over.

        Raises:
            ReaperError: there is no hub.
        """
        with self._lock:
            watcher, self._watcher = self._watcher, None
            hub = self._last
        if watcher is None or hub is None:
            raise ReaperError("there is no guard to hand over")
        watcher.end()
        return self._lifeline_held, hub.control.fileno()

    def disarm(self, *, orderly: bool, empty: bool) -> None:
        """Let go of hubs and shims.

        Args:
            orderly: nothing is left to settle; else a hub takes this for the owner's death, and settles.
            empty: no shim has a tree any more, so that the hubs end at once, and are waited for.
        """
        with self._lock:
            self._closed = True
            hubs = [hub for hub, _ in self._hubs.values()]
        for hub in hubs:
            hub.wake()
            if orderly:
                hub.say_bye()
        # Only what is done is forgotten: after an interruption this is called again.
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        self._end_lifeline()
        for hub in hubs:
            hub.close()
        self._hubs.clear()
        if orderly and empty:
            for hub in hubs:
                hub.wait(_HUB_END_S)
            if self.cgroup is not None:
                # Shims of a hub that was killed may end a moment later; what they are in goes with the next sweep.
                cgroup.remove(self.cgroup)

    def _end_lifeline(self) -> None:
        # Between forgetting one and closing it nothing is called that could be interrupted.
        held, self._lifeline_held = self._lifeline_held, -1
        if held >= 0:
            os.close(held)
        read, self._lifeline = self._lifeline, -1
        if read >= 0:
            os.close(read)

    def release_in_fork(self) -> None:
        """In a fork of the owner: let go of every line to hubs and shims, so that only the owner's own count."""
        self._closed = True
        self._end_lifeline()
        for hub, _ in self._hubs.values():
            hub.close()
        if self._watcher is not None:
            self._watcher.release()


_STUCK = {
    "other user": "belongs to another user ({}), whom this one may not signal",
    "traced": "is held by a tracer ({})",
    "frozen": "is frozen ({})",
    "uninterruptible": "is in uninterruptible sleep in {}",
    "forking": "forks faster than it is killed {}",
    "alive": "goes on {}",
}


def describe_stuck(message: Message) -> str:
    """Say which members were killed and are still there, and why."""
    told = zip(message.numbers("pid"), message.texts("reason"), message.texts("detail"), strict=False)
    return "; ".join(
        f"pid {pid} {_STUCK.get(why, why).format(detail or 'the kernel').strip()}" for pid, why, detail in told
    )
