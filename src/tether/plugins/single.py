"""What the ready-made plugins share: one resource, started and stopped by name."""

from __future__ import annotations

from collections.abc import Callable

from tether.errors import Gone
from tether.model import Spec
from tether.owner.plugin import ManagedPlugin
from tether.owner.resource import Resource

__all__ = ["SinglePlugin"]


class SinglePlugin(ManagedPlugin):
    """A plugin with one resource, which `begin` starts and `end` stops. Subclasses say what it is with `spec`.

    Attributes:
        on_progress: called with a line of text whenever there is something new to say of a start.
    """

    on_progress: Callable[[str], None] | None = None

    def spec(self) -> Spec:
        """Return what is started."""
        raise NotImplementedError

    def begin(self) -> Resource:
        """Start it, or return it if it runs. Returns when it is ready; raises as `Owner.start`."""
        running = self.resources
        return running[0] if running else self.start(self.spec(), on_progress=self.on_progress)

    def end(self, grace: float | None = None) -> None:
        """Stop it, if it runs. Raises as `Resource.stop`."""
        for resource in reversed(self.resources):
            resource.stop(grace)

    @property
    def resource(self) -> Resource:
        """The resource. Raises Gone if it does not run."""
        running = self.resources
        if not running:
            raise Gone(f"plugin {type(self).__name__} runs nothing now; call begin()")
        return running[0]
