"""Starts, finds, inspects, stops and destroys machines of clouds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

from tether.drivers import Context
from tether.drivers.cloud import boot, console, details, keys, making, parts, presence, verdict
from tether.drivers.cloud.absence import Absence
from tether.drivers.cloud.lease import Lease
from tether.drivers.cloud.provider import (
    CanLease,
    CanRenew,
    Choice,
    HasParts,
    Order,
    Part,
    Provider,
    Refused,
    Seen,
    provider_class,
)
from tether.drivers.cloud.spec import Machine, MachineRef
from tether.drivers.cloud.watch import Held, Watch
from tether.errors import DriverUnavailable, Gone, NotCreated, StartError
from tether.life.machine import Ended, Unreachable
from tether.life.probes import Target
from tether.model import Finding, Handle, OnDeath, Progress, State, Status, Usage
from tether.protocol import PluginExecutionMode

__all__ = ["CloudDriver"]

_VERSION = 1
_ADDRESS_S = 300.0
_LOOK_PAUSE_S = 1.0


class CloudDriver:
    """See `tether.drivers.Driver`. The handle has the provider and how it is reached, the proof, the parts' names, and the id."""

    kind: ClassVar[str] = "machine"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset(
        {PluginExecutionMode.CLOUD_VM, PluginExecutionMode.CLOUD_GPU, PluginExecutionMode.CLOUD_CPU}
    )
    has_pids: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._plans: dict[str, Handle] = {}
        self._providers: dict[str, Provider] = {}
        self._watches: dict[str, Watch] = {}
        self._ending: set[str] = set()
        self._absence = Absence(context.state_dir)

    def _provider(self, handle: Handle) -> Provider:
        """The provider of a handle; one object for all that is reached in the same way."""
        if handle.version > _VERSION:
            raise DriverUnavailable(f"resource {handle.tag} was recorded by a newer tether; upgrade this one")
        key = repr((handle.data["provider"], sorted(handle.data["where"].items())))
        with self._lock:
            if key not in self._providers:
                made = provider_class(handle.data["provider"])(handle.data["where"])
                self._providers[key] = made
                self._watches[key] = Watch(made, self._looked, self._lost)
            return self._providers[key]

    def _watch(self, handle: Handle) -> Watch:
        provider = self._provider(handle)
        with self._lock:
            return next(self._watches[key] for key, each in self._providers.items() if each is provider)

    # -- start ---------------------------------------------------------------------------------------------------------

    def plan(self, spec: Machine | MachineRef, tag: str) -> Handle:
        """Say who will have it, by what it will be known there, and what will be made beside it. See `HasPlan`."""
        handle = Handle(self.kind, tag, making.plan(spec, tag), _VERSION)
        with self._lock:
            self._plans[tag] = handle
        return handle

    def start(self, spec: Machine | MachineRef, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Make its parts and the machine, all with the tag.

        Raises:
            NotCreated: the provider does not answer, or has no such thing: nothing was asked for.
            StartError: it refused, or its answer was unclear; what may be there is the caller's to destroy, by the plan.

        Crash:
            Parts are found by their names, the machine by its tag and proof, all of which the plan has.
        """
        with self._lock:
            planned = self._plans.pop(tag, None)
        plan = planned or self.plan(spec, tag)
        called = spec.name or spec.default_name
        try:
            provider = self._provider(plan)
            if isinstance(spec, MachineRef):
                return self._attach(spec, provider, plan)
            progress(f"asking {spec.provider} what it has")
            choice = provider.choose(spec)
        except DriverUnavailable as error:
            raise NotCreated(f"cannot start {called}: {error}", resource=called) from error
        try:
            return self._create(spec, provider, plan, choice, on_death, progress)
        except DriverUnavailable as error:
            raise StartError(f"cannot start {called}: {error}", resource=called) from error

    def _attach(self, spec: MachineRef, provider: Provider, plan: Handle) -> Handle:
        data, seen = making.attach(spec, provider, plan.data)
        handle = Handle(self.kind, plan.tag, data, _VERSION)
        self._watch(handle).hold(handle, None, seen)
        return handle

    def _create(
        self, spec: Machine, provider: Provider, plan: Handle, choice: Choice, on_death: OnDeath, progress: Progress
    ) -> Handle:
        kept_s = spec.keep_for if on_death == "keep" else 0.0
        order = self._order(spec, provider, plan, kept_s)
        try:
            data, seen = making.create(order, provider, plan.data, choice, kept_s, progress)
        except Refused:
            self._absence.refused(order.proof)
            raise
        handle = Handle(self.kind, plan.tag, data, _VERSION)
        lease = self._lease(provider, handle)
        if lease is not None:
            lease.begin(data["lag"])
        self._watch(handle).hold(handle, lease, seen)
        if spec.ready is not None and spec.ready.first_of("http", "tcp"):
            self._await_address(handle, progress)
        return handle

    def _order(self, spec: Machine, provider: Provider, plan: Handle, kept_s: float) -> Order:
        state_dir, tag = self._context.state_dir, plan.tag
        # Where nobody logs in, and where nothing runs at boot, it keeps its own host key.
        host_key = keys.make_host_key(state_dir, tag) if spec.key is not False and provider.boots else None
        data = boot.data(spec, tag, provider, kept_s, host_key)
        public_key = keys.make(state_dir, tag) if spec.key is True else None
        return Order(spec, tag, self._context.owner, plan.data["proof"], data, public_key)

    @staticmethod
    def _lease(provider: Provider, handle: Handle) -> Lease | None:
        has_one = handle.data.get("lease") is not None and isinstance(provider, CanRenew | CanLease)
        return Lease(provider, handle) if has_one else None

    def _await_address(self, handle: Handle, progress: Progress) -> None:
        """Wait until it is known where it will answer. Raises DriverUnavailable."""
        progress("waiting for its address")
        deadline = time.monotonic() + _ADDRESS_S
        while self._address(handle) is None:
            if time.monotonic() > deadline:
                raise DriverUnavailable(f"machine {handle.data['id']} has no address after {_ADDRESS_S:g} s")
            time.sleep(_LOOK_PAUSE_S)

    # -- what is seen --------------------------------------------------------------------------------------------------

    def _looked(self, held: Held) -> None:
        """Take in a look at a machine. Runs in the watch's thread."""
        handle = held.handle
        if handle.tag in self._ending:
            # Whoever ends it says so when that is done.
            return
        found = verdict.of(held)
        if isinstance(found, verdict.Over):
            self._begin_to_clear(handle, found.why)
        elif found is not None:
            self._context.emit(handle.tag, found)

    def _lost(self, held: Held, why: str) -> None:
        if held.handle.tag not in self._ending:
            self._context.emit(held.handle.tag, Unreachable(verdict.at_a_cost(held.handle, why)))

    def _begin_to_clear(self, handle: Handle, why: str) -> None:
        if handle.data["attached"]:
            self._context.emit(handle.tag, Unreachable(why))
            return
        # In a thread of its own: the leases of others are renewed meanwhile.
        self._ending.add(handle.tag)
        threading.Thread(target=self._clear, args=(handle, why), name=f"tether-ended-{handle.tag}", daemon=True).start()

    def _clear(self, handle: Handle, why: str) -> None:
        try:
            self.destroy(handle)
        except DriverUnavailable:
            # Lost in the same moment; the next look comes here again.
            return
        self._context.emit(handle.tag, Ended(None, why, proof="the provider says so"))

    # -- look ----------------------------------------------------------------------------------------------------------

    def find(self, tag: str) -> list[Handle]:
        """Return nothing: the plan says where it is."""
        return []

    def inspect(self, handle: Handle) -> Status:
        """Ask the provider. GONE means that neither the machine nor anything that was made for it is there."""
        provider = self._provider(handle)
        if handle.data["attached"]:
            shown = provider.look([handle.data["id"]]).get(handle.data["id"]) if "id" in handle.data else None
            return Status(State.GONE, reason="not there") if shown is None else _status(shown)
        found = presence.find(provider, handle)
        if found.stripped is not None:
            return Status(State.LOST, reason=f"machine {found.stripped.id} does not carry its tag any more")
        if found.ours:
            return _status(found.ours[0])
        if not found.gone and not self._absence.is_proved(provider, handle):
            return Status(State.LOST, reason=verdict.at_a_cost(handle, "the provider does not show it, or not yet"))
        left = ", ".join(part.what for part in self._parts(provider, handle))
        if left:
            return Status(State.STOPPING, reason=f"something that was made for it is left: {left}")
        return Status(State.GONE, reason="not there")

    @staticmethod
    def _parts(provider: Provider, handle: Handle) -> list[Part]:
        if not isinstance(provider, HasParts):
            return []
        return provider.parts(handle.tag, [Part(*each) for each in handle.data["parts"]], handle.data["began"])

    def usage(self, handle: Handle) -> Usage:
        """Nothing is known of what runs in it."""
        return Usage()

    def _held(self, handle: Handle) -> Held | None:
        return self._watch(handle).held(handle.tag) if "id" in handle.data else None

    def _address(self, handle: Handle) -> str | None:
        held = self._held(handle)
        seen = held.seen if held is not None else None
        address = seen.address if seen is not None else None
        return address or handle.data.get("address")

    def _port(self, handle: Handle) -> int | None:
        """The port by which its own port is reached."""
        port, held = handle.data.get("port"), self._held(handle)
        seen = held.seen if held is not None else None
        return port if port is None or seen is None else seen.ports.get(port, port)

    def url(self, handle: Handle) -> str | None:
        """Return where it answers, if it was given a port and has an address."""
        port, address = self._port(handle), self._address(handle)
        return (
            None
            if port is None or address is None
            else f"http://{f'[{address}]' if ':' in address else address}:{port}"
        )

    def details(self, handle: Handle) -> dict[str, Any]:
        """Return who has it, what it is, how it is reached, what ends it, and what it costs."""
        held = self._held(handle)
        return details.of(handle, held, self._address(handle), self._context.state_dir)

    def is_attached(self, handle: Handle) -> bool:
        """Whether it is a `MachineRef`."""
        return bool(handle.data["attached"])

    def target(self, handle: Handle) -> Target:
        """Probe where it answers; its health is that the provider says that it runs."""
        return Target(
            host=self._address(handle) or "",
            port=self._port(handle),
            missing=lambda: "" if self._address(handle) else "it has no address yet",
            log=lambda: self.read_log(handle, None),
            health=lambda: self._health(handle),
        )

    def _health(self, handle: Handle) -> str:
        held = self._held(handle)
        if held is None or held.seen is None:
            return "the provider does not show it yet"
        if held.seen.phase == "pending" or not self._address(handle):
            # Looked at more often than the watch does, while somebody waits for it.
            time.sleep(_LOOK_PAUSE_S)
            try:
                held.seen = self._provider(handle).look([held.seen.id]).get(held.seen.id, held.seen)
            except DriverUnavailable as error:
                return str(error)
        if held.seen.phase != "running":
            return f"the provider says it is {held.seen.word}"
        return "" if self._address(handle) else "it has no address yet"

    def diagnose(self) -> Finding:
        """Say which providers are here, and how each was tested."""
        return details.finding()

    # -- output --------------------------------------------------------------------------------------------------------

    def read_log(self, handle: Handle, lines: int | None) -> bytes:
        """Ask for its console; of one that has ended, read what was saved. Raises DriverUnavailable."""
        return console.read(self._context.state_dir, self._provider(handle), handle, lines)

    def follow_log(self, handle: Handle) -> Iterator[bytes]:
        """Yield what its console says from now on, until it has ended."""
        provider = self._provider(handle)
        return console.follow(provider, handle, lambda: self.inspect(handle).state is State.GONE)

    # -- adoption ------------------------------------------------------------------------------------------------------

    def adopt(self, handle: Handle, fence: int) -> int | None:
        """Watch a kept machine, and renew its lease, from now on. See `tether.drivers.CanAdopt`."""
        status = self.inspect(handle)
        if status.state is not State.READY:
            raise Gone(f"resource {handle.tag} can't be adopted: {status.reason or status.state.value}")
        provider = self._provider(handle)
        seen = provider.look([handle.data["id"]]).get(handle.data["id"])
        self._watch(handle).hold(handle, self._lease(provider, handle), seen)
        return None

    def receipt(self, handle: Handle) -> Ended | None:
        """Return how it ended, if the provider still shows that."""
        if "id" not in handle.data:
            return None
        seen = self._provider(handle).look([handle.data["id"]]).get(handle.data["id"])
        if seen is None or seen.phase != "gone":
            return None
        return Ended(None, f"ended while nobody owned it: {seen.reason or seen.word}", proof="the provider says so")

    # -- end -----------------------------------------------------------------------------------------------------------

    def stop(self, handle: Handle, grace: float) -> None:
        """Have it terminated: providers ask the machine politely first, for as long as they like. Raises as `destroy`."""
        self.destroy(handle)

    def destroy(self, handle: Handle) -> None:
        """Terminate the machine, until the provider says that it is, then remove what was made for it.

        Raises:
            DriverUnavailable: the provider does not answer, or takes long; to be tried again.
        """
        if handle.data["attached"]:
            self._let_go(handle)
            return
        provider = self._provider(handle)
        self._ending.add(handle.tag)
        try:
            if not self._absence.was_refused(handle):
                self._end_machines(provider, handle)
            self._remove_parts(handle)
            self._absence.seen(handle)
            self._let_go(handle)
        finally:
            self._ending.discard(handle.tag)

    def _end_machines(self, provider: Provider, handle: Handle) -> None:
        certain = "id" not in handle.data and self._absence.is_certain(handle)
        presence.end_all(
            provider,
            handle,
            is_certain=certain,
            before=lambda machine: console.save(self._context.state_dir, provider, handle.tag, machine),
        )

    def _remove_parts(self, handle: Handle) -> None:
        """Remove what was made for it, until the provider shows nothing of it. Raises DriverUnavailable."""
        provider = self._provider(handle)
        if isinstance(provider, HasParts):
            parts.remove_all(handle.tag, lambda: self._parts(provider, handle), provider.remove)
        keys.remove(self._context.state_dir, handle.tag)

    def _let_go(self, handle: Handle) -> None:
        if "id" in handle.data:
            self._watch(handle).let_go(handle.tag)

    def close(self) -> None:
        """Watch nothing any more; what was started goes on until its lease is over."""
        with self._lock:
            watches = list(self._watches.values())
        for watch in watches:
            watch.close()


def _status(seen: Seen) -> Status:
    if seen.phase == "running":
        return Status(State.READY)
    if seen.phase == "pending":
        return Status(State.STARTING, reason=f"the provider says it is {seen.word}")
    if seen.phase == "ending":
        return Status(State.STOPPING, reason=f"the provider says it is {seen.word}")
    if seen.phase == "gone":
        return Status(State.GONE, reason=seen.reason or seen.word)
    return Status(State.LOST, reason=f"it is {seen.word}: it does not run, is not gone, and what it keeps is billed")
