"""A plugin that runs a process on another host, for consumers of the cloud-aware protocol too."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from tether.drivers.ssh import RemoteProcess
from tether.errors import Busy, SpecError, StartError, TetherError
from tether.model import State
from tether.plugins.single import SinglePlugin
from tether.protocol import CloudProviderType, PluginExecutionMode, RemoteResourceInfo

__all__ = ["RemotePlugin"]

_STATUS = {
    State.PENDING: "provisioning",
    State.STARTING: "provisioning",
    State.READY: "running",
    State.STOPPING: "stopping",
    State.LOST: "unknown",
    State.GONE: "terminated",
    State.FAILED: "failed",
}


class RemotePlugin(SinglePlugin):
    """Runs a command on another host.

    Args:
        settings: what to run, and where.
        cost_per_hour: what an hour of the host costs, for `estimate_cost`.
    """

    execution_mode = PluginExecutionMode.REMOTE_SSH

    def __init__(self, settings: RemoteProcess, *, cost_per_hour: float = 0.0) -> None:
        self.settings = settings
        self.cost_per_hour = cost_per_hour

    def spec(self) -> RemoteProcess:
        """Return what is started."""
        return self.settings

    def get_remote_resource_info(self) -> RemoteResourceInfo | None:
        """See `CloudAwarePlugin`; None while nothing runs or starts."""
        running = self.resources
        if not running:
            return None
        # Before it was created there is nothing but the settings to tell.
        details = running[0].details
        return RemoteResourceInfo(
            provider=CloudProviderType.CUSTOM,
            instance_id=running[0].id,
            endpoint_url=running[0].url,
            ssh_host=details.get("ssh_host", self.settings.host),
            ssh_port=details.get("ssh_port", self.settings.port or 22),
            status=_STATUS.get(running[0].state, running[0].state.value),
            resource_type="process",
            estimated_cost_per_hour=self.cost_per_hour,
            metadata={"user": details.get("ssh_user", self.settings.user), "pid": details.get("far_pid")},
        )

    def provision_remote_resource(self, **config: Any) -> RemoteResourceInfo:
        """Start it, with other values for fields of the settings. See `CloudAwarePlugin`.

        Raises:
            SpecError: there is no such field, or its value can't be right; nothing was changed.
            Busy: it runs, with other settings.

        Otherwise as `Owner.start`.
        """
        settings = self._with(config)
        if self.resources and settings != self.settings:
            raise Busy(
                f"plugin {type(self).__name__} runs {self.settings.argv[0]} on {self.settings.host} already, with other "
                "settings; call terminate_remote_resource() first"
            )
        self.settings = settings
        resource = self.begin()
        info = self.get_remote_resource_info()
        if info is None:
            raise StartError(
                f"plugin {type(self).__name__}: the command on {self.settings.host} ended at once: {resource.reason}",
                resource=resource.name,
                exit_code=resource.exit_code,
            )
        return info

    def _with(self, config: dict[str, Any]) -> RemoteProcess:
        known = [each.name for each in fields(self.settings) if each.init]
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise SpecError(f"{', '.join(unknown)}: a RemoteProcess has no such field; it has {', '.join(known)}")
        return replace(self.settings, **config)

    def check_remote_resource_status(self) -> str:
        """See `CloudAwarePlugin`.

        Returns:
            "not_provisioned" before the first start, "provisioning", "running", "unknown" while the host can't be reached,
            "stopping", "terminated", or "failed" if it ended by itself.
        """
        info = self.get_remote_resource_info()
        if info is not None:
            return info.status
        return "not_provisioned" if self.last is None else _STATUS.get(self.last.state, self.last.state.value)

    def terminate_remote_resource(self) -> bool:
        """End it; whether nothing of it is left. See `CloudAwarePlugin`."""
        try:
            self.end()
        except TetherError:
            # It stays on record and is tried again; the lease ends it at the latest.
            return False
        return not self.resources

    def estimate_cost(self, duration_hours: float) -> float:
        """See `CloudAwarePlugin`."""
        return self.cost_per_hour * duration_hours
