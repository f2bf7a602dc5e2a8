"""One plugin of an owner: what of it was seen, what it rents, and how it is cleaned up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tether import calls
from tether.errors import DeadlineExceeded, PluginError
from tether.linux import members, proc, tree
from tether.owner.plugin import ManagedPlugin, problems
from tether.protocol import ENDED_REMOTELY, PluginExecutionMode, is_cloud_aware, is_lifecycle_aware, with_descendants

__all__ = ["Held", "Registered"]

_END_LIMIT_S = 5.0
_LOOK_LIMIT_S = 5.0
_TERMINATE_LIMIT_S = 60.0


@dataclass(frozen=True)
class Held:
    """What tether itself holds for an owner, and ends by its spec: it is no plugin's, whoever names it.

    Attributes:
        guard: the pid of what the trees are below of; None if nothing was started.
        tags: the ids of the live resources.
    """

    guard: int | None = None
    tags: frozenset[str] = frozenset()


class Registered:
    """A plugin that was registered with an owner, and the processes of its that were seen.

    Only what is provably the app's counts: a descendant of this process, or one with the owner's tag. A pid
    that a plugin names from a stale file is nobody's to end.

    Attributes:
        plugin, name, tag: fixed.
        seen: pid and start time of the processes that were seen to be its own, and live.
        remote: what it rents, as it said last; None if nothing.
        trouble: what was wrong when it was last asked, in a sentence; empty if nothing was.
        over: whether its end is on record, so that a look that was still on its way records nothing more.
    """

    def __init__(self, plugin: Any, name: str, tag: str, owner: str, held: Callable[[], Held] = Held) -> None:
        if not is_lifecycle_aware(plugin):
            said = "; ".join(problems(plugin)) if not isinstance(plugin, type) else "it is a class, not an object"
            raise PluginError(
                f"plugin {name} is not lifecycle-aware: {said}; nothing was registered", plugin=type(plugin).__name__
            )
        self.plugin = plugin
        self.name = name
        self.tag = tag
        self.seen: set[tuple[int, int]] = set()
        self.remote: dict[str, Any] | None = None
        self.trouble = ""
        self.over = False
        self._owner = owner
        self._held = held
        self._mode = ""
        self._busy: dict[str, tuple[threading.Thread, float]] = {}
        self._cleaning: threading.Thread | None = None

    @property
    def starts_by_itself(self) -> bool:
        """Whether it may start what tether does not start for it, so that one must look."""
        kind = type(self.plugin)
        return not isinstance(self.plugin, ManagedPlugin) or kind.get_child_pids is not ManagedPlugin.get_child_pids

    # -- what it says --------------------------------------------------------------------------------------------------

    def status(self) -> tuple[dict[str, Any], list[str]]:
        """Return what there is to say of it, ready for JSON, and what was wrong; each method has its time limit."""
        said: dict[str, Any] = {"mode": None, "pids": [], "resources": None, "remote": None}
        asked: tuple[tuple[str, str, Callable[[], Any]], ...] = (
            ("mode", "get_execution_mode", self.mode),
            ("pids", "get_child_pids", self.look),
            ("resources", "get_managed_resources", lambda: calls.resources(self.plugin)),
            ("remote", "get_remote_resource_info", self.look_at_remote),
        )
        wrong = []
        for key, method, ask in asked:
            try:
                said[key] = self._in_time(_LOOK_LIMIT_S, method, ask)
            except PluginError as error:
                wrong.append(str(error))
        if self.trouble and not any("get_child_pids" in each for each in wrong):
            wrong.append(self.trouble)
        return said, wrong

    def mode(self) -> str:
        """Return the value of its execution mode. Raises PluginError."""
        self._mode = calls.mode_value(self.plugin)
        return self._mode

    def look_at_remote(self) -> dict[str, Any] | None:
        """Return what it rents, ready for JSON; None if that is nothing. Raises PluginError."""
        if not is_cloud_aware(self.plugin):
            return None
        info = calls.run(self.plugin, "get_remote_resource_info")
        with calls.blaming(self.plugin, "get_remote_resource_info"):
            shown = calls.plain(info) if info else None
            if shown is not None and not isinstance(shown, dict):
                shown = {"status": calls.plain(getattr(info, "status", "unknown")), "said": shown}
        self.remote = shown
        return shown

    def look(self) -> list[int]:
        """Return its live pids, and remember those that are provably the app's. Raises PluginError."""
        named, odd = calls.own_pids(self.plugin)
        said = f"plugin {self.name}: get_child_pids() names what is no pid: {calls.shown(odd)}"
        self.trouble = said if odd else ""
        pids = with_descendants(named)
        if self._mode != PluginExecutionMode.EXTERNAL_SERVICE.value:
            # A plugin that names the app itself does not mean all that the app ever started.
            self.seen |= set(self._provably_ours(pids)) if pids else set()
        self.seen = {(pid, start) for pid, start in self.seen if _lives(pid, start)}
        return list(dict.fromkeys([*pids, *sorted(pid for pid, _ in self.seen)]))

    def _provably_ours(self, pids: list[int]) -> Iterator[tuple[int, int]]:
        held = self._held()
        ours = set(tree.descendants(os.getpid()))
        if held.guard is not None:
            ours -= {held.guard, *tree.descendants(held.guard)}
        for pid in pids:
            stat = proc.read_stat(pid)
            if stat is None or not stat.running:
                continue
            marks = b"" if pid in ours else proc.environ(pid)
            tagged = members.carries(marks, {self._owner}) and not members.carries(marks, set(held.tags))
            if pid in ours or tagged:
                yield pid, stat.start

    def look_in_time(self, *, remote: bool) -> None:
        """Look, in a thread of its own with a time limit; one that is still in an earlier call is not asked again.

        Raises PluginError.
        """
        with suppress(PluginError):
            self._in_time(_LOOK_LIMIT_S, "get_execution_mode", self.mode)
        self.pids_in_time()
        if remote:
            self._in_time(_LOOK_LIMIT_S, "get_remote_resource_info", self.look_at_remote)

    def pids_in_time(self) -> list[int]:
        """Return what `look` does, in a thread of its own with a time limit. Raises PluginError."""
        pids: list[int] = self._in_time(_LOOK_LIMIT_S, "get_child_pids", self.look)
        return pids

    def _in_time(self, limit_s: float, method: str, call: Callable[[], Any]) -> Any:
        busy, due = self._busy.get(method, (None, 0.0))
        if busy is not None:
            # Somebody else asks it just now; what has had its time is waited for no longer.
            busy.join(max(0.0, due - time.monotonic()))
        if busy is not None and busy.is_alive():
            raise PluginError(
                f"plugin {self.name}: {method}() has not returned yet from an earlier call",
                plugin=type(self.plugin).__name__,
                method=method,
            )

        def begun(thread: threading.Thread) -> None:
            self._busy[method] = thread, time.monotonic() + limit_s

        return calls.within(limit_s, self.plugin, method, call, begun)

    # -- its end -------------------------------------------------------------------------------------------------------

    def clean_up(self, limit_s: float, note: Callable[[str, str], None]) -> list[Exception]:
        """Have it clean up in the orderly shutdown of its owner, and end what it leaves; return what went wrong.

        May be called again, also after an interrupt. What a `ManagedPlugin` runs is left to the owner, who ends it by its spec.

        Args:
            limit_s: how long its `force_cleanup` may take; a `ManagedPlugin` has the graces of its specs besides.
            note: told of what it leaves: what, and the detail.
        """
        plugin = self.plugin
        if not isinstance(plugin, ManagedPlugin):
            return self._clean_up(limit_s, note, lambda: calls.run(plugin, "force_cleanup"))
        return self._clean_up(
            limit_s + plugin.patience(),
            note,
            lambda: plugin.clean_up_politely(lambda: calls.run(plugin, "force_cleanup")),
        )

    def clean_up_for(self, limit_s: float, note: Callable[[str, str], None], *, force: bool) -> list[Exception]:
        """As `clean_up`, while the owner goes on: what a `ManagedPlugin` runs ends now, by its specs or (``force``) at once."""
        plugin = self.plugin
        if not isinstance(plugin, ManagedPlugin) or force:
            return self._clean_up(limit_s, note, lambda: calls.run(plugin, "force_cleanup"))
        return self._clean_up(
            limit_s + plugin.patience(), note, lambda: plugin.end_politely(lambda: calls.run(plugin, "force_cleanup"))
        )

    def _clean_up(
        self, limit_s: float, note: Callable[[str, str], None], clean: Callable[[], object]
    ) -> list[Exception]:
        with suppress(PluginError):
            if self.starts_by_itself:
                self.look_in_time(remote=False)
        errors: list[Exception] = []
        try:
            self._call_cleanup(limit_s, clean)
        except PluginError as error:
            errors.append(error)
        return [*errors, *self._end_remote(note), *self._end_left_behind(note)]

    def _call_cleanup(self, limit_s: float, clean: Callable[[], object]) -> None:
        earlier = self._cleaning
        if earlier is not None:
            # A call that was interrupted, or took too long, went on in its thread: it is not called twice at once.
            earlier.join(limit_s)
            if not earlier.is_alive():
                self._cleaning = None
                return
            raise self._too_slow(limit_s)

        def begun(thread: threading.Thread) -> None:
            self._cleaning = thread

        try:
            calls.within(limit_s, self.plugin, "force_cleanup", clean, begun)
        except calls.TimedOut:
            raise self._too_slow(limit_s) from None
        except PluginError:
            self._cleaning = None
            raise
        self._cleaning = None

    def _too_slow(self, limit_s: float) -> PluginError:
        return PluginError(
            f"plugin {self.name}: force_cleanup() did not return within {limit_s:g} s; "
            "what it had started was ended without it",
            plugin=type(self.plugin).__name__,
            method="force_cleanup",
        )

    def _end_remote(self, note: Callable[[str, str], None]) -> Iterable[Exception]:
        """Have what it rents terminated, if its cleanup left that running."""
        if not is_cloud_aware(self.plugin) or isinstance(self.plugin, ManagedPlugin):
            return
        try:
            before = self._in_time(_LOOK_LIMIT_S, "get_remote_resource_info", self.look_at_remote)
            if not _runs(before):
                return
            ended = self._in_time(
                _TERMINATE_LIMIT_S,
                "terminate_remote_resource",
                lambda: calls.run(self.plugin, "terminate_remote_resource"),
            )
            after = self._in_time(_LOOK_LIMIT_S, "get_remote_resource_info", self.look_at_remote)
        except PluginError as error:
            yield self._still_rented(str(error))
            return
        if ended:
            what = f"{_described(before)}, which its cleanup had left"
            note("terminated", f"plugin {self.name}: {what}; terminate_remote_resource() says that it has ended")
            if _runs(after):
                note("left behind", f"plugin {self.name}: {_described(after)} after that; look at its provider")
        elif _runs(after):
            yield self._still_rented("terminate_remote_resource() says that it could not end it")

    def _still_rented(self, why: str) -> PluginError:
        return PluginError(
            f"plugin {self.name}: {_described(self.remote)} after its cleanup: {why}; it may cost money: end it at its provider",
            plugin=type(self.plugin).__name__,
            method="terminate_remote_resource",
        )

    def _end_left_behind(self, note: Callable[[str, str], None]) -> Iterable[Exception]:
        marks = self.marks()
        left = members.find(marks) if self.seen else []
        if left:
            pids = ", ".join(f"pid {pid}" for pid, _ in left)
            note("left behind", f"plugin {self.name} left {pids}; ended here")
            stuck = members.end(marks, _END_LIMIT_S)
            if stuck:
                yield DeadlineExceeded(f"plugin {self.name}: {len(stuck)} processes were killed and are still there")
        self.seen = {(pid, start) for pid, start in self.seen if _lives(pid, start)}

    def marks(self) -> members.Marks:
        """By what this plugin's processes are recognised."""
        held = self._held()
        guard = () if held.guard is None else (held.guard, *tree.descendants(held.guard))
        return members.Marks(self.seen, exclude={*tree.line_of(os.getpid()), *guard})


def _lives(pid: int, start: int) -> bool:
    stat = proc.read_stat(pid)
    return stat is not None and stat.start == start and stat.running


def _runs(remote: dict[str, Any] | None) -> bool:
    """Whether what is rented may cost money: what is not known to have ended may."""
    return remote is not None and str(remote.get("status", "unknown")).lower() not in ENDED_REMOTELY


def _described(remote: dict[str, Any] | None) -> str:
    """What is rented, in words."""
    if remote is None:
        return "what it rents is not known"
    names = ("resource_type", "instance_id", "job_id", "endpoint_url", "ssh_host")
    words = [str(remote[name]) for name in names if remote.get(name)]
    where = f" at {remote['provider']}" if remote.get("provider") else ""
    return (
        f"its remote resource {' '.join(words)}".rstrip()
        + f"{where} has the status {remote.get('status', 'unknown')!r}"
    )
