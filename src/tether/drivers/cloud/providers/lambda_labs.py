"""Lambda's GPU cloud. It has no idempotency: tag and name go on a machine at its creation, and its lists say what came of it.

Source: the Lambda Cloud API's published description (docs.lambda.ai, version 1).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tether.drivers.cloud.provider import Choice, Order, Part, Phase, Refused, Seen, Tested, Unclear
from tether.drivers.cloud.providers.rest import RESOURCE, Api, Listed, check_options
from tether.drivers.cloud.spec import Machine, MachineRef
from tether.errors import DriverUnavailable
from tether.protocol import CloudProviderType

__all__ = ["LambdaLabs"]

_URL = "https://cloud.lambda.ai/api/v1"
_GIB = 1 << 30
_TEXT_BYTES = 1 << 20
# What is unhealthy, or was taken away, is billed until the provider says that it is terminated.
_PHASES: dict[str, Phase] = {
    "booting": "pending",
    "active": "running",
    "unhealthy": "stopped",
    "preempted": "stopped",
    "terminating": "ending",
    "terminated": "gone",
}


class LambdaLabs(Listed):
    """See `tether.drivers.cloud.provider.Provider`. The key is in ``LAMBDA_API_KEY``.

    A machine needs a key pair: one that is made for it, or the name of one of yours. Its image is a family's name. A shutdown in it
    ends no billing, so there is no lease but the reaper's.

    Options of `Machine`: ``request``, more fields of the request to launch.
    """

    type: ClassVar[CloudProviderType] = CloudProviderType.LAMBDA_LABS
    idempotent: ClassVar[bool] = False
    lag_s: ClassVar[float] = 60.0
    tested: ClassVar[Tested] = "contract-tested against its published description"
    boots: ClassVar[bool] = True

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._region = where["region"]
        self._api = Api("lambda_labs", where["endpoint"], "LAMBDA_API_KEY")

    @classmethod
    def where(cls, spec: Machine | MachineRef) -> dict[str, Any]:
        """Return region and address."""
        wrong = {"profile=": spec.profile is not None}
        if isinstance(spec, Machine):
            wrong |= {"spot=": spec.spot, "disk=": spec.disk is not None, "network=": spec.network is not None}
            wrong |= {"machine without a key": spec.key is False}
        check_options(spec, "lambda_labs", ("request",), wrong)
        endpoint = spec.endpoint or os.environ.get("LAMBDA_CLOUD_BASE_URL") or _URL
        return {"region": spec.region, "endpoint": endpoint}

    # -- create --------------------------------------------------------------------------------------------------------

    def choose(self, spec: Machine) -> Choice:
        """Choose the cheapest size that has what was asked for, where there is one now."""
        sizes = (self._api.ask("GET", "/instance-types") or {}).get("data", {}).values()
        fitting = [each for each in sizes if _fits(each["instance_type"], spec)]
        if not fitting:
            raise Refused(
                f"lambda_labs has no size with type={spec.type!r}, gpu={spec.gpu!r}, gpu_count={spec.gpu_count}; see its list"
            )
        there = [each for each in fitting if self._region_for(each) is not None]
        if not there:
            names = ", ".join(each["instance_type"]["name"] for each in fitting)
            raise Refused(f"lambda_labs has no capacity now for {names}{f' in {self._region}' if self._region else ''}")
        best = min(there, key=lambda each: each["instance_type"]["price_cents_per_hour"])
        shown = best["instance_type"]
        gpus = shown["specs"].get("gpus", 0)
        return Choice(
            shown["name"],
            shown["price_cents_per_hour"] / 100,
            gpus,
            shown.get("gpu_description") if gpus else None,
            "ubuntu",
            {"region": self._region_for(best)},
        )

    def _region_for(self, size: Mapping[str, Any]) -> str | None:
        regions = [each["name"] for each in size["regions_with_capacity_available"]]
        return next((name for name in regions if self._region in (None, name)), None)

    def create(self, order: Order, choice: Choice) -> Seen:
        """Launch one instance. Raises Refused or Unclear."""
        spec = order.spec
        if len(order.user_data) > _TEXT_BYTES:
            raise Refused(f"user_data is {len(order.user_data)} bytes; lambda_labs takes {_TEXT_BYTES}")
        tags = {**spec.labels, RESOURCE: order.tag}
        request = {
            **spec.options.get("request", {}),
            "region_name": choice.data["region"],
            "instance_type_name": choice.type,
            "ssh_key_names": [spec.key if isinstance(spec.key, str) else _key_name(order.tag)],
            "name": order.proof,
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        if spec.image is not None:
            request["image"] = {"family": spec.image}
        if order.user_data:
            request["user_data"] = order.user_data.decode("utf-8", "replace")
        made = self._api.ask("POST", "/instance-operations/launch", request, creating=True)
        try:
            machine = made["data"]["instance_ids"][0]
        except (TypeError, KeyError, IndexError) as error:
            raise Unclear(f"lambda_labs answered without an id: {made}") from error
        return Seen(machine, "pending", "booting", tag=order.tag, proof=order.proof)

    # -- look and end --------------------------------------------------------------------------------------------------

    def _all(self) -> list[Seen]:
        return [_seen(each) for each in (self._api.ask("GET", "/instances") or {}).get("data", ())]

    def _one(self, machine: str) -> Seen | None:
        shown = self._api.ask("GET", f"/instances/{machine}")
        return None if shown is None else _seen(shown["data"])

    def terminate(self, machine: str) -> None:
        """Terminate an instance."""
        self._api.ask("POST", "/instance-operations/terminate", {"instance_ids": [machine]})

    # -- parts ---------------------------------------------------------------------------------------------------------

    def planned(self, spec: Machine, tag: str) -> list[Part]:
        """See `HasParts`: a key pair."""
        return [Part("key pair", _key_name(tag))] if spec.key is True else []

    def make(self, part: Part, order: Order) -> None:
        """See `HasParts`. Whether an unclear answer meant that it was made, the list says."""
        try:
            self._api.ask("POST", "/ssh-keys", {"name": part.name, "public_key": order.public_key})
        except DriverUnavailable:
            same = [
                key
                for key in self._keys(part.name)
                if key["public_key"].split()[:2] == (order.public_key or "").split()[:2]
            ]
            if not same:
                raise

    def parts(self, tag: str, planned: Sequence[Part], began: float) -> list[Part]:
        """See `HasParts`: by the name, which only tether can have made."""
        return [part for part in planned if self._keys(part.name)]

    def remove(self, part: Part) -> None:
        """See `HasParts`."""
        for key in self._keys(part.name):
            self._api.ask("DELETE", f"/ssh-keys/{key['id']}")

    def _keys(self, name: str) -> list[dict[str, Any]]:
        return [key for key in (self._api.ask("GET", "/ssh-keys") or {}).get("data", ()) if key["name"] == name]


def _key_name(tag: str) -> str:
    return f"tether-{tag}"


def _fits(shown: Mapping[str, Any], spec: Machine) -> bool:
    specs = shown["specs"]
    memory = spec.memory if isinstance(spec.memory, int) else 0
    is_model = spec.gpu is None or spec.gpu.casefold() in str(shown.get("gpu_description", "")).casefold()
    is_enough = specs.get("vcpus", 0) >= (spec.cpus or 0) and specs.get("memory_gib", 0) * _GIB >= memory
    return (
        spec.type in (None, shown["name"]) and is_model and is_enough and specs.get("gpus", 0) >= (spec.gpu_count or 0)
    )


def _seen(shown: Mapping[str, Any]) -> Seen:
    tags = {tag["key"]: tag["value"] for tag in shown.get("tags") or ()}
    size = shown.get("instance_type", {})
    gpus = size.get("specs", {}).get("gpus", 0)
    price = size.get("price_cents_per_hour")
    return Seen(
        shown["id"],
        _PHASES.get(shown["status"], "pending"),
        shown["status"],
        tag=tags.get(RESOURCE),
        proof=shown.get("name"),
        address=shown.get("ip"),
        type=size.get("name"),
        gpu_count=gpus,
        gpu=size.get("gpu_description") if gpus else None,
        cost_per_hour=None if price is None else price / 100,
    )
