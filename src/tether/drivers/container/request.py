"""What an engine is asked for, made from a spec."""

from __future__ import annotations

import re
from typing import Any

from tether.drivers.container.spec import Container, Mount
from tether.spec import put_port

__all__ = ["NANO", "PORT_INSIDE", "base_name", "own_volumes", "settings"]

NANO = 1_000_000_000
"""Engines count processors and their time in billionths."""

PORT_INSIDE = 8000
"""What ``{port}`` stands for in a container of its own network, where every port is free."""

_LOOPBACK = "127.0.0.1"


def base_name(spec: Container) -> str:
    """Return a part of the container's name that people recognise."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", spec.name or spec.default_name)


def own_volumes(spec: Container) -> list[str]:
    """Return the paths at which volumes are mounted that are made for the container."""
    return [path for path, mount in spec.mounts.items() if isinstance(mount, Mount) and mount.source is None]


def settings(
    spec: Container, client: Any, name: str, labels: dict[str, str], volumes: dict[str, str], port: int
) -> dict[str, Any]:
    """Return the arguments of ``create_container``.

    Args:
        spec: the spec.
        client: the engine's.
        name: of the container, and of its own network.
        labels: of the container.
        volumes: by path, the names of those that were made for it.
        port: what ``{port}`` stands for.
    """
    from docker.types import DeviceRequest
    from docker.types import Mount as EngineMount

    publishes = (
        {**dict.fromkeys([port] if spec.uses_port else []), **spec.ports}
        if spec.network not in ("host", "none")
        else {}
    )
    mounts = [
        EngineMount(
            path,
            volumes.get(path) or str(mount.source),
            type="bind" if str(mount.source or "").startswith("/") else "volume",
            read_only=mount.read_only,
        )
        for path, mount in spec.mounts.items()
        if isinstance(mount, Mount)
    ]
    gpus = []
    if spec.gpus is not None:
        wanted = (
            {"device_ids": list(spec.gpus)}
            if isinstance(spec.gpus, list | tuple)
            else {"count": -1 if spec.gpus == "all" else spec.gpus}
        )
        gpus = [DeviceRequest(capabilities=[["gpu"]], **wanted)]
    host = client.create_host_config(
        port_bindings={inside: (_LOOPBACK, outside) for inside, outside in publishes.items()},
        mounts=mounts,
        network_mode=name if spec.network == "own" else spec.network,
        device_requests=gpus or None,
        mem_limit=spec.memory,
        nano_cpus=None if spec.cpus is None else int(spec.cpus * NANO),
        pids_limit=spec.pids_limit,
        shm_size=spec.shm_size,
        init=spec.init or None,
    )
    command = [put_port(word, port) for word in spec.command] or None
    return {
        "name": name,
        "command": command,
        "entrypoint": list(spec.entrypoint) if spec.entrypoint is not None else None,
        "environment": {key: put_port(value, port) for key, value in spec.env.items() if value is not None},
        "user": spec.user,
        "working_dir": spec.workdir,
        "ports": list(publishes),
        "labels": labels,
        "host_config": host,
        "stop_signal": None if spec.stop_signal is None else str(spec.stop_signal),
    }
