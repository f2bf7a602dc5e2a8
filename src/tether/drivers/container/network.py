"""A network that several containers share, as a resource: it ends with its owner, after them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tether.drivers import Context
from tether.drivers.container import address, limits, marks, removal
from tether.drivers.container.engine import Absent, Engine, Engines
from tether.errors import DriverUnavailable, Gone, NotCreated, SpecError, StartError, require_extra
from tether.ledger.orphans import owner_mark
from tether.life.machine import Ended
from tether.linux import faults
from tether.model import Handle, OnDeath, Progress, State, Status, Usage
from tether.protocol import PluginExecutionMode
from tether.spec import SpecBase

__all__ = ["Network", "NetworkDriver"]

_VERSION = 1


@dataclass(frozen=True, repr=False)
class Network(SpecBase):
    """A network of a container engine, which is made, and goes with its owner.

    Start it, and hand the resource to containers: ``Container(..., network=net, aliases=["db"])``. They find each other
    by these names.

    Args:
        name: what it is called here; at the engine it has a name of its own.
        driver: of the network, as the engine calls it.
        internal: whether nothing outside of it can be reached from it.
        options: of the network's driver.
        engine: as for `Container`.
        on_death, keep_for, needs: as for `Process`.
    """

    name: str | None = None
    driver: str = "bridge"
    internal: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    engine: str | None = None
    needs: Sequence[str] | None = None
    on_death: OnDeath | None = None
    keep_for: float = 3600.0
    stop_grace: float = field(default=0.0, init=False)
    ready: None = field(default=None, init=False)
    kind: str = field(default="network", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right."""
        require_extra("docker", "docker", "a Network")
        if not isinstance(self.driver, str) or not self.driver:
            raise SpecError(f"driver={self.driver!r} is no driver of networks")
        self._check_common()

    @property
    def stays_up(self) -> bool:
        """It is expected to stay."""
        return True

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger."""
        return {"driver": self.driver, "internal": self.internal, "stop_grace": 0.0, "stays_up": True}


class NetworkDriver:
    """See `tether.drivers.Driver`. The handle has the engine's address, and the network's name and id there."""

    kind: ClassVar[str] = "network"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.DOCKER})
    has_pids: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self._engines = Engines()

    def close(self) -> None:
        """Close all connections. See `tether.drivers.HasConnections`."""
        self._engines.close()

    def plan(self, spec: Network, tag: str) -> Handle:
        """Say which engine will have it, under which name. See `HasPlan`."""
        name = marks.name_of(spec.name or spec.default_name, tag)
        data = {**address.find(spec.engine).record(), "networks": [name], "volumes": [], "network": name}
        return Handle(self.kind, tag, data, _VERSION)

    def start(self, spec: Network, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Make it.

        Raises:
            NotCreated: the engine does not answer: nothing was created.
            StartError: the engine refused.

        Crash:
            It is found by its label and name, at the engine that the plan names.
        """
        plan = self.plan(spec, tag)
        engine = self._engines.of(plan.data)
        failed = f"cannot start {spec.name or 'a network'}"
        try:
            with engine.asked(limits.SUBSCRIBE_S) as client:
                client.ping()
        except (DriverUnavailable, Absent) as error:
            raise NotCreated(f"{failed}: {error}", resource=spec.name or tag) from error
        progress("creating the network")
        faults.point("start.making")
        try:
            with engine.asked(limits.WORK_S) as client:
                made = client.create_network(
                    plan.data["network"],
                    driver=spec.driver,
                    internal=spec.internal,
                    options=dict(spec.options) or None,
                    labels={
                        marks.RESOURCE: tag,
                        marks.OWNER: self._context.owner,
                        marks.IDENTITY: owner_mark(self._context.state_dir),
                    },
                )["Id"]
        except (DriverUnavailable, Absent) as error:
            raise StartError(f"{failed}: {error}", resource=spec.name or tag) from error
        return Handle(self.kind, tag, {**plan.data, "id": made}, _VERSION)

    def find(self, tag: str) -> list[Handle]:
        """Look at the engine in use here for what carries the tag, and is ours."""
        data = {**self._engines.in_use().address.record(), "volumes": []}
        found = marks.find(self._engines.of(data), Handle(self.kind, tag, data, _VERSION))
        return [Handle(self.kind, tag, {**data, "id": each}, _VERSION) for each in found.networks]

    def inspect(self, handle: Handle) -> Status:
        """Ask the engine."""
        found = marks.find(self._engines.of(handle.data), handle)
        return Status(State.READY if found.networks else State.GONE)

    def details(self, handle: Handle) -> dict[str, Any]:
        """Return its name at the engine, which containers are given."""
        data = handle.data
        return {"network": data.get("network"), "network_id": data.get("id"), "engine": data["engine"]}

    def adopt(self, handle: Handle, fence: int) -> int | None:
        """Take over a kept network: the ledger's fence is the fence. See `tether.drivers.CanAdopt`."""
        if self.inspect(handle).state is State.GONE:
            raise Gone(f"resource {handle.tag} can't be adopted: the network was removed")
        return None

    def receipt(self, handle: Handle) -> Ended | None:
        """It leaves none."""

    def stop(self, handle: Handle, grace: float) -> None:
        """Remove it. Raises as `destroy`."""
        self.destroy(handle)

    def destroy(self, handle: Handle) -> None:
        """Let go of containers that are in it, and remove it; never what only carries its label.

        Raises:
            DriverUnavailable: the engine does not answer.
            NotRemoved: it refuses; to be tried again.
        """
        engine = self._engines.of(handle.data)
        self._await_leaving(engine, handle)
        removal.remove(engine, handle, lambda _: None)

    def _await_leaving(self, engine: Engine, handle: Handle) -> None:
        """Wait for containers of the same owner that are in it: they end at the same time, and may need it for that."""
        deadline = time.monotonic() + limits.LEAVE_S
        in_it = {"network": handle.data.get("network", ""), "label": f"{marks.OWNER}={self._context.owner}"}
        while self._context.owner and time.monotonic() < deadline:
            with engine.asked_for_lists() as client:
                if not client.containers(filters=in_it):
                    return
            time.sleep(limits.ROUND_PAUSE_S)

    def usage(self, handle: Handle) -> Usage:
        """A network uses nothing that is counted."""
        return Usage()
