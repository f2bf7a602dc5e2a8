"""A plugin that runs commands in a conda environment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tether.drivers.conda import CondaEnv
from tether.owner.resource import Resource
from tether.plugins.single import SinglePlugin
from tether.protocol import PluginExecutionMode
from tether.spec import Process

__all__ = ["CondaPlugin"]


class CondaPlugin(SinglePlugin):
    """Makes or uses a conda environment, and runs commands in it.

    Args:
        settings: the environment.
    """

    execution_mode = PluginExecutionMode.CONDA_ENV

    def __init__(self, settings: CondaEnv) -> None:
        self.settings = settings

    def spec(self) -> CondaEnv:
        """Return the environment."""
        return self.settings

    def run(self, process: Process) -> Resource:
        """Start a process in the environment, which is made first if need be. Raises as `Owner.start`."""
        return self.start(replace(process, env_in=self.begin()), on_progress=self.on_progress)

    def get_managed_resources(self) -> dict[str, Any]:
        """See `LifecycleAwarePlugin`; ``pid`` and ``server_url`` are those of the first process in the environment."""
        shown = super().get_managed_resources()
        inside = [resource for resource in self.resources if resource.kind != CondaEnv.kind]
        if inside:
            shown.update(pid=inside[0].pid, server_url=inside[0].url)
        return shown
