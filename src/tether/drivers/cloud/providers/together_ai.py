"""Together's GPU clusters, on demand: Kubernetes or Slurm on eight GPUs or more, billed until they are deleted.

They have neither idempotency nor tags. The mark is in the name, which is of tether's own making and new for each attempt.

Source: the published OpenAPI description of its GPUClusterService (docs.together.ai) and its own client, together 3.1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from tether.drivers.cloud.provider import Choice, Order, Phase, Refused, Seen, Tested, Unclear
from tether.drivers.cloud.providers.rest import Api, Listed, check_options
from tether.drivers.cloud.spec import Machine, MachineRef
from tether.errors import SpecError
from tether.protocol import CloudProviderType

__all__ = ["TogetherAi"]

_URL = "https://api.together.ai/v1"
_NODE = 8
# What is paused keeps its control plane and volumes.
_PHASES: dict[str, Phase] = {
    "Ready": "running",
    "Degraded": "running",
    "Paused": "stopped",
    "OnDemandComputePaused": "stopped",
    "Deleting": "ending",
}
_NAME = re.compile(r"tether-([0-9a-f]+)-[0-9a-f]{8}")
_SERVER = re.compile(r"server:\s*[\"']?https?://([^\s:/\"']+)")


class TogetherAi(Listed):
    """See `tether.drivers.cloud.provider.Provider`. The key is in ``TOGETHER_API_KEY``.

    A cluster is no machine to log in to: it needs ``key=False``. Its address is that of its Kubernetes; what logs in there,
    Together's own tools hand out by the id in ``details``, and tether keeps nothing of it. ``gpu`` is, for instance, "H100_SXM",
    ``gpu_count`` a multiple of 8, ``image`` the id of a version of NVIDIA's drivers, by default the first of the region.

    Options of `Machine`: ``request``, more fields of the request to create.
    """

    type: ClassVar[CloudProviderType] = CloudProviderType.TOGETHER_AI
    idempotent: ClassVar[bool] = False
    lag_s: ClassVar[float] = 60.0
    tested: ClassVar[Tested] = "contract-tested against its published description"
    boots: ClassVar[bool] = False

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._region = where["region"]
        self._api = Api("together_ai", where["endpoint"], "TOGETHER_API_KEY")

    @classmethod
    def where(cls, spec: Machine | MachineRef) -> dict[str, Any]:
        """Return region and address."""
        wrong = {"profile=": spec.profile is not None}
        if isinstance(spec, Machine):
            wrong |= {"machine to log in to: give key=False": spec.key is not False}
            wrong |= {"user_data=": bool(spec.user_data), "spot=": spec.spot, "network=": spec.network is not None}
            wrong |= {"labels=": bool(spec.labels), "disk=": spec.disk is not None, "cpus=": spec.cpus is not None}
            wrong |= {"memory=": spec.memory is not None, "firewall for open_ports=": bool(spec.open_ports)}
            if not (spec.gpu or spec.type):
                raise SpecError("together_ai needs gpu=, for instance 'H100_SXM'")
            if spec.gpu_count % _NODE:
                raise SpecError(f"together_ai rents GPUs by {_NODE}: gpu_count={spec.gpu_count} is no multiple of that")
        check_options(spec, "together_ai", ("request",), wrong)
        base = os.environ.get("TOGETHER_BASE_URL")
        return {"region": spec.region, "endpoint": spec.endpoint or (f"{base.rstrip('/')}/v1" if base else _URL)}

    # -- create --------------------------------------------------------------------------------------------------------

    def choose(self, spec: Machine) -> Choice:
        """Choose a region that has the GPU, and the version of its drivers. Its interface says no prices."""
        gpu = spec.gpu or spec.type
        regions = (self._api.ask("GET", "/compute/regions") or {}).get("regions", ())
        there = [each for each in regions if gpu in each["supported_instance_types"]]
        there = [each for each in there if self._region in (None, each["name"])]
        if not there:
            raise Refused(f"together_ai has no {gpu}{f' in {self._region}' if self._region else ''}; see its regions")
        versions = [each["id"] for each in there[0]["driver_versions"]]
        if not (spec.image or versions):
            raise Refused(f"together_ai names no version of drivers in {there[0]['name']}; give image=, the id of one")
        data = {"region": there[0]["name"], "drivers": spec.image or versions[0]}
        return Choice(gpu, None, spec.gpu_count or _NODE, gpu, None, data)

    def create(self, order: Order, choice: Choice) -> Seen:
        """Create one cluster. Raises Refused or Unclear."""
        request = {
            "cluster_type": "KUBERNETES",
            **order.spec.options.get("request", {}),
            "billing_type": "ON_DEMAND",
            "cluster_name": order.proof,
            "region": choice.data["region"],
            "gpu_type": choice.gpu,
            "num_gpus": choice.gpu_count,
            "nvidia_version_id": choice.data["drivers"],
        }
        made = self._api.ask("POST", "/compute/clusters", request, creating=True)
        if not isinstance(made, dict) or "cluster_id" not in made:
            raise Unclear("together_ai answered without an id")
        return _seen(made)

    # -- look and end --------------------------------------------------------------------------------------------------

    def _all(self) -> list[Seen]:
        return [_seen(each) for each in (self._api.ask("GET", "/compute/clusters") or {}).get("clusters", ())]

    def _one(self, machine: str) -> Seen | None:
        shown = self._api.ask("GET", f"/compute/clusters/{machine}")
        return None if shown is None else _seen(shown)

    def terminate(self, machine: str) -> None:
        """Delete a cluster."""
        self._api.ask("DELETE", f"/compute/clusters/{machine}")


def _seen(shown: Mapping[str, Any]) -> Seen:
    name = shown.get("cluster_name") or ""
    marked = _NAME.fullmatch(name)
    # Of what logs in there the address alone is taken.
    server = _SERVER.search(shown.get("kube_config") or "")
    made = shown.get("created_at")
    return Seen(
        shown["cluster_id"],
        _PHASES.get(shown.get("status", ""), "pending"),
        shown.get("status", ""),
        tag=marked[1] if marked else None,
        proof=name,
        made=datetime.fromisoformat(made).timestamp() if made else None,
        address=server[1] if server else None,
        type=shown.get("gpu_type"),
        gpu_count=shown.get("num_gpus", 0),
        gpu=shown.get("gpu_type"),
    )
