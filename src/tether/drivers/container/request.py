"""What an engine is asked for, made from a spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tether.drivers.archive import pack
from tether.drivers.container.spec import Container, HealthCheck, Mount
from tether.model import Ready
from tether.port import put_port

__all__ = ["NANO", "PORT_INSIDE", "archives", "config", "wants_health"]

NANO = 1_000_000_000
"""Engines count processors and their time in billionths."""

PORT_INSIDE = 8000
"""What ``{port}`` stands for in a container of its own network, where every port is free."""

_LOOPBACK = "127.0.0.1"
_NETWORKS_OF_THE_ENGINE = ("bridge", "host", "none", "default")


def wants_health(ready: Ready | None) -> bool:
    """Whether a probe can't pass without a health check of the container."""
    if ready is None:
        return False
    if ready.kind == "health":
        return True
    if ready.kind == "any":
        return all(map(wants_health, ready.target))
    return ready.kind == "all" and any(map(wants_health, ready.target))


def _mounts(spec: Container, volumes: Mapping[str, str]) -> list[Any]:
    from docker.types import Mount as EngineMount

    return [
        EngineMount(
            path,
            volumes.get(path) or str(mount.source),
            type="bind" if str(mount.source or "").startswith("/") else "volume",
            read_only=mount.read_only,
        )
        for path, mount in spec.mounts.items()
        if isinstance(mount, Mount)
    ]


def _gpus(spec: Container) -> list[Any] | None:
    from docker.types import DeviceRequest

    if spec.gpus is None:
        return None
    wanted = (
        {"device_ids": list(spec.gpus)}
        if isinstance(spec.gpus, list | tuple)
        else {"count": -1 if spec.gpus == "all" else spec.gpus}
    )
    return [DeviceRequest(capabilities=[["gpu"]], **wanted)]


def _health(check: HealthCheck) -> dict[str, Any]:
    return {
        "test": ["CMD", *check.command],
        "interval": int(check.interval * NANO),
        "timeout": int(check.timeout * NANO),
        "retries": check.retries,
        "start_period": int(check.start_period * NANO),
    }


def config(
    spec: Container, client: Any, name: str, labels: dict[str, str], volumes: dict[str, str], port: int
) -> dict[str, Any]:
    """Return what the engine is sent to create a container.

    Args:
        spec: the spec.
        client: the engine's.
        name: of the container, and of its own network.
        labels: of the container.
        volumes: by path, the names of those that were made for it.
        port: what ``{port}`` stands for.
    """
    publishes = (
        {**dict.fromkeys([port] if spec.uses_port else []), **spec.ports}
        if spec.network not in ("host", "none")
        else {}
    )
    network = name if spec.network == "own" else str(spec.network)
    host = client.create_host_config(
        port_bindings={inside: (_LOOPBACK, outside) for inside, outside in publishes.items()},
        mounts=_mounts(spec, volumes),
        tmpfs=dict(spec.tmpfs) or None,
        network_mode=network,
        device_requests=_gpus(spec),
        mem_limit=spec.memory,
        nano_cpus=None if spec.cpus is None else int(spec.cpus * NANO),
        pids_limit=spec.pids_limit,
        shm_size=spec.shm_size,
        init=spec.init or None,
    )
    networking = None
    if network not in _NETWORKS_OF_THE_ENGINE and spec.aliases:
        networking = client.create_networking_config(
            {network: client.create_endpoint_config(aliases=list(spec.aliases))}
        )
    asked = client.create_container_config(
        spec.image,
        [put_port(word, port) for word in spec.command] or None,
        entrypoint=list(spec.entrypoint) if spec.entrypoint is not None else None,
        environment={key: put_port(value, port) for key, value in spec.env.items() if value is not None},
        user=spec.user,
        working_dir=spec.workdir,
        ports=list(publishes),
        labels=labels,
        host_config=host,
        networking_config=networking,
        stop_signal=None if spec.stop_signal is None else str(spec.stop_signal),
        healthcheck=None if spec.health is None else _health(spec.health),
        stdin_open=spec.stdin == "pipe",
    )
    if spec.stdin == "pipe":
        # Closed there when we close it, as with a process.
        asked["StdinOnce"] = True
    return _merged(dict(asked), spec.options)


def _merged(asked: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Add the engine's own options, folder by folder; labels of ours stay."""
    for key, value in more.items():
        old = asked.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            asked[key] = _merged(old, value) if key != "Labels" else {**value, **old}
        else:
            asked[key] = value
    return asked


def archives(spec: Container) -> Iterator[bytes]:
    """Yield archives of the files that are copied in, to be unpacked at the root of the container. Raises OSError."""
    for path, source in spec.files.items():
        yield pack(source, path.strip("/"))
