"""Starts, finds, inspects, stops and destroys containers and functions in a cloud."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar
from urllib.parse import urlsplit

from tether.drivers import Context
from tether.drivers.cloud import creation, parts, presence, verdict
from tether.drivers.cloud.absence import Absence
from tether.drivers.cloud.provider import Part, Refused, Seen
from tether.drivers.cloud.watch import Held, Watch
from tether.drivers.serverless.functions import Functions
from tether.drivers.serverless.service import Service, Wanted
from tether.drivers.serverless.tasks import Tasks
from tether.errors import DriverUnavailable, Gone, NotCreated, StartError
from tether.ledger import logs, place
from tether.life.machine import Ended, Unreachable
from tether.life.probes import Target
from tether.linux import faults
from tether.model import Finding, Handle, OnDeath, Progress, State, Status, Usage
from tether.protocol import PluginExecutionMode

__all__ = ["CloudContainerDriver", "CloudFunctionDriver"]

_VERSION = 1
_ADDRESS_S = 300.0
_LOOK_PAUSE_S = 1.0
_FOLLOW_PAUSE_S = 2.0
_STATES = {
    "pending": State.STARTING,
    "running": State.READY,
    "ending": State.STOPPING,
    "stopping": State.LOST,
    "stopped": State.LOST,
    "gone": State.GONE,
}


class _ServerlessDriver:
    """See `tether.drivers.Driver`. The handle has how the service is reached, the proof, the parts' names, and the id."""

    kind: ClassVar[str]
    modes: ClassVar[frozenset[PluginExecutionMode]]
    service: ClassVar[type[Service]]
    has_pids: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._plans: dict[str, Handle] = {}
        self._services: dict[str, tuple[Service, Watch]] = {}
        self._ending: set[str] = set()
        self._absence = Absence(context.state_dir)

    def _reach(self, handle: Handle) -> tuple[Service, Watch]:
        """The service of a handle, and who watches what is there; one for all that is reached in the same way."""
        if handle.version > _VERSION:
            raise DriverUnavailable(f"resource {handle.tag} was recorded by a newer tether; upgrade this one")
        key = repr(sorted(handle.data["where"].items()))
        with self._lock:
            if key not in self._services:
                made = self.service(handle.data["where"])
                self._services[key] = (made, Watch(made, self._looked, self._lost))
            return self._services[key]

    def _service(self, handle: Handle) -> Service:
        return self._reach(handle)[0]

    # -- start ---------------------------------------------------------------------------------------------------------

    def plan(self, spec: Any, tag: str) -> Handle:
        """Say how it is reached, by what it will be known there, and what will be made beside it. See `HasPlan`."""
        where = self.service.where(spec)
        data = {
            "provider": spec.provider,
            "where": where,
            # New for each attempt: what is said of an earlier life is not believed of this one.
            "proof": f"tether-{tag}-{secrets.token_hex(4)}",
            "began": time.time(),
            "lag": self.service.lag_s if spec.listing_lag is None else spec.listing_lag,
            "parts": [[part.what, part.name] for part in self.service(where).planned(spec, tag)],
        }
        handle = Handle(self.kind, tag, data, _VERSION)
        with self._lock:
            self._plans[tag] = handle
        return handle

    def start(self, spec: Any, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Make its parts and itself, all with the tag.

        Raises:
            NotCreated: the provider does not answer, or has not what is needed: nothing was asked for.
            StartError: it refused, or its answer was unclear; what may be there is the caller's to destroy, by the plan.

        Crash:
            Parts are found by their names, it by its tag and proof, all of which the plan has.
        """
        with self._lock:
            planned = self._plans.pop(tag, None)
        plan = planned or self.plan(spec, tag)
        called = spec.name or spec.default_name
        try:
            progress(f"asking {spec.provider} what it has")
            chosen = self._service(plan).choose(spec)
        except DriverUnavailable as error:
            raise NotCreated(f"cannot start {called}: {error}", resource=called) from error
        try:
            return self._create(spec, plan, chosen, progress)
        except DriverUnavailable as error:
            raise StartError(f"cannot start {called}: {error}", resource=called) from error

    def _create(self, spec: Any, plan: Handle, chosen: dict[str, Any], progress: Progress) -> Handle:
        service, watch = self._reach(plan)
        wanted = Wanted(spec, plan.tag, self._context.owner, plan.data["proof"])
        seen = self._made(service, wanted, plan, chosen, progress)
        data = {
            **plan.data,
            "id": seen.id,
            "made": time.time(),
            "port": getattr(spec, "port", None),
            "url": seen.url,
            "address": seen.address,
            "max_lifetime": spec.max_lifetime,
            "cost_per_hour": spec.cost_per_hour,
        }
        handle = Handle(self.kind, plan.tag, data, _VERSION)
        watch.hold(handle, None, seen)
        if spec.ready is not None and spec.ready.first_of("http", "tcp"):
            self._await_url(handle, progress)
        return handle

    def _made(self, service: Service, wanted: Wanted, plan: Handle, chosen: dict[str, Any], progress: Progress) -> Seen:
        try:
            for part in [Part(*each) for each in plan.data["parts"]]:
                progress(f"making {part.what} {part.name}")
                service.make(part, wanted)
                faults.point("start.making")
            progress("creating it")
            seen = creation.insist(lambda: service.create(wanted, chosen), plan.data["began"])
        except Refused:
            self._absence.refused(wanted.proof)
            raise
        faults.point("start.making")
        return seen

    def _await_url(self, handle: Handle, progress: Progress) -> None:
        """Wait until it is known where it answers. Raises DriverUnavailable."""
        progress("waiting for its address")
        deadline = time.monotonic() + _ADDRESS_S
        while self.url(handle) is None:
            held = self._held(handle)
            if held is None or held.seen is None or held.seen.phase in ("ending", "gone"):
                why = "" if held is None or held.seen is None else held.seen.reason or held.seen.word
                raise DriverUnavailable(f"it ended before it had an address{f': {why}' if why else ''}")
            if time.monotonic() > deadline:
                raise DriverUnavailable(f"{handle.data['id']} has no address after {_ADDRESS_S:g} s")
            time.sleep(_LOOK_PAUSE_S)
            held.seen = self._service(handle).look([handle.data["id"]]).get(handle.data["id"], held.seen)

    # -- what is seen --------------------------------------------------------------------------------------------------

    def _looked(self, held: Held) -> None:
        """Take in a look at it. Runs in the watch's thread."""
        handle = held.handle
        if handle.tag in self._ending:
            # Whoever ends it says so when that is done.
            return
        found = verdict.of(held)
        if isinstance(found, verdict.Over):
            # In a thread of its own: others are looked at meanwhile.
            self._ending.add(handle.tag)
            name = f"tether-ended-{handle.tag}"
            threading.Thread(target=self._clear, args=(handle, found), name=name, daemon=True).start()
        elif found is not None:
            self._context.emit(handle.tag, found)

    def _lost(self, held: Held, why: str) -> None:
        if held.handle.tag not in self._ending:
            self._context.emit(held.handle.tag, Unreachable(verdict.at_a_cost(held.handle, why)))

    def _clear(self, handle: Handle, over: verdict.Over) -> None:
        try:
            self.destroy(handle)
        except DriverUnavailable:
            # Lost in the same moment; the next look comes here again.
            return
        self._context.emit(handle.tag, Ended(over.exit_code, over.why, proof="the provider says so"))

    # -- look ----------------------------------------------------------------------------------------------------------

    def find(self, tag: str) -> list[Handle]:
        """Return nothing: the plan says where it is."""
        return []

    def inspect(self, handle: Handle) -> Status:
        """Ask the provider. GONE means that neither it nor anything that was made for it is there."""
        service = self._service(handle)
        found = presence.find(service, handle)
        if found.stripped is not None:
            return Status(State.LOST, reason=f"{found.stripped.id} does not carry its tag any more")
        if found.ours:
            seen = found.ours[0]
            reason = "" if seen.phase == "running" else f"the provider says it is {seen.word}"
            return Status(_STATES[seen.phase], reason=seen.reason or reason)
        if not found.gone and not self._absence.is_proved(service, handle):
            return Status(State.LOST, reason=verdict.at_a_cost(handle, "the provider does not show it, or not yet"))
        left = ", ".join(part.what for part in self._parts(service, handle))
        if left:
            return Status(State.STOPPING, reason=f"something that was made for it is left: {left}")
        return Status(State.GONE, reason="not there")

    @staticmethod
    def _parts(service: Service, handle: Handle) -> list[Part]:
        return service.parts(handle.tag, [Part(*each) for each in handle.data["parts"]])

    def usage(self, handle: Handle) -> Usage:
        """Nothing is known of what runs in it."""
        return Usage()

    def _held(self, handle: Handle) -> Held | None:
        return self._reach(handle)[1].held(handle.tag) if "id" in handle.data else None

    def url(self, handle: Handle) -> str | None:
        """Return where it answers: the address that its provider gave it, or its own with its port."""
        held = self._held(handle)
        seen = held.seen if held is not None else None
        url = (seen.url if seen is not None else None) or handle.data.get("url")
        if url is not None:
            return str(url).rstrip("/")
        address = (seen.address if seen is not None else None) or handle.data.get("address")
        port = handle.data.get("port")
        return None if address is None or port is None else f"http://{address}:{port}"

    def details(self, handle: Handle) -> dict[str, Any]:
        """Return who has it, what ends it, and what it costs."""
        data, held = handle.data, self._held(handle)
        rate, made = data.get("cost_per_hour"), data.get("made")
        so_far = None if rate is None or made is None else round(rate * max(0.0, time.time() - made) / 3600, 6)
        return {
            "provider": data["provider"],
            "region": data["where"].get("region"),
            "instance_id": data.get("id"),
            "provider_status": held.seen.word if held is not None and held.seen is not None else None,
            "lease": None if held is None else "reaper",
            "parts": [f"{what} {name}" for what, name in data.get("parts", ())],
            "cost_per_hour": rate,
            "cost_so_far": so_far,
            **self._service(handle).details(data),
        }

    def target(self, handle: Handle) -> Target:
        """Probe where it answers; its health is that the provider says that it runs."""
        where = urlsplit(self.url(handle) or "")
        return Target(
            host=where.hostname or "",
            port=where.port or (443 if where.scheme == "https" else None),
            tls=where.scheme == "https",
            missing=lambda: "" if self.url(handle) else "it has no address yet",
            log=lambda: self.read_log(handle, None),
            health=lambda: self._health(handle),
        )

    def _health(self, handle: Handle) -> str:
        held = self._held(handle)
        if held is None or held.seen is None:
            return "the provider does not show it yet"
        if held.seen.phase == "pending":
            # Looked at more often than the watch does, while somebody waits for it.
            time.sleep(_LOOK_PAUSE_S)
            try:
                held.seen = self._service(handle).look([held.seen.id]).get(held.seen.id, held.seen)
            except DriverUnavailable as error:
                return str(error)
        if held.seen.phase == "running" or (held.seen.phase == "gone" and held.seen.exit_code == 0):
            # A job may be through before anybody has seen it run.
            return ""
        return f"the provider says it is {held.seen.word}"

    def diagnose(self) -> Finding:
        """Say whether the client library is here, and how this was tested."""
        try:
            import boto3  # noqa: F401 - whether it is there
        except ImportError:
            return Finding(self.kind, False, "boto3 is not installed", "install it with: pip install 'tether[aws]'")
        return Finding(self.kind, True, f"aws ({self.service.tested})", "can be started")

    # -- output --------------------------------------------------------------------------------------------------------

    def read_log(self, handle: Handle, lines: int | None) -> bytes:
        """Ask for what it wrote; of one that has ended, read what was saved. Raises DriverUnavailable."""
        saved = logs.path(self._context.state_dir, handle.tag)
        data = saved.read_bytes() if saved.exists() else self._service(handle).output(handle.tag)
        return logs.last_lines(data, lines)

    def follow_log(self, handle: Handle) -> Iterator[bytes]:
        """Yield what it writes from now on, until it has ended."""
        known = len(self.read_log(handle, None))
        is_gone = False
        while not is_gone:
            time.sleep(_FOLLOW_PAUSE_S)
            is_gone = self.inspect(handle).state is State.GONE
            text = self.read_log(handle, None)
            yield text[known:]
            known = max(known, len(text))

    def _save(self, service: Service, handle: Handle) -> None:
        """Keep what it wrote, before that is removed. What can't be had keeps nothing from being ended."""
        try:
            said = service.output(handle.tag)
            if said:
                place.write_private(logs.path(self._context.state_dir, handle.tag), said)
        except (DriverUnavailable, OSError):
            return

    # -- adoption ------------------------------------------------------------------------------------------------------

    def adopt(self, handle: Handle, fence: int) -> int | None:
        """Watch a kept one from now on. See `tether.drivers.CanAdopt`."""
        status = self.inspect(handle)
        if status.state is not State.READY:
            raise Gone(f"resource {handle.tag} can't be adopted: {status.reason or status.state.value}")
        service, watch = self._reach(handle)
        watch.hold(handle, None, service.look([handle.data["id"]]).get(handle.data["id"]))
        return None

    def receipt(self, handle: Handle) -> Ended | None:
        """Return how it ended, if the provider still shows that."""
        if "id" not in handle.data:
            return None
        seen = self._service(handle).look([handle.data["id"]]).get(handle.data["id"])
        if seen is None or seen.phase != "gone":
            return None
        why = f"ended while nobody owned it: {seen.reason or seen.word}"
        return Ended(seen.exit_code, why, proof="the provider says so")

    # -- end -----------------------------------------------------------------------------------------------------------

    def stop(self, handle: Handle, grace: float) -> None:
        """Have it ended: what is asked first, and for how long, its provider was told when it was made. Raises as `destroy`."""
        self.destroy(handle)

    def destroy(self, handle: Handle) -> None:
        """End it, until the provider says that it is gone, then remove what was made for it.

        Raises:
            DriverUnavailable: the provider does not answer, or takes long; to be tried again.
        """
        service, watch = self._reach(handle)
        self._ending.add(handle.tag)
        try:
            if not self._absence.was_refused(handle):
                certain = "id" not in handle.data and self._absence.is_certain(handle)
                presence.end_all(service, handle, is_certain=certain, before=lambda _: None)
            self._save(service, handle)
            parts.remove_all(handle.tag, lambda: self._parts(service, handle), service.remove)
            self._absence.seen(handle)
            watch.let_go(handle.tag)
        finally:
            self._ending.discard(handle.tag)

    def close(self) -> None:
        """Watch nothing any more; what was started goes on."""
        with self._lock:
            watches = [watch for _, watch in self._services.values()]
        for watch in watches:
            watch.close()


class CloudContainerDriver(_ServerlessDriver):
    """Containers: tasks of ECS on Fargate."""

    kind: ClassVar[str] = "cloud_container"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.CLOUD_CONTAINER})
    service: ClassVar[type[Service]] = Tasks


class CloudFunctionDriver(_ServerlessDriver):
    """Functions: AWS Lambda."""

    kind: ClassVar[str] = "cloud_function"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.CLOUD_SERVERLESS})
    service: ClassVar[type[Service]] = Functions
