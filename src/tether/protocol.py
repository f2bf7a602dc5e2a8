"""The public contract between an app and its plugins. Names and values are fixed.

Everything here is matched by structure: a class that has the methods satisfies the protocol,
whoever wrote it and whether or not it ever imported tether, and a class written for tether satisfies
the like-named protocols of other packages.
"""

from __future__ import annotations

# ``Any``, ``Dict`` and ``List`` are handed on by ``import *``: plugins written from the project's founding
# document annotate their methods with them.
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Dict, List, Protocol, TypeGuard, runtime_checkable  # noqa: UP035

from tether import calls
from tether.errors import PluginError

__all__ = [
    "Any",
    "CloudAwarePlugin",
    "CloudProviderType",
    "Dict",
    "LifecycleAwarePlugin",
    "List",
    "PluginExecutionMode",
    "RemoteResourceInfo",
    "get_all_managed_pids",
    "get_total_estimated_cost",
    "has_active_cloud_resources",
    "is_cloud_aware",
    "is_lifecycle_aware",
]


class _SharedEnum(Enum):
    """An enum of which other packages have one of the same name: members of the same name and value are equal, in both directions.

    Enum has no ``__eq__`` of its own, so that theirs asks ours; and it hashes by the member's name, as this does.
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Enum):
            return NotImplemented
        return self is other or (
            type(other).__name__ == type(self).__name__ and other.name == self.name and other.value == self.value
        )

    def __hash__(self) -> int:
        return hash(self._name_)


class PluginExecutionMode(_SharedEnum):
    """Where a plugin's work runs. Equal to the like-named enum of another package, member by member."""

    IN_PROCESS = "in_process"
    SUBPROCESS = "subprocess"
    DOCKER = "docker"
    CONDA_ENV = "conda_env"
    EXTERNAL_SERVICE = "external"
    REMOTE_SSH = "remote_ssh"
    CLOUD_VM = "cloud_vm"
    CLOUD_CONTAINER = "cloud_container"
    CLOUD_SERVERLESS = "cloud_serverless"
    CLOUD_GPU = "cloud_gpu"
    CLOUD_CPU = "cloud_cpu"
    KUBERNETES = "kubernetes"


class CloudProviderType(_SharedEnum):
    """Who rents the machine out. Equal to the like-named enum of another package, member by member."""

    AWS = "aws"
    GCP = "gcp"
    AZURE = "azure"
    LAMBDA_LABS = "lambda_labs"
    RUNPOD = "runpod"
    VAST_AI = "vast_ai"
    PAPERSPACE = "paperspace"
    TOGETHER_AI = "together_ai"
    CUSTOM = "custom"


@dataclass
class RemoteResourceInfo:
    """What is known of one remote resource. ``None`` says that a thing is not known or does not apply."""

    provider: CloudProviderType
    region: str | None = None
    instance_id: str | None = None
    job_id: str | None = None
    endpoint_url: str | None = None
    ssh_host: str | None = None
    ssh_port: int = 22
    status: str = "unknown"
    resource_type: str | None = None
    gpu_count: int = 0
    gpu_type: str | None = None
    estimated_cost_per_hour: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class LifecycleAwarePlugin(Protocol):
    """A plugin that can say which external resources it holds, and end them."""

    def get_execution_mode(self) -> PluginExecutionMode:
        """Return where this plugin's work runs."""
        ...

    def get_child_pids(self) -> list[int]:
        """Return the pids that this plugin started and that still run; their descendants need not be named."""
        ...

    def get_managed_resources(self) -> dict[str, Any]:
        """Return what the plugin holds, ready for JSON and without secrets."""
        ...

    def force_cleanup(self) -> None:
        """End all that the plugin holds. May be called twice; what is already gone is success."""
        ...


