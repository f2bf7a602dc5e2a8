"""A plugin for a server that somebody else runs."""

from __future__ import annotations

from tether.drivers.service import Service
from tether.plugins.single import SinglePlugin
from tether.protocol import PluginExecutionMode

__all__ = ["ServicePlugin"]


class ServicePlugin(SinglePlugin):
    """Watches a service, and never ends it.

    Args:
        settings: where it is, and how its health is asked for.
    """

    execution_mode = PluginExecutionMode.EXTERNAL_SERVICE

    def __init__(self, settings: Service) -> None:
        self.settings = settings

    def spec(self) -> Service:
        """Return what is watched."""
        return self.settings
