"""What an owner answers for beside its resources: plugins, job managers, processes that exist; and who hears of what happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

from tether.errors import SpecError
from tether.guard.line import Guard
from tether.notices import Notice, Telemetry, Watch
from tether.owner.job import Job, Watched
from tether.owner.plugin import ManagedPlugin
from tether.owner.roster import Roster

__all__ = ["Answering"]


class Answering:
    """The part of `tether.Owner` that answers for plugins and tells of events."""

    id: str
    telemetry: Telemetry
    _guard: Guard
    _roster: Roster

    def _check_usable(self) -> None:
        raise NotImplementedError

    def register(
        self,
        plugin: Any = None,
        *,
        name: str | None = None,
        pids: Callable[[], Iterable[int]] | Iterable[int] | None = None,
        cleanup: Callable[[], object] | None = None,
    ) -> Any:
        """Answer for a plugin: any object with the four methods, written by anybody.

        At `shutdown` its `force_cleanup` is called with a time limit, and what it leaves alive is ended and reported.
        If this process dies, the reaper ends the plugin's processes that were seen.

        Args:
            plugin: the plugin; None for what has no such object, a job manager for instance, of which the next two tell.
            name: what to call it; by default the name of its class.
            pids: its pids, or a function that returns those of now.
            cleanup: ends them; by default they are ended by SIGTERM, and by force a moment later.

        Returns:
            The plugin, for `unregister`.

        Raises:
            PluginError: it is not lifecycle-aware, or a method raised or returned nonsense; nothing was registered.
            SpecError: the name is in use, or there is both a plugin and what stands for one.
        """
        self._check_usable()
        if plugin is None and (pids is not None or cleanup is not None):
            plugin = Job(pids, cleanup)
            name = name or self._roster.free_name(plugin.program)
        elif pids is not None or cleanup is not None:
            raise SpecError("pids= and cleanup= are for what is no plugin; a plugin has methods of its own for that")
        if self._roster.add(plugin, name, self._guard.arm) and isinstance(plugin, ManagedPlugin):
            plugin.bind(self)  # type: ignore[arg-type] # every Answering is an Owner
        return plugin

    def unregister(self, plugin: Any) -> None:
        """Answer for a plugin no longer; it is not cleaned up. Raises NotFound."""
        self._roster.remove(plugin)

    @property
    def plugins(self) -> dict[str, Any]:
        """The registered plugins by name."""
        return self._roster.plugins

    def on_change(self, listener: Callable[[Notice], object]) -> Callable[[], None]:
        """Have ``listener`` called with each event from now on; the function that is returned ends that.

        Listeners are called one after the other in a thread of their own, in the order of the events: one may take its time, and
        start, stop or restart resources. `shutdown` waits some seconds for those that are due; a listener that shuts down does not
        wait for itself. One that raises is logged, and keeps nobody from anything.
        """
        return self.telemetry.listen(listener)

    @overload
    def watch(self, process: None = None) -> Watch: ...

    @overload
    def watch(self, process: Any, *, name: str | None = None, grace: float = 5.0) -> Watched: ...

    def watch(self, process: Any = None, *, name: str | None = None, grace: float = 5.0) -> Watch | Watched:
        """Watch events, or a process that exists.

        Without arguments: an iterator of the events from now on, each a `Notice`, that ends when the owner was shut down.

        Args:
            process: a `subprocess.Popen`, anything with a ``pid``, or a pid, of a process below this one: it is answered for from
                now on, as what a plugin starts.
            name: what to call it; by default the program's name.
            grace: seconds from SIGTERM to the end by force, at `shutdown`.

        Raises:
            PluginError: it does not run, or is no process of this app's; nothing was registered.
        """
        if process is None:
            return self.telemetry.watch()
        watched = Watched(process, self.id, grace)
        self.register(watched, name=name or self._roster.free_name(watched.program))
        return watched