@runtime_checkable
class CloudAwarePlugin(Protocol):
    """A plugin whose work runs on a rented or remote resource."""

    def get_remote_resource_info(self) -> RemoteResourceInfo | None:
        """Return what is known of the resource, or None if none is provisioned."""
        ...

    def provision_remote_resource(self, **config: Any) -> RemoteResourceInfo:
        """Create the resource and return what is known of it."""
        ...

    def check_remote_resource_status(self) -> str:
        """Ask the provider; for instance ``"running"``, ``"stopped"``, ``"provisioning"``."""
        ...

    def terminate_remote_resource(self) -> bool:
        """End the resource so that it costs nothing any more; True if it was ended."""
        ...

    def estimate_cost(self, duration_hours: float) -> float:
        """Return the estimated cost of this many hours, in US dollars."""
        ...


ENDED_REMOTELY = frozenset(
    {"terminated", "terminating", "stopped", "stopping", "deleted", "gone", "failed", "completed", "not_provisioned"}
)
"""Statuses of remote resources that cost nothing any more; every other may, also one that nobody knows."""

_LIFECYCLE_METHODS = ("get_execution_mode", "get_child_pids", "get_managed_resources", "force_cleanup")
_CLOUD_METHODS = (
    "get_remote_resource_info",
    "provision_remote_resource",
    "check_remote_resource_status",
    "terminate_remote_resource",
    "estimate_cost",
)


def is_lifecycle_aware(plugin: Any) -> TypeGuard[LifecycleAwarePlugin]:
    """Say whether ``plugin`` is an object (not a class) with the four methods of `LifecycleAwarePlugin`."""
    return calls.has_methods(plugin, _LIFECYCLE_METHODS)


def get_all_managed_pids(plugin: Any) -> list[int]:
    """List every live pid that ``plugin`` answers for.

    Args:
        plugin: any object.

    Returns:
        The plugin's own pids in its own order, then every live descendant of them, each once. What is not an
        int, not alive or named twice is left out, and so are pid 1, this process and those above it: a plugin
        has started none of them, and what is below them is not its own. ``[]`` for an object that is not
        lifecycle-aware.

    Raises:
        PluginError: ``get_child_pids`` raised, or did not return an iterable.
    """
    return with_descendants(calls.own_pids(plugin)[0]) if is_lifecycle_aware(plugin) else []


def with_descendants(named: list[int]) -> list[int]:
    """Return those of ``named`` that live and can be a plugin's, then every live descendant of them, each once."""
    # The one upward import of the words layer, made when called: the document has `get_all_managed_pids` here.
    from tether.linux import tree

    strangers = {1, *tree.line_of(os.getpid())} if named else set()
    own = [pid for pid in named if pid not in strangers and tree.is_running(pid)]
    return list(dict.fromkeys([*own, *(below for pid in own for below in tree.descendants(pid))]))


def is_cloud_aware(plugin: Any) -> TypeGuard[CloudAwarePlugin]:
    """Say whether ``plugin`` is an object (not a class) with the five methods of `CloudAwarePlugin`."""
    return calls.has_methods(plugin, _CLOUD_METHODS)


def has_active_cloud_resources(plugin: Any) -> bool:
    """Say whether the plugin's remote resource has the status ``"running"``; whatever is false says that there is none.

    Raises:
        PluginError: ``get_remote_resource_info`` raised.
    """
    if not is_cloud_aware(plugin):
        return False
    info = calls.run(plugin, "get_remote_resource_info")
    with calls.blaming(plugin, "get_remote_resource_info"):
        status = getattr(info, "status", None) if info else None
        return bool(getattr(status, "value", status) == "running")


def get_total_estimated_cost(plugins: Iterable[Any], duration_hours: float = 1.0) -> float:
    """Add up what the active cloud resources of ``plugins`` are estimated to cost.

    Args:
        plugins: any objects; those that are not cloud-aware or hold nothing that runs count as 0.
        duration_hours: for how many hours.

    Returns:
        US dollars.

    Raises:
        PluginError: a method of a plugin raised, or an estimate is no number.
    """
    total = 0.0
    for plugin in plugins:
        if has_active_cloud_resources(plugin):
            cost = calls.ask(
                plugin, "estimate_cost", duration_hours, wanted=(int, float), what="a number of US dollars"
            )
            if math.isnan(cost):
                raise PluginError(
                    f"plugin {type(plugin).__name__}: estimate_cost() returned nan, which is no number of US dollars",
                    plugin=type(plugin).__name__,
                    method="estimate_cost",
                )
            total += cost
    return total
