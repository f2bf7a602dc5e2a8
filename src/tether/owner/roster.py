"""The plugins of an owner: registered, looked at, and cleaned up at the end."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from tether.errors import DeadlineExceeded, NotFound, PluginError, SpecError
from tether.ledger.writer import Writer
from tether.life.managed import new_id
from tether.linux import identity, members, proc, tree
from tether.model import Handle, State, check_name
from tether.owner.plugin import problems
from tether.protocol import PluginExecutionMode, get_all_managed_pids, is_lifecycle_aware

__all__ = ["Registered", "Roster"]

_CLEANUP_LIMIT_S = 10.0
_END_LIMIT_S = 5.0


class Registered:
    """A plugin that was registered with an owner, and the processes of its that were seen.

    Only what is provably the app's counts: a descendant of this process, or one with the owner's tag. A pid
    that a plugin names from a stale file is nobody's to end.
    """

    def __init__(self, plugin: Any, name: str, tag: str, owner: str) -> None:
        if not is_lifecycle_aware(plugin):
            said = "; ".join(problems(plugin)) if not isinstance(plugin, type) else "it is a class, not an object"
            raise PluginError(
                f"plugin {name} is not lifecycle-aware: {said}; nothing was registered", plugin=type(plugin).__name__
            )
        self.plugin = plugin
        self.name = name
        self.tag = tag
        self._owner = owner
        self.seen: set[tuple[int, int]] = set()

    @property
    def mode(self) -> str:
        """The value of its execution mode."""
        return str(self.call("get_execution_mode").value)

    def call(self, method: str) -> Any:
        """Call one of the plugin's methods. Raises PluginError if it raises."""
        try:
            return getattr(self.plugin, method)()
        except Exception as error:
            raise PluginError.in_method(self.plugin, method, error) from error

    def look(self) -> list[int]:
        """Return the plugin's live pids, and remember those that are provably the app's. Raises PluginError."""
        pids = get_all_managed_pids(self.plugin)
        if pids and self.mode != PluginExecutionMode.EXTERNAL_SERVICE.value:
            ours = set(tree.descendants(os.getpid()))
            # A plugin that names the app itself does not mean all that the app ever started.
            named = set(self.call("get_child_pids")) & set(pids) - tree.line_of(os.getpid())
            for pid in named.union(*map(tree.descendants, named)):
                stat = proc.read_stat(pid)
                if stat is not None and (pid in ours or members.carries(proc.environ(pid), {self._owner})):
                    self.seen.add((pid, stat.start))
        return pids

    def marks(self) -> members.Marks:
        """By what this plugin's processes are recognised."""
        return members.Marks(self.seen, exclude=tree.line_of(os.getpid()))


