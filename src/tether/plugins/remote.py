"""A plugin that runs a process on another host, for consumers of the cloud-aware protocol too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tether.drivers.ssh import RemoteProcess
from tether.errors import TetherError
from tether.model import State
from tether.plugins.single import SinglePlugin
from tether.protocol import CloudProviderType, PluginExecutionMode, RemoteResourceInfo

__all__ = ["RemotePlugin"]

_STATUS = {
    State.READY: "running",
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
        """See `CloudAwarePlugin`; None while nothing runs."""
        running = self.resources
        if not running:
            return None
        details = running[0].details
        return RemoteResourceInfo(
            provider=CloudProviderType.CUSTOM,
            instance_id=running[0].id,
            endpoint_url=running[0].url,
            ssh_host=details["ssh_host"],
            ssh_port=details["ssh_port"],
            status=_STATUS.get(running[0].state, running[0].state.value),
            resource_type="process",
            estimated_cost_per_hour=self.cost_per_hour,
            metadata={"user": details["ssh_user"], "pid": details["far_pid"]},
        )

    def provision_remote_resource(self, **config: Any) -> RemoteResourceInfo:
        """Start it, with other values for fields of the settings. Raises as `Owner.start`. See `CloudAwarePlugin`."""
        self.settings = replace(self.settings, **config)
        self.begin()
        info = self.get_remote_resource_info()
        if info is None:
            raise TetherError(f"plugin {type(self).__name__}: the command on {self.settings.host} ended at once")
        return info

    def check_remote_resource_status(self) -> str:
        """See `CloudAwarePlugin`: "running", "unknown" while the host can't be reached, "terminated", or a state of ours."""
        info = self.get_remote_resource_info()
        return "terminated" if info is None else info.status

    def terminate_remote_resource(self) -> bool:
        """End it; whether nothing of it is left. See `CloudAwarePlugin`."""
        try:
            self.end()
        except TetherError:
            # It stays on record and is tried again; the lease ends it at the latest.
            return False
        return True

    def estimate_cost(self, duration_hours: float) -> float:
        """See `CloudAwarePlugin`."""
        return self.cost_per_hour * duration_hours
