"""A plugin that runs one pod."""

from __future__ import annotations

from tether.drivers.kubernetes import Pod, PodRef
from tether.plugins.single import SinglePlugin
from tether.protocol import PluginExecutionMode

__all__ = ["PodPlugin"]


class PodPlugin(SinglePlugin):
    """Runs a pod, or watches one that is there.

    Args:
        settings: what to run, or which one to watch.
    """

    execution_mode = PluginExecutionMode.KUBERNETES

    def __init__(self, settings: Pod | PodRef) -> None:
        self.settings = settings

    def spec(self) -> Pod | PodRef:
        """Return what is started."""
        return self.settings