class Roster:
    """All plugins of one owner.

    Args:
        owner: the owner's id.
        ledger: where the plugins and their processes are recorded.
        note: told of what plugins leave behind: what, and the detail.
    """

    def __init__(self, owner: str, ledger: Writer, note: Callable[[str, str], None]) -> None:
        self._owner = owner
        self._ledger = ledger
        self._note = note
        self._lock = threading.Lock()
        self._registered: list[Registered] = []

    def add(self, plugin: Any, name: str | None, arm: Callable[[], Any]) -> bool:
        """Register a plugin, once ``arm()`` has seen to its guard; False if it is registered already.

        Raises:
            PluginError: it is not lifecycle-aware, or a method raised.
            SpecError: the name is no name, or in use.
        """
        chosen = check_name(name or type(plugin).__name__.lstrip("_"), "a plugin")
        registered = Registered(plugin, chosen, new_id(), self._owner)
        registered.look()
        with self._lock:
            if any(each.plugin is plugin for each in self._registered):
                return False
            if any(each.name == chosen for each in self._registered):
                raise SpecError(f"a plugin {chosen} is registered already; give this one another name=")
            arm()
            spec = {"type": type(plugin).__qualname__}
            self._ledger.add_resource(registered.tag, self._owner, chosen, "plugin", spec, "kill", 0)
            self._registered.append(registered)
        self._record(registered)
        return True

    def remove(self, plugin: Any) -> None:
        """Forget a plugin. Raises NotFound."""
        with self._lock:
            for registered in self._registered:
                if registered.plugin is plugin:
                    self._registered.remove(registered)
                    self._end_record(registered, "unregistered")
                    return
        raise NotFound(f"plugin {type(plugin).__name__} is not registered")

    @property
    def plugins(self) -> dict[str, Any]:
        """The plugins by name."""
        return {registered.name: registered.plugin for registered in self._registered}

    def _record(self, registered: Registered) -> None:
        data = {"boot": identity.boot_id(), "pids": sorted(registered.seen), "uid": os.getuid(), "owner": self._owner}
        self._ledger.write(registered.tag, 1, State.READY, [], handle=Handle("plugin", registered.tag, data))
        self._ledger.flush()

    def _end_record(self, registered: Registered, why: str) -> None:
        self._ledger.write(registered.tag, 1, State.GONE, [("gone", why)], reason=why)
        self._ledger.flush()

    def _look(self, registered: Registered) -> list[int]:
        before = len(registered.seen)
        pids = registered.look()
        if len(registered.seen) != before:
            self._record(registered)
        return pids

    def pids(self) -> list[int]:
        """Return the live pids of all plugins; new ones are put on record as they are seen. Raises PluginError."""
        return [pid for registered in self._registered for pid in self._look(registered)]

    def status(self) -> list[dict[str, Any]]:
        """Return what there is to say of each plugin, ready for JSON; one that raises is reported in its place."""
        return [self._status(registered) for registered in self._registered]

    def _status(self, registered: Registered) -> dict[str, Any]:
        status: dict[str, Any] = {
            "name": registered.name,
            "type": type(registered.plugin).__qualname__,
            "mode": None,
            "pids": [],
            "resources": None,
            "error": None,
        }
        try:
            status["mode"] = registered.mode
            status["pids"] = self._look(registered)
            # What JSON can't hold is shown as text.
            status["resources"] = json.loads(json.dumps(registered.call("get_managed_resources"), default=str))
        except PluginError as error:
            status["error"] = str(error)
        return status

    def clean_up(self) -> list[Exception]:
        """Have every plugin clean up, the last registered first, and end what they leave. Returns what went wrong."""
        errors = [error for registered in reversed(self._registered) for error in self._clean_up(registered)]
        self._registered.clear()
        return errors

    def _clean_up(self, registered: Registered) -> Iterable[Exception]:
        with suppress(PluginError):
            self._look(registered)
        errors: list[Exception] = []

        def clean() -> None:
            try:
                registered.call("force_cleanup")
            except PluginError as error:
                errors.append(error)

        thread = threading.Thread(target=clean, name=f"tether-clean-{registered.name}", daemon=True)
        thread.start()
        thread.join(_CLEANUP_LIMIT_S)
        if thread.is_alive():
            errors.append(
                PluginError(
                    f"plugin {registered.name}: force_cleanup() did not return within {_CLEANUP_LIMIT_S:g} s; "
                    "what it had started was ended without it",
                    plugin=type(registered.plugin).__name__,
                    method="force_cleanup",
                )
            )
        yield from self._end_left_behind(registered)
        self._end_record(registered, "cleaned up")
        yield from errors

    def _end_left_behind(self, registered: Registered) -> Iterable[Exception]:
        marks = registered.marks()
        left = members.find(marks)
        if not left:
            return
        pids = ", ".join(f"pid {pid}" for pid, _ in left)
        self._note("left behind", f"plugin {registered.name} left {pids}; ended here")
        stuck = members.end(marks, _END_LIMIT_S)
        if stuck:
            yield DeadlineExceeded(f"plugin {registered.name}: {len(stuck)} processes were killed and are still there")
