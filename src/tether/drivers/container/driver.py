"""Starts, finds, inspects, stops and destroys containers. Everything made for one carries its tag as a label."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from tether.drivers import Context
from tether.drivers.container import engine, images, labelled, request
from tether.drivers.container.spec import Container, ContainerRef
from tether.drivers.container.watch import Watch
from tether.errors import DriverUnavailable, Gone, NotCreated, StartError
from tether.ledger import logs, place
from tether.life.machine import Ended, MainExited, Reached, Unreachable
from tether.life.probes import Target
from tether.linux import faults, sockets, tree
from tether.model import Finding, Handle, OnDeath, Progress, State, Status, Usage
from tether.protocol import PluginExecutionMode

__all__ = ["ContainerDriver"]

_VERSION = 1
_SAVED_LINES = 10_000


class ContainerDriver:
    """See `tether.drivers.Driver`. The handle has the engine's address, the container's id, and its port."""

    kind: ClassVar[str] = "container"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.DOCKER})

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._held: dict[str, Handle] = {}
        self._ending: set[str] = set()
        self._starting: set[str] = set()
        self._watches: dict[str, Watch] = {}

    # -- start ---------------------------------------------------------------------------------------------------------

    def plan(self, spec: Container | ContainerRef, tag: str) -> Handle:
        """Say which engine will have it: everything made for it is found there by the label. See `HasPlan`."""
        attached = isinstance(spec, ContainerRef)
        return Handle(self.kind, tag, {"engine": engine.address(spec.engine), "attached": attached}, _VERSION)

    def start(self, spec: Container | ContainerRef, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Make network, volumes and container, all with the tag, and run it.

        Raises:
            NotCreated: the engine does not answer, or the image is missing: nothing was created.
            StartError: the engine refused; what was made of it is the caller's to destroy, by the plan.

        Crash:
            What was made is found by its label, at the engine that the plan names.
        """
        where = engine.address(spec.engine)
        try:
            self._watch(where).await_listening()
            if isinstance(spec, ContainerRef):
                return self._attach(spec, tag, where)
            images.provide(spec, where, progress)
        except DriverUnavailable as error:
            raise NotCreated(f"cannot start {spec.name or tag}: {error}", resource=spec.name or tag) from error
        try:
            return self._create(spec, tag, where, progress)
        except (DriverUnavailable, engine.Absent) as error:
            raise StartError(f"cannot start {spec.name or spec.image}: {error}", resource=spec.name or "") from error

    def _attach(self, spec: ContainerRef, tag: str, where: str) -> Handle:
        seen = labelled.seen(where, spec.ref)
        if seen is None or not seen["State"]["Running"]:
            what = "there is no container of that name or id" if seen is None else f"it is {seen['State']['Status']}"
            raise NotCreated(f"cannot attach to {spec.ref}: {what}; see 'docker ps -a'", resource=spec.name or spec.ref)
        port = None if spec.port is None else _published(seen, spec.port)
        if spec.port is not None and port is None:
            raise NotCreated(
                f"cannot attach to {spec.ref}: it does not publish its port {spec.port}", resource=spec.ref
            )
        return self._hold(where, tag, seen, spec.port, port, attached=True)

    def _create(self, spec: Container, tag: str, where: str, progress: Progress) -> Handle:
        client = engine.connect(where)
        ours = {engine.RESOURCE: tag, engine.OWNER: self._context.owner}
        name = f"tether-{request.base_name(spec)}-{tag}"
        with engine.asking(where):
            if spec.network == "own":
                client.create_network(name, driver="bridge", labels=ours)
                faults.point("start.making")
            volumes = {path: f"{name}-{number}" for number, path in enumerate(request.own_volumes(spec))}
            for volume in volumes.values():
                client.create_volume(volume, labels=ours)
                faults.point("start.making")
            progress("creating the container")
            port = (
                sockets.free_port() if spec.network == "host" and spec.uses_port else (spec.port or request.PORT_INSIDE)
            )
            made = client.create_container(
                spec.image, **request.settings(spec, client, name, {**spec.labels, **ours}, volumes, port)
            )["Id"]
            faults.point("start.making")
            progress("starting it")
            self._begin_to_hold(where, tag, made)
            client.start(made)
            seen = client.inspect_container(made)
        if not spec.uses_port:
            return self._hold(where, tag, seen, None, None)
        return self._hold(where, tag, seen, port, port if spec.network == "host" else _published(seen, port))

    def _hold(
        self,
        where: str,
        tag: str,
        seen: dict[str, Any],
        inside: int | None,
        port: int | None,
        *,
        attached: bool = False,
    ) -> Handle:
        data = {
            "engine": where,
            "container": seen["Id"],
            "image": seen["Config"]["Image"],
            "inside": inside,
            "port": port,
            "attached": attached,
        }
        handle = Handle(self.kind, tag, data, _VERSION)
        with self._lock:
            self._held[tag] = handle
            self._starting.discard(tag)
        # It may have ended before this was known: what was heard of it meanwhile was passed over.
        status = Status(State.READY) if attached else self.inspect(handle)
        if status.state is not State.READY:
            threading.Thread(
                target=self._clear_ended,
                args=(handle, status.exit_code, "ended by itself"),
                name=f"tether-ended-{tag}",
                daemon=True,
            ).start()
        return handle

    def _begin_to_hold(self, where: str, tag: str, container: str) -> None:
        """From now on its end is of interest, and its caller looks whether it has ended."""
        with self._lock:
            self._starting.add(tag)
            self._held[tag] = Handle(
                self.kind, tag, {"engine": where, "container": container, "attached": False}, _VERSION
            )

    # -- what the engine says ------------------------------------------------------------------------------------------

    def _watch(self, where: str) -> Watch:
        engine.connect(where)
        with self._lock:
            if where not in self._watches:
                self._watches[where] = Watch(
                    where,
                    lambda event: self._happened(where, event),
                    lambda why: self._lost(where, why),
                    lambda: self._back(where),
                )
            return self._watches[where]

    def _held_at(self, where: str) -> list[Handle]:
        with self._lock:
            return [handle for handle in self._held.values() if handle.data["engine"] == where]

    def _happened(self, where: str, event: dict[str, Any]) -> None:
        for handle in self._held_at(where):
            if handle.data["container"] != event["Actor"]["ID"] or handle.tag in self._starting:
                continue
            if handle.data["attached"]:
                self._context.emit(handle.tag, Reached() if event["Action"] == "start" else _left(event["Action"]))
            elif event["Action"] == "die":
                self._clear_ended(handle, int(event["Actor"]["Attributes"]["exitCode"]), "ended by itself")
            elif event["Action"] == "destroy":
                self._clear_ended(handle, None, "removed by somebody else")

    def _clear_ended(self, handle: Handle, exit_code: int | None, why: str) -> None:
        """It has ended: say so, keep its output, and remove what was made for it."""
        if exit_code is not None:
            self._context.emit(handle.tag, MainExited(exit_code))
        if handle.tag in self._ending:
            # Whoever ends it says so when that is done.
            return
        try:
            self._remove_all(handle)
        except DriverUnavailable:
            # Lost in the same moment; heard of when the engine is back.
            return
        self._let_go(handle)
        self._context.emit(handle.tag, Ended(exit_code, why, proof="seen to be gone from the engine"))

    def _lost(self, where: str, why: str) -> None:
        for handle in self._held_at(where):
            self._context.emit(handle.tag, Unreachable(why))

    def _back(self, where: str) -> None:
        for handle in self._held_at(where):
            status = self.inspect(handle)
            if status.state is State.READY:
                self._context.emit(handle.tag, Reached())
            elif not handle.data["attached"]:
                self._clear_ended(handle, status.exit_code, "ended while its engine did not answer")

    # -- look ----------------------------------------------------------------------------------------------------------

    def find(self, tag: str) -> list[Handle]:
        """Look at the engine in use here for what carries the tag."""
        where = engine.address(None)
        containers, networks, volumes = labelled.with_tag(where, tag)
        if containers:
            seen = labelled.seen(where, containers[0])
            if seen is not None:
                data = {"engine": where, "container": seen["Id"], "image": seen["Config"]["Image"], "attached": False}
                return [Handle(self.kind, tag, {**data, "inside": None, "port": None}, _VERSION)]
        return [Handle(self.kind, tag, {"engine": where, "attached": False}, _VERSION)] if networks or volumes else []

    def inspect(self, handle: Handle) -> Status:
        """Ask the engine. GONE means that neither the container nor anything that was made for it is there."""
        where = handle.data["engine"]
        container = handle.data.get("container")
        seen = labelled.seen(where, container) if container is not None else None
        if seen is not None:
            state = seen["State"]
            if state["Running"]:
                return Status(
                    State.READY, pids=self._pids(handle, state["Pid"]), reason="paused" if state["Paused"] else ""
                )
            return Status(State.STOPPING, state["ExitCode"], f"its container is {state['Status']}")
        if not handle.data["attached"] and any(labelled.with_tag(where, handle.tag)):
            return Status(State.STOPPING, reason="something that was made for it is left")
        return Status(State.GONE, reason="not there")

    @staticmethod
    def _pids(handle: Handle, main: int) -> tuple[int, ...]:
        """The processes of a container as this machine numbers them, the first of it first; none if its engine is elsewhere."""
        if not handle.data["engine"].startswith("unix://"):
            return ()
        found = [main, *tree.descendants(main)]
        with suppress(Exception):
            # What was started by `docker exec` is no descendant. A container that ends meanwhile has none.
            top = engine.connect(handle.data["engine"]).top(handle.data["container"])
            found += [int(line[top["Titles"].index("PID")]) for line in top["Processes"] or []]
        return tuple(pid for pid in dict.fromkeys(found) if tree.is_running(pid))

    def usage(self, handle: Handle) -> Usage:
        """Ask the engine for its counters."""
        where = handle.data["engine"]
        with engine.asking(where):
            stats = engine.connect(where).stats(handle.data["container"], stream=False, one_shot=True)
        cpu = stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage")
        return Usage(
            stats.get("pids_stats", {}).get("current"),
            None if cpu is None else cpu / request.NANO,
            stats.get("memory_stats", {}).get("usage"),
        )

    def port(self, handle: Handle) -> int | None:
        """Return the port of this machine that leads to it."""
        return handle.data.get("port")

    def details(self, handle: Handle) -> dict[str, Any]:
        """Return its id, image and engine."""
        data = handle.data
        return {"container_id": data.get("container"), "image": data.get("image"), "engine": data["engine"]}

    def is_attached(self, handle: Handle) -> bool:
        """Whether it is a `ContainerRef`."""
        return bool(handle.data["attached"])

    def target(self, handle: Handle) -> Target:
        """Probe HTTP as users do, and TCP at the container itself: an engine's proxy accepts what nobody answers."""
        port = handle.data.get("port")
        return Target(
            port=port,
            direct=labelled.direct_address(handle.data["engine"], handle.data["container"], handle.data["inside"])
            if port is not None
            else None,
            log=lambda: self.read_log(handle, None),
            health=lambda: self._health(handle),
        )

    def _health(self, handle: Handle) -> str:
        seen = labelled.seen(handle.data["engine"], handle.data["container"])
        if seen is None:
            return "its container has gone"
        health = seen["State"].get("Health")
        if health is None:
            return f"image {handle.data['image']} has no health check"
        return "" if health["Status"] == "healthy" else f"its health check says {health['Status']}"

    def diagnose(self) -> Finding:
        """Ask the engine in use for its version."""
        where = engine.address(None)
        try:
            with engine.asking(where):
                version = engine.connect(where).version()["Version"]
        except DriverUnavailable:
            return Finding("container engine", False, f"none at {where}", "containers can't be started here")
        return Finding("container engine", True, f"{where}, version {version}", "containers can be started")

    # -- output --------------------------------------------------------------------------------------------------------

    def _saved(self, tag: str) -> Path:
        return logs.path(self._context.state_dir, tag)

    def read_log(self, handle: Handle, lines: int | None) -> bytes:
        """Ask the engine; of one that has ended, read what was saved."""
        where, container = handle.data["engine"], handle.data.get("container")
        saved = self._saved(handle.tag)
        if saved.exists():
            return logs.last_lines(saved.read_bytes(), lines)
        if container is None:
            return b""
        try:
            with engine.asking(where):
                return bytes(engine.connect(where).logs(container, tail="all" if lines is None else lines))
        except engine.Absent:
            return b""

    def follow_log(self, handle: Handle) -> Iterator[bytes]:
        """Yield what the engine passes on, until the container ends."""
        where = handle.data["engine"]
        if self._saved(handle.tag).exists():
            return
        with suppress(engine.Absent), engine.asking(where):
            yield from engine.connect(where).logs(
                handle.data["container"], stream=True, follow=True, since=int(time.time())
            )

    def _save_log(self, where: str, tag: str, container: str) -> None:
        with suppress(Exception), engine.asking(where):
            # Without its output it is removed all the same.
            data = engine.connect(where).logs(container, tail=_SAVED_LINES)
            place.write_private(self._saved(tag), data)

    # -- adoption ------------------------------------------------------------------------------------------------------

    def adopt(self, handle: Handle, fence: int) -> int | None:
        """Watch a kept container from now on: the ledger's fence is the fence. See `tether.drivers.CanAdopt`."""
        self._watch(handle.data["engine"]).await_listening()
        status = self.inspect(handle)
        if status.state is not State.READY:
            raise Gone(f"resource {handle.tag} can't be adopted: {status.reason}")
        with self._lock:
            self._held[handle.tag] = handle
        return None

    def receipt(self, handle: Handle) -> Ended | None:
        """Return the exit code that the engine kept, or None if the container has been removed."""
        status = self.inspect(handle)
        if status.state is not State.STOPPING or status.exit_code is None:
            return None
        return Ended(status.exit_code, "ended while nobody owned it", proof="the engine says so")

    # -- end -----------------------------------------------------------------------------------------------------------

    def stop(self, handle: Handle, grace: float) -> None:
        """Have the engine stop it, then remove it and all that was made for it. Raises as `destroy`."""
        where, container = handle.data["engine"], handle.data.get("container")
        if container is not None and not handle.data["attached"]:
            self._ending.add(handle.tag)
            with suppress(engine.Absent), engine.asking(where):
                engine.connect(where).stop(container, timeout=math.ceil(grace))
        self.destroy(handle)

    def destroy(self, handle: Handle) -> None:
        """Remove by force what carries the tag, until the engine shows nothing of it any more. Never what was there before.

        Raises:
            DriverUnavailable: the engine does not answer, or can't remove it; to be tried again.
        """
        if not handle.data["attached"]:
            self._ending.add(handle.tag)
            self._remove_all(handle)
        self._let_go(handle)

    def _remove_all(self, handle: Handle) -> None:
        where, tag = handle.data["engine"], handle.tag
        labelled.remove(where, tag, lambda container: self._save_log(where, tag, container))

    def _let_go(self, handle: Handle) -> None:
        with self._lock:
            self._held.pop(handle.tag, None)
            self._ending.discard(handle.tag)


def _left(action: str) -> Unreachable:
    return Unreachable("its container ended" if action == "die" else "its container was removed")


def _published(seen: dict[str, Any], inside: int) -> int | None:
    bindings = (seen["NetworkSettings"]["Ports"] or {}).get(f"{inside}/tcp") or []
    return int(bindings[0]["HostPort"]) if bindings else None
