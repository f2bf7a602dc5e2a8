"""tether: nothing that your Python app starts outlives it, unless you said so.

What lies where, imports going downwards only:

    cli/  plugins/  testing/                         faces: what people and other frameworks touch
    aio/                                             front: the same names for asyncio
    owner/                                           one app's resources, from the first start to the last end
    estate/                                          what a dead owner left; by hand, by the next owner, by a guard
    drivers/                                         one folder a kind of resource, found by entry point
    life/                                            one resource's life: the state machine, the supervisor, probes
    guard/                                           what holds trees when the owner can't
    ledger/  linux/  notices.py                      core: the record, questions to the kernel, who is told
    protocol.py  model.py  spec.py  errors.py        words: plain data; calls.py calls plugins for everybody

Names are handed out lazily, so that importing tether costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tether.drivers.cloud import Machine, MachineRef
    from tether.drivers.conda import CondaEnv
    from tether.drivers.container import Container, ContainerRef, HealthCheck, Mount, Network
    from tether.drivers.kubernetes import Pod, PodRef
    from tether.drivers.serverless import CloudContainer, CloudFunction
    from tether.drivers.service import Service
    from tether.drivers.ssh import RemoteProcess
    from tether.errors import (
        Busy,
        DeadlineExceeded,
        DriverUnavailable,
        ExecError,
        Gone,
        LedgerError,
        NotFound,
        PluginError,
        ReaperError,
        SpecError,
        StartError,
        StateDirError,
        TetherError,
    )
    from tether.life.probes import all_of, any_of, call, healthy, http, log, tcp
    from tether.model import Ready, State, Usage
    from tether.notices import Notice
    from tether.owner.budget import Budget
    from tether.owner.marking import apart
    from tether.owner.owner import Owner
    from tether.owner.plugin import ManagedPlugin
    from tether.owner.resource import Resource
    from tether.protocol import (
        CloudAwarePlugin,
        CloudProviderType,
        LifecycleAwarePlugin,
        PluginExecutionMode,
        RemoteResourceInfo,
        get_all_managed_pids,
        get_total_estimated_cost,
        has_active_cloud_resources,
        is_cloud_aware,
        is_lifecycle_aware,
    )
    from tether.spec import Process

__all__ = [
    "Budget",
    "Busy",
    "CloudAwarePlugin",
    "CloudContainer",
    "CloudFunction",
    "CloudProviderType",
    "CondaEnv",
    "Container",
    "ContainerRef",
    "DeadlineExceeded",
    "DriverUnavailable",
    "ExecError",
    "Gone",
    "HealthCheck",
    "LedgerError",
    "LifecycleAwarePlugin",
    "Machine",
    "MachineRef",
    "ManagedPlugin",
    "Mount",
    "Network",
    "NotFound",
    "Notice",
    "Owner",
    "PluginError",
    "PluginExecutionMode",
    "Pod",
    "PodRef",
    "Process",
    "Ready",
    "ReaperError",
    "RemoteProcess",
    "RemoteResourceInfo",
    "Resource",
    "Service",
    "SpecError",
    "StartError",
    "State",
    "StateDirError",
    "TetherError",
    "Usage",
    "all_of",
    "any_of",
    "apart",
    "call",
    "get_all_managed_pids",
    "get_total_estimated_cost",
    "has_active_cloud_resources",
    "healthy",
    "http",
    "is_cloud_aware",
    "is_lifecycle_aware",
    "log",
    "tcp",
]

__version__ = "0.1.0"

_MODULES = {
    "drivers.cloud": "Machine MachineRef",
    "drivers.conda": "CondaEnv",
    "drivers.container": "Container ContainerRef HealthCheck Mount Network",
    "drivers.kubernetes": "Pod PodRef",
    "drivers.serverless": "CloudContainer CloudFunction",
    "drivers.service": "Service",
    "drivers.ssh": "RemoteProcess",
    "errors": (
        "Busy DeadlineExceeded DriverUnavailable ExecError Gone LedgerError NotFound PluginError ReaperError SpecError "
        "StartError StateDirError TetherError"
    ),
    "model": "Ready State Usage",
    "notices": "Notice",
    "owner.marking": "apart",
    "owner.budget": "Budget",
    "owner.owner": "Owner",
    "owner.plugin": "ManagedPlugin",
    "life.probes": "all_of any_of call healthy http log tcp",
    "protocol": (
        "CloudAwarePlugin CloudProviderType LifecycleAwarePlugin PluginExecutionMode RemoteResourceInfo "
        "get_all_managed_pids get_total_estimated_cost has_active_cloud_resources is_cloud_aware is_lifecycle_aware"
    ),
    "owner.resource": "Resource",
    "spec": "Process",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    """Import a public name's module when the name is first asked for (PEP 562)."""
    module = _HOME.get(name)
    if module is None:
        raise AttributeError(f"module 'tether' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"tether.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
