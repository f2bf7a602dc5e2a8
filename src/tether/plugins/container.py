"""A plugin that runs one container."""

from __future__ import annotations

from tether.drivers.container import Container, ContainerRef
from tether.plugins.single import SinglePlugin
from tether.protocol import PluginExecutionMode

__all__ = ["ContainerPlugin"]


class ContainerPlugin(SinglePlugin):
    """Runs a container, or watches one that is there.

    Args:
        settings: what to run, or which one to watch.
    """

    execution_mode = PluginExecutionMode.DOCKER

    def __init__(self, settings: Container | ContainerRef) -> None:
        self.settings = settings

    def spec(self) -> Container | ContainerRef:
        """Return what is started."""
        return self.settings
