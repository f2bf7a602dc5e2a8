"""RunPod's pods: containers with GPUs that are billed until they are deleted. Without idempotency: name and mark go on at creation.

Its own time limits are not used: by its makers' word they never worked, and they can't be read back.

Source: the published OpenAPI description of its REST API, version 1 (docs.runpod.io).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, ClassVar

from tether.drivers.cloud.provider import Choice, Order, Phase, Refused, Seen, Tested, Unclear
from tether.drivers.cloud.providers.rest import RESOURCE, Api, Listed, check_options
from tether.drivers.cloud.spec import Machine, MachineRef
from tether.errors import SpecError
from tether.protocol import CloudProviderType

__all__ = ["RunPod"]

_URL = "https://rest.runpod.io/v1"
_SSH = 22
# A pod that has stopped keeps its volume, which is billed.
_PHASES: dict[str, Phase] = {"RUNNING": "running", "EXITED": "stopped", "TERMINATED": "gone"}


class RunPod(Listed):
    """See `tether.drivers.cloud.provider.Provider`. The key is in ``RUNPOD_API_KEY``.

    The image is a container's, and must be named; those of RunPod's own start sshd with the key pair that is made for the pod. It
    makes its own host key there: a process on it needs ``known_hosts=`` or ``verify_host=False``.

    Options of `Machine`: ``env``, variables of the pod, which its provider shows to whoever may look at it; ``request``, more
    fields of the request.
    """

    type: ClassVar[CloudProviderType] = CloudProviderType.RUNPOD
    idempotent: ClassVar[bool] = False
    lag_s: ClassVar[float] = 60.0
    tested: ClassVar[Tested] = "contract-tested against its published description"
    boots: ClassVar[bool] = False

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._region = where["region"]
        self._api = Api("runpod", where["endpoint"], "RUNPOD_API_KEY")

    @classmethod
    def where(cls, spec: Machine | MachineRef) -> dict[str, Any]:
        """Return the data center and address."""
        wrong = {"profile=": spec.profile is not None}
        if isinstance(spec, Machine):
            wrong |= {"user_data=": bool(spec.user_data), "network=": spec.network is not None}
            wrong |= {"key pairs by name": isinstance(spec.key, str), "memory=": spec.memory is not None}
            if not spec.image:
                raise SpecError("runpod needs image=, the name of a container's image")
        check_options(spec, "runpod", ("env", "request"), wrong)
        endpoint = spec.endpoint or os.environ.get("RUNPOD_REST_URL") or _URL
        return {"region": spec.region, "endpoint": endpoint}

    # -- create --------------------------------------------------------------------------------------------------------

    def choose(self, spec: Machine) -> Choice:
        """Take what was asked for as RunPod calls it; its interface has no catalogue."""
        gpu = spec.gpu or (spec.type if spec.cpus is None else None)
        if gpu is None and spec.cpus is None:
            raise Refused("runpod needs gpu=, for instance 'NVIDIA GeForce RTX 4090', or cpus=")
        return Choice(gpu or spec.type, None, max(1, spec.gpu_count) if gpu else 0, gpu, "root")

    def create(self, order: Order, choice: Choice) -> Seen:
        """Create one pod. Raises Refused or Unclear."""
        made = self._api.ask("POST", "/pods", self._request(order, choice), creating=True)
        if not isinstance(made, dict) or "id" not in made:
            raise Unclear(f"runpod answered without an id: {made}")
        return _seen(made)

    def _request(self, order: Order, choice: Choice) -> dict[str, Any]:
        spec = order.spec
        env = {**spec.labels, **spec.options.get("env", {}), RESOURCE: order.tag}
        if order.public_key is not None:
            env["PUBLIC_KEY"] = order.public_key
        ports = sorted({_SSH, *spec.open_ports, *([] if spec.port is None else [spec.port])})
        request: dict[str, Any] = {
            # What it costs when it has stopped is not wanted.
            "volumeInGb": 0,
            **spec.options.get("request", {}),
            "name": order.proof,
            "imageName": spec.image,
            "env": env,
            "ports": [f"{port}/tcp" for port in ports],
            "supportPublicIp": True,
            "interruptible": spec.spot,
        }
        if choice.gpu is not None:
            request |= {"computeType": "GPU", "gpuTypeIds": [choice.gpu], "gpuCount": choice.gpu_count}
        else:
            request |= {"computeType": "CPU", "vcpuCount": spec.cpus}
            if spec.type is not None:
                request["cpuFlavorIds"] = [spec.type]
        if spec.disk is not None:
            request["containerDiskInGb"] = spec.disk
        if self._region is not None:
            request["dataCenterIds"] = [self._region]
        return request

    # -- look and end --------------------------------------------------------------------------------------------------

    def _all(self) -> list[Seen]:
        return [_seen(each) for each in self._api.ask("GET", "/pods") or ()]

    def _one(self, machine: str) -> Seen | None:
        shown = self._api.ask("GET", f"/pods/{machine}")
        return None if shown is None else _seen(shown)

    def terminate(self, machine: str) -> None:
        """Delete a pod."""
        self._api.ask("DELETE", f"/pods/{machine}")


def _seen(shown: Mapping[str, Any]) -> Seen:
    gpu = shown.get("gpu") or {}
    ports = {int(inside): int(outside) for inside, outside in (shown.get("portMappings") or {}).items()}
    price = shown.get("adjustedCostPerHr", shown.get("costPerHr"))
    return Seen(
        shown["id"],
        _PHASES.get(shown.get("desiredStatus", ""), "pending"),
        shown.get("desiredStatus", ""),
        shown.get("lastStatusChange") or "",
        (shown.get("env") or {}).get(RESOURCE),
        shown.get("name"),
        _time(shown.get("lastStartedAt")),
        # Without a port to log in by, the address is of no use yet.
        (shown.get("publicIp") or None) if ports else None,
        gpu.get("id") or shown.get("cpuFlavorId"),
        gpu.get("count", 0),
        gpu.get("id"),
        None if price is None else float(price),
        ports.get(_SSH, _SSH),
        ports,
    )


def _time(said: str | None) -> float | None:
    with suppress(ValueError, TypeError):
        return datetime.fromisoformat(str(said)).timestamp()
    return None
