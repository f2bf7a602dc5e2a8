"""A base class for plugins, and what keeps an object from being one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from tether import calls
from tether.errors import PluginError, TetherError, in_words
from tether.protocol import PluginExecutionMode

if TYPE_CHECKING:
    from tether.model import Spec
    from tether.owner.owner import Owner
    from tether.owner.resource import Resource

__all__ = ["ManagedPlugin", "problems"]

_ASK_LIMIT_S = 10.0
"""So long one method may take that is called to see what it returns."""

_REMEMBERED = 20
"""So many resources that have ended a plugin remembers."""


class ManagedPlugin:
    """A base class for plugin authors: start resources with ``self.start(spec)``, and the four methods come out right.

    A plugin that is registered with an owner starts them there; one that is not makes an owner of its own. An orderly
    `Owner.shutdown` ends, or keeps, them by their own specs; `force_cleanup` kills them.
    """

    execution_mode = PluginExecutionMode.SUBPROCESS
    """What `get_execution_mode` says while the plugin holds nothing; then it is the mode of the first resource."""

    _owner: Owner | None = None
    _own_owner: Owner | None = None
    _holds: tuple[Resource, ...] = ()
    _how: Literal["kill", "stop", "leave kept"] = "kill"

    def bind(self, owner: Owner) -> None:
        """Have what is started from now on belong to ``owner``; `Owner.register` calls this."""
        self._owner = owner

    def start(self, spec: Spec, *, on_progress: Callable[[str], None] | None = None) -> Resource:
        """Start a resource that belongs to this plugin. See `Owner.start`.

        The plugin holds it from the moment it is on record, so that its other methods know it during a long start.
        """
        return self.owner.start(spec, on_progress=on_progress, held=self._hold)

    def _hold(self, resource: Resource) -> None:
        # What has ended may come back by its restart(), so the last of them stay.
        ended = [each for each in self._holds if each.state.is_final]
        forgotten = set(map(id, ended[:-_REMEMBERED]))
        self._holds = (*(each for each in self._holds if id(each) not in forgotten), resource)

    @property
    def owner(self) -> Owner:
        """The owner that the plugin is registered with; one of its own is made if there is none."""
        if self._owner is None:
            from tether.owner.owner import Owner

            self._owner = self._own_owner = Owner(type(self).__name__.lstrip("_"))
        return self._owner

    def _live(self) -> list[Resource]:
        return [resource for resource in self._holds if not resource.state.is_final]

    @property
    def resources(self) -> list[Resource]:
        """What the plugin started and has not ended, also what is still starting."""
        return self._live()

    @property
    def last(self) -> Resource | None:
        """What the plugin started last, whether it has ended or not; None if it started nothing yet."""
        return self._holds[-1] if self._holds else None

    def get_execution_mode(self) -> PluginExecutionMode:
        """See `LifecycleAwarePlugin`."""
        from tether.life import registry

        live = self._live()
        if not live:
            return self.execution_mode
        modes = registry.driver_class(live[0].kind).modes
        return self.execution_mode if self.execution_mode in modes else next(iter(modes))

    def get_child_pids(self) -> list[int]:
        """See `LifecycleAwarePlugin`: the whole tree of each resource, its command first."""
        return list(dict.fromkeys(pid for resource in self._live() for pid in resource.pids()))

    def get_managed_resources(self) -> dict[str, Any]:
        """See `LifecycleAwarePlugin`: what consumers look for of the first resource, and each by its name."""
        live = self._live()
        first = live[0] if live else None
        return {
            "server_url": first.url if first else None,
            "is_running": bool(live),
            "pid": first.pid if first else None,
            **(first.details if first else {}),
            "resources": {resource.name: resource.info() for resource in live},
        }

    def force_cleanup(self) -> None:
        """See `LifecycleAwarePlugin`: kill every resource, the last first; all are tried before errors are raised.

        Within an orderly shutdown, when a subclass calls it from its own, they end by their specs instead.
        """
        how = self._how

        def end(resource: Resource) -> None:
            if how == "kill":
                resource.kill()
            elif how == "stop" or resource.on_death != "keep":
                resource.stop()

        self._end_all(end)

    def _end_all(self, end: Callable[[Resource], None]) -> None:
        errors: list[Exception] = []
        for resource in reversed(self._live()):
            try:
                end(resource)
            except TetherError as error:
                errors.append(error)
        if self._own_owner is not None:
            own, self._own_owner = self._own_owner, None
            self._owner = None if self._owner is own else self._owner
            own.shutdown()
        if errors:
            raise ExceptionGroup(f"plugin {type(self).__name__} could not end all that it holds", errors)

    @property
    def _has_own_cleanup(self) -> bool:
        return type(self).force_cleanup is not ManagedPlugin.force_cleanup

    def patience(self) -> float:
        """Return how many seconds its resources may take to end politely, one after another."""
        return sum(float(resource.spec.stop_grace) for resource in self._live())

    def clean_up_politely(self, clean_up: Callable[[], object]) -> None:
        """Take part in the orderly shutdown of its owner, which calls this.

        What it runs is left to the owner, who ends it by its spec and after what needs it; a cleanup of the subclass's own is
        called (as ``clean_up()``) before that, and ends it politely where it asks for its end.
        """
        if type(self).force_cleanup is not ManagedPlugin.force_cleanup:
            self._clean_up_so("leave kept", clean_up)
        if self._own_owner is not None:
            # It was begun before it was registered.
            self._own_owner.shutdown()

    def end_politely(self, clean_up: Callable[[], object]) -> None:
        """End all that the plugin runs by its specs, while its owner goes on; a cleanup of the subclass's own takes part."""
        self._clean_up_so("stop", clean_up)

    def _clean_up_so(self, how: Literal["stop", "leave kept"], clean_up: Callable[[], object]) -> None:
        self._how = how
        try:
            clean_up()
        finally:
            self._how = "kill"


