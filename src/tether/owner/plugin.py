"""A base class for plugins, and what keeps an object from being one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tether.errors import TetherError
from tether.protocol import PluginExecutionMode

if TYPE_CHECKING:
    from tether.model import Spec
    from tether.owner.owner import Owner
    from tether.owner.resource import Resource

__all__ = ["ManagedPlugin", "problems"]


class ManagedPlugin:
    """A base class for plugin authors: start resources with ``self.start(spec)``, and the four methods come out right.

    A plugin that is registered with an owner starts them there; one that is not makes an owner of its own.
    """

    execution_mode = PluginExecutionMode.SUBPROCESS
    """What `get_execution_mode` says while the plugin holds nothing; then it is the mode of the first resource."""

    _owner: Owner | None = None
    _own_owner: Owner | None = None
    _started: list[Resource] | None = None

    def bind(self, owner: Owner) -> None:
        """Have what is started from now on belong to ``owner``; `Owner.register` calls this."""
        self._owner = owner

    def start(self, spec: Spec, *, on_progress: Callable[[str], None] | None = None) -> Resource:
        """Start a resource that belongs to this plugin. See `Owner.start`."""
        resource = self.owner.start(spec, on_progress=on_progress)
        self._started = [*self._live(), resource]
        return resource

    @property
    def owner(self) -> Owner:
        """The owner that the plugin is registered with; one of its own is made if there is none."""
        if self._owner is None:
            from tether.owner.owner import Owner

            self._owner = self._own_owner = Owner(type(self).__name__.lstrip("_"))
        return self._owner

    def _live(self) -> list[Resource]:
        return [resource for resource in self._started or [] if not resource.state.is_final]

    @property
    def resources(self) -> list[Resource]:
        """What the plugin started and has not ended."""
        return self._live()

    def get_execution_mode(self) -> PluginExecutionMode:
        """See `LifecycleAwarePlugin`."""
        from tether.life import registry

        live = self._live()
        if not live:
            return self.execution_mode
        modes = registry.driver_class(live[0].kind).modes
        return self.execution_mode if self.execution_mode in modes else next(iter(modes))

    def get_child_pids(self) -> list[int]:
        """See `LifecycleAwarePlugin`: the pid of each resource's command."""
        return [resource.pid for resource in self._live() if resource.pid is not None]

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
        """See `LifecycleAwarePlugin`: kill every resource, the last first; all are tried before errors are raised."""
        errors: list[Exception] = []
        for resource in reversed(self._live()):
            try:
                resource.kill()
            except TetherError as error:
                errors.append(error)
        if self._own_owner is not None:
            self._own_owner.shutdown()
            self._owner = self._own_owner = None
        if errors:
            raise ExceptionGroup(f"plugin {type(self).__name__} could not end all that it holds", errors)


_RETURNS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "get_execution_mode": (
        lambda value: getattr(value, "value", None) in {mode.value for mode in PluginExecutionMode},
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


def _return_problem(method: Any, name: str) -> str:
    fits, wanted = _RETURNS[name]
    try:
        value = method()
    except Exception as error:
        return f"{name}() raised {type(error).__name__}: {error}"
    return "" if fits(value) else f"{name}() returned {value!r}, not {wanted}"


def problems(plugin: Any) -> list[str]:
    """Return what keeps ``plugin`` from being lifecycle-aware, a sentence each; empty if nothing does.

    The three methods that only tell are called; `force_cleanup` is not.
    """
    found = []
    for name in ("get_execution_mode", "get_child_pids", "get_managed_resources", "force_cleanup"):
        method = getattr(plugin, name, None)
        if method is None:
            found.append(f"{name}() is missing")
        elif not callable(method):
            found.append(f"{name} is no method but {method!r}")
        else:
            problem = _signature_problem(method, name)
            if not problem and name in _RETURNS:
                problem = _return_problem(method, name)
            if problem:
                found.append(problem)
    return found
