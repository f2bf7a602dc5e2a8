"""The public contract between an app and its plugins. Names and values are fixed.

Everything here is matched by structure: a class that has the methods satisfies the protocol,
whoever wrote it and whether or not it ever imported tether, and a class written for tether satisfies
the like-named protocols of other packages.
"""

from __future__ import annotations

# ``Any``, ``Dict`` and ``List`` are handed on by ``import *``: plugins written from the project's founding
# document annotate their methods with them.
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Dict, List, Protocol, TypeGuard, runtime_checkable  # noqa: UP035

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


class PluginExecutionMode(Enum):
    """Where a plugin's work runs. Compare by ``value``: other packages have an enum of the same shape."""

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


class CloudProviderType(Enum):
    """Who rents the machine out."""

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


_LIFECYCLE_METHODS = ("get_execution_mode", "get_child_pids", "get_managed_resources", "force_cleanup")


def is_lifecycle_aware(plugin: Any) -> TypeGuard[LifecycleAwarePlugin]:
    """Say whether ``plugin`` is an object (not a class) with the four methods of `LifecycleAwarePlugin`."""
    return (
        not isinstance(plugin, type)
        and isinstance(plugin, LifecycleAwarePlugin)
        and all(callable(getattr(plugin, name, None)) for name in _LIFECYCLE_METHODS)
    )


def get_all_managed_pids(plugin: Any) -> list[int]:
    """List every live pid that ``plugin`` answers for.

    Args:
        plugin: any object.

    Returns:
        The plugin's own pids in its own order, then every live descendant of them, each once. What is not an
        int, not alive or named twice is left out. ``[]`` for an object that is not lifecycle-aware.

    Raises:
        PluginError: ``get_child_pids`` raised, or did not return an iterable.
    """
    # The one upward import of the words layer, made when called: the document has this function here.
    from tether.linux import tree

    if not is_lifecycle_aware(plugin):
        return []
    try:
        named = list(plugin.get_child_pids())
    except Exception as error:
        raise PluginError.in_method(plugin, "get_child_pids", error) from error
    own = [pid for pid in dict.fromkeys(named) if type(pid) is int and tree.is_running(pid)]
    return list(dict.fromkeys([*own, *(below for pid in own for below in tree.descendants(pid))]))


def is_cloud_aware(plugin: Any) -> TypeGuard[CloudAwarePlugin]:
    """Say whether ``plugin`` is an object (not a class) with the five methods of `CloudAwarePlugin`."""
    return not isinstance(plugin, type) and isinstance(plugin, CloudAwarePlugin)


def has_active_cloud_resources(plugin: Any) -> bool:
    """Say whether the plugin's remote resource has the status ``"running"``.

    Raises:
        PluginError: ``get_remote_resource_info`` raised.
    """
    if not is_cloud_aware(plugin):
        return False
    try:
        info = plugin.get_remote_resource_info()
    except Exception as error:
        raise PluginError.in_method(plugin, "get_remote_resource_info", error) from error
    return info is not None and info.status == "running"


def get_total_estimated_cost(plugins: Iterable[Any], duration_hours: float = 1.0) -> float:
    """Add up what the active cloud resources of ``plugins`` are estimated to cost.

    Args:
        plugins: any objects; those that are not cloud-aware or hold nothing that runs count as 0.
        duration_hours: for how many hours.

    Returns:
        US dollars.

    Raises:
        PluginError: a method of a plugin raised.
    """
    total = 0.0
    for plugin in plugins:
        if has_active_cloud_resources(plugin):
            try:
                total += plugin.estimate_cost(duration_hours)
            except Exception as error:
                raise PluginError.in_method(plugin, "estimate_cost", error) from error
    return total