_RETURNS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "get_execution_mode": (
        lambda value: getattr(value, "value", None) in [mode.value for mode in PluginExecutionMode],
        "a PluginExecutionMode",
    ),
    "get_child_pids": (
        lambda value: isinstance(value, list) and all(type(pid) is int for pid in value),
        "a list of int",
    ),
    "get_managed_resources": (
        lambda value: isinstance(value, dict) and all(isinstance(key, str) for key in value),
        "a dict with str keys",
    ),
}
"""What calling a method shows; `force_cleanup` is not called, since it ends things."""


def _signature_problem(method: Any, name: str) -> str:
    try:
        inspect.signature(method).bind()
    except TypeError as error:
        return f"{name}() can't be called without arguments: {error}"
    except ValueError:
        # A built-in without a signature; calling it will tell.
        return ""
    return f"{name}() is a coroutine function: it must be a plain one" if inspect.iscoroutinefunction(method) else ""


def _return_problem(plugin: Any, method: Any, name: str) -> str:
    fits, wanted = _RETURNS[name]
    try:
        value = calls.within(_ASK_LIMIT_S, plugin, name, method)
    except calls.TimedOut:
        return f"{name}() did not return within {_ASK_LIMIT_S:g} s"
    except PluginError as error:
        cause = error.__cause__ or error
        return f"{name}() raised {type(cause).__name__}: {in_words(cause)}"
    if inspect.iscoroutine(value):
        value.close()
    try:
        is_right = fits(value)
    except Exception:
        # It raises when it is looked at: whatever it is, it is not what is wanted.
        is_right = False
    return "" if is_right else f"{name}() returned {calls.shown(value)}, not {wanted}"


def problems(plugin: Any) -> list[str]:
    """Return what keeps ``plugin`` from being lifecycle-aware, a sentence each; empty if nothing does.

    The three methods that only tell are called; `force_cleanup` is not.
    """
    found = []
    for name in ("get_execution_mode", "get_child_pids", "get_managed_resources", "force_cleanup"):
        try:
            method = getattr(plugin, name, None)
        except Exception as error:
            found.append(f"{name} is a property that raises {type(error).__name__}: {in_words(error)}")
            continue
        if method is None:
            found.append(f"{name}() is missing")
        elif not callable(method):
            found.append(f"{name} is no method but {calls.shown(method)}")
        else:
            problem = _signature_problem(method, name)
            if not problem and name in _RETURNS:
                problem = _return_problem(plugin, method, name)
            if problem:
                found.append(problem)
    return found
