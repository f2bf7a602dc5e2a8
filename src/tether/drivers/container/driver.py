"""Starts, finds, inspects, stops and destroys containers. Everything made for one carries its tag as a label."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, ClassVar, Literal

from tether.drivers import Context
from tether.drivers.container import (
    address,
    images,
    limits,
    making,
    marks,
    reach,
    removal,
    request,
    streams,
)
from tether.drivers.container.engine import Absent, Engine, Engines, Refused
from tether.drivers.container.held import Held, Live, runs
from tether.drivers.container.inside import Inside
from tether.drivers.container.members import Members
from tether.drivers.container.output import Output
from tether.drivers.container.spec import Container, ContainerRef
from tether.errors import DriverUnavailable, Gone, NotCreated, StartError
from tether.ledger.orphans import owner_mark
from tether.life.machine import Ended
from tether.life.probes import Target
from tether.model import Finding, Handle, OnDeath, Progress, State, Status, Usage
from tether.protocol import PluginExecutionMode

__all__ = ["ContainerDriver"]

_VERSION = 1


class ContainerDriver(Inside):
    """See `tether.drivers.Driver`. The handle has the engine's address, the container's id, its ports, and what was made for it."""

    kind: ClassVar[str] = "container"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.DOCKER})

    def __init__(self, context: Context) -> None:
        self._context = context
        super().__init__(Engines())
        self._members = Members()
        self._held = Held(context.emit, self._remove_all)
        self._output = Output(context.state_dir, self._engines, self._container)
        self._attached: dict[str, streams.Attached] = {}

    def close(self) -> None:
        """Watch nothing any more, and close all connections; what runs goes on. See `tether.drivers.HasConnections`."""
        self._held.close()
        while self._attached:
            self._attached.popitem()[1].close()
        self._engines.close()

    # -- start ---------------------------------------------------------------------------------------------------------

    def plan(self, spec: Container | ContainerRef, tag: str) -> Handle:
        """Say which engine will have it, and what will be made for it: that is found there by label and name. See `HasPlan`.

        Raises:
            NotCreated: it can't be said which engine is meant.
        """
        try:
            where = address.find(spec.engine).record()
        except DriverUnavailable as error:
            raise NotCreated(f"cannot start {spec.name or tag}: {error}", resource=spec.name or tag) from error
        if isinstance(spec, ContainerRef):
            return Handle(self.kind, tag, {**where, "attached": True, "ref": spec.ref}, _VERSION)
        return Handle(self.kind, tag, {**where, "attached": False, **self._made_for(spec, tag)}, _VERSION)

    @staticmethod
    def _made_for(spec: Container, tag: str) -> dict[str, list[str]]:
        name = marks.name_of(spec.name or spec.default_name, tag)
        return {
            "networks": [name] if spec.network == "own" else [],
            "volumes": list(making.volume_names(spec, name).values()),
        }

    def start(self, spec: Container | ContainerRef, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Make network, volumes and container, all with the tag, and run it.

        Raises:
            NotCreated: the engine does not answer, or something that the spec names is missing: nothing was created.
            StartError: the engine refused; what was made of it is the caller's to destroy, by the plan.

        Crash:
            What was made is found by its label and name, at the engine that the plan names.
        """
        try:
            engine = self._engines.in_use(spec.engine)
            self._held.watch(engine).await_listening()
            if isinstance(spec, ContainerRef):
                return self._attach(spec, tag, engine)
            image = images.provide(spec, engine, progress)
            if spec.health is None:
                making.refuse_missing_health_check(
                    spec, (image.get("Config") or {}).get("Healthcheck"), f"image {spec.image}"
                )
            making.check_volumes(spec, engine)
        except DriverUnavailable as error:
            raise NotCreated(f"cannot start {spec.name or tag}: {error}", resource=spec.name or tag) from error
        try:
            return self._create(spec, tag, engine, progress)
        except (DriverUnavailable, Absent) as error:
            raise StartError(f"cannot start {spec.name or spec.image}: {error}", resource=spec.name or "") from error

    def _attach(self, spec: ContainerRef, tag: str, engine: Engine) -> Handle:
        seen = self._seen(engine, spec.ref)
        if seen is None or not runs(seen["State"]):
            what = "there is no container of that name or id" if seen is None else f"it is {seen['State']['Status']}"
            raise NotCreated(f"cannot attach to {spec.ref}: {what}; see 'docker ps -a'", resource=spec.name or spec.ref)
        making.refuse_missing_health_check(spec, (seen.get("Config") or {}).get("Healthcheck"), f"container {spec.ref}")
        port = None if spec.port is None else reach.port(seen, spec.port)
        if spec.port is not None and port is None:
            raise NotCreated(
                f"cannot attach to {spec.ref}: it does not publish its port {spec.port}", resource=spec.ref
            )
        data = {**self._data(engine, seen, spec.port, port), "attached": True, "ref": spec.ref}
        handle = Handle(self.kind, tag, data, _VERSION)
        self._held.started(Live(handle, engine, seen["Id"], port))
        return handle

    def _create(self, spec: Container, tag: str, engine: Engine, progress: Progress) -> Handle:
        labels = {
            marks.RESOURCE: tag,
            marks.OWNER: self._context.owner,
            marks.IDENTITY: owner_mark(self._context.state_dir),
        }
        inside_port: list[int] = []

        def made(container: str, port: int) -> None:
            """From now on its end is of interest, and this method looks whether it has ended."""
            inside_port.append(port)
            early = Handle(
                self.kind, tag, {**engine.address.record(), "container": container, "attached": False}, _VERSION
            )
            self._held.add(Live(early, engine, container, starting=True))
            if spec.stdin == "pipe":
                self._attach_streams(tag, engine, container)

        name = marks.name_of(spec.name or spec.default_name, tag)
        making.make(spec, engine, name, labels, progress, made)
        container = self._held_container(tag)
        seen = making.inspect_patiently(engine, container)
        port = None
        if spec.uses_port:
            port = inside_port[0] if spec.network == "host" else reach.published(seen, inside_port[0])
        data = {
            **self._data(engine, seen, inside_port[0] if spec.uses_port else None, port),
            "attached": False,
            **self._made_for(spec, tag),
            **self._beside(spec, engine, seen, inside_port[0] if spec.uses_port else None, progress),
            **({"ports": {str(each): reach.published(seen, each) for each in spec.ports}} if spec.ports else {}),
        }
        handle = Handle(self.kind, tag, data, _VERSION)
        self._held.started(Live(handle, engine, container, port))
        return handle

    def _attach_streams(self, tag: str, engine: Engine, container: str) -> None:
        """Before it runs, so that nothing of its output is missed."""
        with engine.asked(limits.WORK_S) as client:
            attached = streams.Attached(client, container)
        earlier, self._attached[tag] = self._attached.get(tag), attached
        if earlier is not None:
            earlier.close()

    def streams(self, handle: Handle) -> dict[str, Any]:
        """Return the pipes to its standard input and from its standard output, if it was started with them."""
        attached = self._attached.get(handle.tag)
        return {} if attached is None else {"stdin": attached.stdin, "stdout": attached.stdout}

    def _held_container(self, tag: str) -> str:
        live = self._held.get(tag)
        if live is None:
            raise DriverUnavailable("its owner was shut down while it was being started")
        return live.container

    @staticmethod
    def _beside(
        spec: Container, engine: Engine, seen: dict[str, Any], inside_port: int | None, progress: Progress
    ) -> dict[str, Any]:
        """Say how it is reached from an app that is in a container itself. Raises StartError if it would be probed in vain."""
        how = reach.beside(engine, seen, inside_port)
        if how.why_not:
            if spec.ready is not None and spec.ready.first_of("http", "tcp"):
                raise StartError(f"cannot start {spec.name or spec.image}: {how.why_not}", resource=spec.name or "")
            progress(f"can't be reached from here: {how.why_not}")
        return {**({"host": how.host} if how.host else {}), **({"unreachable": how.why_not} if how.why_not else {})}

    @staticmethod
    def _data(engine: Engine, seen: dict[str, Any], inside: int | None, port: int | None) -> dict[str, Any]:
        return {
            **engine.address.record(),
            "container": seen["Id"],
            "image": seen["Config"]["Image"],
            "image_id": seen["Image"],
            "inside": inside,
            "port": port,
            "direct": reach.direct(seen, inside),
        }

    # -- look ----------------------------------------------------------------------------------------------------------

    @staticmethod
    def _seen(engine: Engine, container: str) -> dict[str, Any] | None:
        """Return what the engine says of a container; None if there is no such."""
        try:
            with engine.asked() as client:
                shown: dict[str, Any] = client.inspect_container(container)
                return shown
        except Absent:
            return None

    def find(self, tag: str) -> list[Handle]:
        """Look at the engine in use here for what carries the tag, and is ours."""
        engine = self._engines.in_use()
        plan = Handle(self.kind, tag, {**engine.address.record(), "attached": False}, _VERSION)
        found = marks.find(engine, plan)
        for container in found.containers:
            seen = self._seen(engine, container)
            if seen is not None:
                return [Handle(self.kind, tag, {**self._data(engine, seen, None, None), "attached": False}, _VERSION)]
        return [plan] if found else []

    def inspect(self, handle: Handle) -> Status:
        """Ask the engine. GONE means that neither the container nor anything that was made for it is there."""
        engine = self._engines.of(handle.data)
        attached, container = handle.data["attached"], handle.data.get("container")
        # One that was there before is followed by its name, since it may have been made anew.
        seen = self._seen(engine, handle.data.get("ref", container) if attached else container) if container else None
        if seen is not None:
            state = seen["State"]
            if runs(state):
                reason = "paused" if state.get("Paused") else ""
                return Status(State.READY, pids=self._members.of(seen["Id"]), reason=reason)
            if not attached or state["Status"] != "created":
                return Status(State.STOPPING, state["ExitCode"], f"its container is {state['Status']}")
        if not attached and (found := marks.find(engine, handle)):
            return Status(State.STOPPING, reason=f"something that was made for it is left: {found.in_words()}")
        return Status(State.GONE, reason="not there")

    def pids(self, handle: Handle) -> tuple[int, ...]:
        """Return its live processes on this machine, the first of it first; no engine is asked. See `HasPids`."""
        live = self._held.get(handle.tag)
        container = handle.data.get("container") if live is None else live.container
        return self._members.of(container) if container else ()

    def look(self, within_s: float) -> None:
        """See how all that is watched is, for `details`. See `CanLook`."""
        if self._held:
            # What was not seen must be said before the caller's own time is over.
            self._held.glance(0.9 * min(within_s, limits.GLANCE_S))

    def usage(self, handle: Handle) -> Usage:
        """Ask the engine for its counters."""
        with self._engines.of(handle.data).asked() as client:
            stats = client.stats(self._container(handle), stream=False, one_shot=True)
        cpu = stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage")
        return Usage(
            stats.get("pids_stats", {}).get("current"),
            None if cpu is None else cpu / request.NANO,
            stats.get("memory_stats", {}).get("usage"),
        )

    def _container(self, handle: Handle) -> str:
        live = self._held.get(handle.tag)
        return str(handle.data["container"] if live is None else live.container)

    def port(self, handle: Handle) -> int | None:
        """Return the port of this machine that leads to it, as it is now."""
        live = self._held.get(handle.tag)
        return handle.data.get("port") if live is None or live.starting else live.port

    def url(self, handle: Handle) -> str | None:
        """Return where it answers: at a port of this machine, or at its own address where this app is in a container beside it."""
        data, port = handle.data, self.port(handle)
        if data.get("host"):
            return f"http://{data['host']}:{data['inside']}"
        return None if port is None else f"http://127.0.0.1:{port}"

    def details(self, handle: Handle) -> dict[str, Any]:
        """Return its id, image, ports and engine, and when it was last seen."""
        data, live = handle.data, self._held.get(handle.tag)
        shown = {
            "container_id": data.get("container") if live is None else live.container,
            "image": data.get("image"),
            "engine": data["engine"],
        }
        if data.get("ports"):
            shown["ports"] = {int(inside): outside for inside, outside in data["ports"].items()}
        if data.get("unreachable"):
            shown["unreachable"] = data["unreachable"]
        if live is not None:
            age = time.monotonic() - live.seen
            shown["seen_s"] = round(age, 1)
            if live.unseen:
                shown["unknown"] = f"not known how it is, last seen {age:.1f} s ago: {live.unseen}"
        return shown

    def is_attached(self, handle: Handle) -> bool:
        """Whether it is a `ContainerRef`."""
        return bool(handle.data["attached"])

    def target(self, handle: Handle) -> Target:
        """Probe HTTP as users do, and TCP at the container itself: an engine's proxy accepts what nobody answers."""
        host = handle.data.get("host")
        return Target(
            host=host or "127.0.0.1",
            port=handle.data["inside"] if host else self.port(handle),
            direct=reach.proved(handle.data.get("direct"), self._engines.of(handle.data)),
            log=lambda: self.read_log(handle, None),
            health=lambda: self._health(handle),
        )

    def _health(self, handle: Handle) -> str:
        try:
            seen = self._seen(self._engines.of(handle.data), self._container(handle))
        except DriverUnavailable as error:
            return str(error)
        if seen is None:
            return "its container has gone"
        health = seen["State"].get("Health") or seen["State"].get("Healthcheck")
        if not health or not health.get("Status"):
            return f"image {handle.data['image']} has no health check"
        return "" if health["Status"] == "healthy" else f"its health check says {health['Status']}"

    def diagnose(self) -> Finding:
        """Ask the engine in use for its version."""
        try:
            engine = self._engines.in_use()
            with engine.asked() as client:
                version = client.version()["Version"]
        except DriverUnavailable as error:
            return Finding("container engine", False, str(error), "containers can't be started here")
        return Finding("container engine", True, f"{engine}, version {version}", "containers can be started")

    # -- output --------------------------------------------------------------------------------------------------------

    def read_log(self, handle: Handle, lines: int | None) -> bytes:
        """Ask the engine; of one that has ended, read what was saved."""
        return self._output.read(handle, lines)

    def read_stream(self, handle: Handle, stream: Literal["stdout", "stderr"], lines: int | None) -> bytes:
        """The same, of one of its two streams. See `HasStreamsApart`."""
        return self._output.read(handle, lines, stream)

    def follow_log(self, handle: Handle) -> Iterator[bytes]:
        """Yield what the engine passes on, until the container ends."""
        return self._output.follow(handle)

    # -- adoption ------------------------------------------------------------------------------------------------------

    def adopt(self, handle: Handle, fence: int) -> int | None:
        """Watch a kept container from now on: the ledger's fence is the fence. See `tether.drivers.CanAdopt`."""
        engine = self._engines.of(handle.data)
        self._held.watch(engine).await_listening()
        status = self.inspect(handle)
        if status.state is not State.READY:
            raise Gone(f"resource {handle.tag} can't be adopted: {status.reason}")
        self._held.started(Live(handle, engine, handle.data["container"], handle.data.get("port")))
        return None

    def is_outdated(self, handle: Handle, spec: Container | ContainerRef, progress: Progress) -> str:
        """Say why a kept container is not what the spec would start now: its image has changed. See `CanCompare`."""
        if isinstance(spec, ContainerRef) or "image_id" not in handle.data:
            return ""
        try:
            image = images.provide(spec, self._engines.of(handle.data), progress)["Id"]
        except (DriverUnavailable, NotCreated):
            # Nothing newer could be started.
            return ""
        return "" if image == handle.data["image_id"] else f"image {spec.image} is another one by now"

    def receipt(self, handle: Handle) -> Ended | None:
        """Return the exit code that the engine kept, or None if the container has been removed."""
        status = self.inspect(handle)
        if status.state is not State.STOPPING or status.exit_code is None:
            return None
        return Ended(status.exit_code, "ended while nobody owned it", proof="the engine says so")

    # -- end -----------------------------------------------------------------------------------------------------------

    def stop(self, handle: Handle, grace: float) -> None:
        """Have the engine stop it, then remove it and all that was made for it. Raises as `destroy`."""
        container = handle.data.get("container")
        if container is not None and not handle.data["attached"]:
            self._mark_ending(handle.tag)
            self._stop(self._engines.of(handle.data), container, grace)
        self.destroy(handle)

    @staticmethod
    def _stop(engine: Engine, container: str, grace: float) -> None:
        """Stop it politely; what the engine refuses is for the removal by force, which follows. Raises DriverUnavailable."""
        try:
            # What is frozen can't hear a polite signal, and podman refuses to stop it.
            with engine.asked() as client:
                paused = client.inspect_container(container)["State"].get("Paused")
            if paused:
                with engine.asked() as client:
                    client.unpause(container)
        except (Absent, Refused):
            pass
        with suppress(Absent, Refused), engine.asked(limits.WORK_S) as client:
            client.stop(container, timeout=math.ceil(grace))

    def destroy(self, handle: Handle) -> None:
        """Remove by force what is ours under the tag, until the engine shows nothing of it any more. Never what was there before.

        Raises:
            DriverUnavailable: the engine does not answer, or can't end it; to be tried again.
            NotRemoved: nothing of it runs any more, but something of it can't be removed; to be tried again.
        """
        if not handle.data["attached"]:
            self._mark_ending(handle.tag)
            self._remove_all(handle)
        self._held.let_go(handle.tag)

    def _mark_ending(self, tag: str) -> None:
        live = self._held.get(tag)
        if live is not None:
            live.ending = True

    def _remove_all(self, handle: Handle) -> None:
        engine = self._engines.of(handle.data)
        removal.remove(engine, handle, lambda container: self._output.save(engine, handle.tag, container))
