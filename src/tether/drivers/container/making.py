"""Makes a container and what goes with it, at an engine; everything carries the tag before anything runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tether.drivers.container import limits, request
from tether.drivers.container.engine import Absent, Engine
from tether.drivers.container.spec import Container, Mount
from tether.errors import DriverUnavailable, NotCreated
from tether.linux import faults, sockets
from tether.model import Progress

__all__ = ["check_volumes", "inspect_patiently", "make", "refuse_missing_health_check", "volume_names"]

_LOOKS = 4
_LOOK_PAUSE_S = 0.25


def volume_names(spec: Container, name: str) -> dict[str, str]:
    """Return, by path, the names of the volumes that are made for it: its own, and those that are made if they are not there."""
    mounts = [(path, mount) for path, mount in spec.mounts.items() if isinstance(mount, Mount)]
    own = [path for path, mount in mounts if mount.source is None]
    return {path: f"{name}-{number}" for number, path in enumerate(own)} | {
        path: str(mount.source) for path, mount in mounts if mount.create
    }


def check_volumes(spec: Container, engine: Engine) -> None:
    """Refuse a volume that is not there: an engine would make one, of which nobody knows, with nothing in it.

    Raises:
        NotCreated: there is none of that name.
    """
    for path, mount in spec.mounts.items():
        if not isinstance(mount, Mount) or mount.source is None or mount.create or str(mount.source).startswith("/"):
            continue
        try:
            with engine.asked() as client:
                client.inspect_volume(str(mount.source))
        except Absent as error:
            raise NotCreated(
                f"cannot start {spec.name or spec.image}: there is no volume {mount.source} at {engine}, to be mounted at {path}; "
                f"write an absolute path for a folder, make it with 'docker volume create {mount.source}', "
                "or say Mount(..., create=True) for one that is made now and goes with the container",
                resource=spec.name or "",
            ) from error


def refuse_missing_health_check(spec: Any, checked: dict[str, Any] | None, what: str) -> None:
    """Refuse `healthy()` for what has no health check: it would only be waited for in vain. Raises NotCreated."""
    test = (checked or {}).get("Test") or ["NONE"]
    if request.wants_health(spec.ready) and test[0] == "NONE":
        raise NotCreated(
            f"cannot start {spec.name or what}: ready=healthy(), and {what} has no health check; give it one with health=, "
            "or use another probe",
            resource=spec.name or "",
        )


def make(
    spec: Container,
    engine: Engine,
    name: str,
    labels: dict[str, str],
    progress: Progress,
    made: Callable[[str, int], None],
) -> None:
    """Make network, volumes and container, and start it.

    Args:
        spec: the spec.
        engine: where.
        name: of the container, and of its own network.
        labels: of all that is made.
        progress: told what is being done.
        made: called with the container's id and its port inside, before it runs.

    Raises:
        DriverUnavailable: the engine does not answer or refuses; what was made of it stays.
        Absent: something that the spec names is not there.
        NotCreated: a file to be copied in can't be read; nothing was made.
    """
    try:
        archives = list(request.archives(spec))
    except OSError as error:
        raise NotCreated(
            f"cannot start {spec.name or spec.image}: files=: {error}", resource=spec.name or ""
        ) from error
    with engine.asked(limits.WORK_S) as client:
        if spec.network == "own":
            client.create_network(name, driver="bridge", labels=labels)
            faults.point("start.making")
        volumes = volume_names(spec, name)
        for volume in volumes.values():
            client.create_volume(volume, labels=labels)
            faults.point("start.making")
        progress("creating the container")
        inside = spec.port or (sockets.free_port() if spec.network == "host" else request.PORT_INSIDE)
        config = request.config(spec, client, name, {**spec.labels, **labels}, volumes, inside)
        container = client.create_container_from_config(config, name)["Id"]  # type: ignore[no-untyped-call]
        faults.point("start.making")
        for archive in archives:
            client.put_archive(container, "/", archive)
        progress("starting it")
        made(container, inside)
        client.start(container)


def inspect_patiently(engine: Engine, container: str) -> dict[str, Any]:
    """Look at a container that was just started: one failed look does not end a sound start.

    Raises:
        DriverUnavailable: the engine does not answer, asked several times.
        Absent: it has gone.
    """
    for attempt in range(_LOOKS):
        try:
            with engine.asked() as client:
                shown: dict[str, Any] = client.inspect_container(container)
                return shown
        except DriverUnavailable:
            if attempt == _LOOKS - 1:
                raise
            time.sleep(_LOOK_PAUSE_S)
    raise AssertionError("unreachable")
