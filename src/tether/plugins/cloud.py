"""A plugin that rents a machine, or runs a container or a function in a cloud, for consumers of the cloud-aware protocol too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tether.drivers.cloud import Machine, MachineRef
from tether.drivers.serverless import CloudContainer, CloudFunction
from tether.errors import Busy, DriverUnavailable, SpecError, TetherError
from tether.life.managed import new_id
from tether.model import State
from tether.owner.resource import Resource
from tether.plugins.single import SinglePlugin
from tether.protocol import CloudProviderType, PluginExecutionMode, RemoteResourceInfo

__all__ = ["CloudPlugin"]

_STATUS = {
    State.PENDING: "provisioning",
    State.STARTING: "provisioning",
    State.READY: "running",
    State.STOPPING: "terminating",
    State.LOST: "unknown",
    State.GONE: "terminated",
    State.FAILED: "terminated",
}


class CloudPlugin(SinglePlugin):
    """Rents a machine, a container or a function, or watches a machine that is there.

    Statuses are "not_provisioned", "provisioning", "running", "stopped", "unknown" while the provider can't be asked, "terminating"
    and "terminated".

    Args:
        settings: what to rent, or which one to watch.
    """

    def __init__(self, settings: Machine | MachineRef | CloudContainer | CloudFunction) -> None:
        self.settings = settings
        self._was_provisioned = False
        # A name of its own, so that one that another thread is just renting is found.
        self._name = settings.name or f"{settings.default_name}-{new_id()[:6]}"

    @property
    def execution_mode(self) -> PluginExecutionMode:  # type: ignore[override]
        """Which of the cloud's modes it is: by what was rented, else by what is asked for."""
        resource = self._current()
        if resource is not None and resource.details.get("gpu_count"):
            return PluginExecutionMode.CLOUD_GPU
        return PluginExecutionMode.CLOUD_VM if isinstance(self.settings, MachineRef) else self.settings.mode

    def spec(self) -> Machine | MachineRef | CloudContainer | CloudFunction:
        """Return what is rented."""
        return replace(self.settings, name=self._name)

    def _current(self) -> Resource | None:
        """The machine, also one that is just being rented; None if there is none."""
        if self.resources:
            return self.resources[0]
        if self._owner is None:
            return None
        return next((each for each in self._owner.resources if each.name == self._name), None)

    def begin(self) -> Resource:
        """Rent it, or return it if it is there. Returns when it is ready; raises as `Owner.start`."""
        leaving = self._current()
        if leaving is not None and leaving.state.is_final:
            # Its end is just being put on record; until that is done its name is in use.
            leaving.wait()
        resource = super().begin()
        self._was_provisioned = True
        return resource

    # -- the cloud-aware protocol --------------------------------------------------------------------------------------

    def get_remote_resource_info(self) -> RemoteResourceInfo | None:
        """See `CloudAwarePlugin`: what is known, without asking; None if nothing is rented, or not any more."""
        resource = self._current()
        if resource is None:
            return None
        details = resource.details
        return RemoteResourceInfo(
            provider=_provider_type(str(self.settings.provider)),
            region=details.get("region") or self.settings.region,
            instance_id=details.get("instance_id"),
            endpoint_url=resource.url,
            ssh_host=details.get("ssh_host"),
            ssh_port=details.get("ssh_port", 22),
            status=_status(resource.state, details),
            resource_type=details.get("instance_type") or getattr(self.settings, "type", None),
            gpu_count=details.get("gpu_count", getattr(self.settings, "gpu_count", 0)),
            gpu_type=details.get("gpu") or getattr(self.settings, "gpu", None),
            estimated_cost_per_hour=self._rate(),
            metadata={
                "resource": resource.id,
                "reason": resource.reason,
                **{
                    key: details.get(key)
                    for key in ("lease", "lease_seconds", "spot", "ssh_key", "cost_so_far", "parts")
                },
            },
        )

    def provision_remote_resource(self, **config: Any) -> RemoteResourceInfo:
        """Rent it, with other values for fields of the settings. See `CloudAwarePlugin`.

        Raises:
            Busy: one that was rented with other settings is there.
            SpecError: there is no such field, or it can't have that value.
            StartError: it did not come up; nothing of it is left.
        """
        try:
            settings = replace(self.settings, **config)
        except TypeError as error:
            raise SpecError(f"a {type(self.settings).__name__} has no such field: {error}") from error
        if settings != self.settings and self._current() is not None:
            raise Busy(f"plugin {type(self).__name__} has a machine by other settings; terminate that first")
        self.settings = settings
        if settings.name is not None:
            self._name = settings.name
        self.begin()
        info = self.get_remote_resource_info()
        if info is None:
            raise TetherError(f"plugin {type(self).__name__}: the machine ended at once; see 'tether events'")
        return info

    def check_remote_resource_status(self) -> str:
        """See `CloudAwarePlugin`: the provider is asked now."""
        resource = self._current()
        if resource is None:
            return "terminated" if self._was_provisioned else "not_provisioned"
        managed = resource._managed  # noqa: SLF001 - a resource tells what its watch saw last; this asks
        if managed.handle is None or resource.state is not State.READY:
            return _status(resource.state, resource.details)
        try:
            seen = managed.driver.inspect(managed.handle)
        except DriverUnavailable:
            return "unknown"
        return "stopped" if seen.state is State.LOST and "it is stopp" in seen.reason else _STATUS[seen.state]

    def terminate_remote_resource(self) -> bool:
        """End it; whether nothing of it is left that costs anything. See `CloudAwarePlugin`."""
        resource = self._current()
        if resource is None:
            return True
        try:
            resource.stop()
        except TetherError:
            # It stays on record and is tried again; the lease ends it at the latest.
            return False
        return True

    def estimate_cost(self, duration_hours: float) -> float:
        """See `CloudAwarePlugin`; not a number where the price is not known, so that no sum with it looks known."""
        if not duration_hours >= 0:
            raise SpecError(f"duration_hours={duration_hours!r} must be 0 or more")
        rate = self._rate()
        return float("nan") if rate is None else rate * duration_hours

    def _rate(self) -> float | None:
        resource = self._current()
        rate = None if resource is None else resource.details.get("cost_per_hour")
        return self.settings.cost_per_hour if rate is None else rate

    def force_cleanup(self) -> None:
        """See `LifecycleAwarePlugin`: also one that another thread is just renting."""
        resource = self._current()
        if resource is not None and resource not in self.resources:
            resource.kill()
        super().force_cleanup()


def _status(state: State, details: dict[str, Any]) -> str:
    if state is State.LOST and details.get("provider_status") in ("stopped", "stopping"):
        return "stopped"
    return _STATUS[state]


def _provider_type(name: str) -> CloudProviderType:
    try:
        return CloudProviderType(name)
    except ValueError:
        return CloudProviderType.CUSTOM
