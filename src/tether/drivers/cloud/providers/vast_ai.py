"""Vast.ai's instances: containers with GPUs of many hosts, billed until they are destroyed.

Without idempotency: label and mark go on at creation.

Source: the published description of its REST API (docs.vast.ai) and its own Python client, vastai 1.9.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import urlencode

from tether.drivers.cloud.provider import Choice, Order, Phase, Refused, Seen, Tested, Unclear
from tether.drivers.cloud.providers.rest import RESOURCE, Api, Listed, check_options
from tether.drivers.cloud.spec import Machine, MachineRef
from tether.errors import SpecError
from tether.protocol import CloudProviderType

__all__ = ["VastAi"]

_URL = "https://console.vast.ai/api"
_SSH = 22
_PAGE = 25
_DISK_GB = 10
_MIB = 1 << 20
# Whatever does not run keeps its disk, which is billed; a host that is away may come back with the instance.
_PHASES: dict[str, Phase] = {
    "running": "running",
    "stopped": "stopped",
    "frozen": "stopped",
    "exited": "stopped",
    "offline": "stopped",
    "unknown": "stopped",
}
_KEY_SCRIPT = (
    "mkdir -p ~/.ssh; chmod 700 ~/.ssh; echo '{key}' >>~/.ssh/authorized_keys; chmod 600 ~/.ssh/authorized_keys"
)


class VastAi(Listed):
    """See `tether.drivers.cloud.provider.Provider`. The key is in ``VAST_API_KEY``.

    The image is a container's, and must be named; Vast.ai starts sshd in it, with the key pair that is made for the instance. It
    makes its own host key there: a process on it needs ``known_hosts=`` or ``verify_host=False``. ``region`` is a country, by two
    letters; ``spot=True`` bids the lowest price that is taken now.

    Options of `Machine`: ``env``, variables of the instance, which its provider shows to whoever may look at it; ``query``, more
    of what an offer must have, as its search takes it; ``request``, more fields of the request.
    """

    type: ClassVar[CloudProviderType] = CloudProviderType.VAST_AI
    idempotent: ClassVar[bool] = False
    lag_s: ClassVar[float] = 60.0
    tested: ClassVar[Tested] = "contract-tested against its published description"
    boots: ClassVar[bool] = False

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._region = where["region"]
        self._api = Api("vast_ai", where["endpoint"], "VAST_API_KEY")

    @classmethod
    def where(cls, spec: Machine | MachineRef) -> dict[str, Any]:
        """Return country and address."""
        wrong = {"profile=": spec.profile is not None}
        if isinstance(spec, Machine):
            wrong |= {"user_data=": bool(spec.user_data), "network=": spec.network is not None}
            wrong |= {"key pairs by name": isinstance(spec.key, str), "type=, but gpu=": spec.type is not None}
            if not spec.image:
                raise SpecError("vast_ai needs image=, the name of a container's image")
        check_options(spec, "vast_ai", ("env", "query", "request"), wrong)
        return {"region": spec.region, "endpoint": spec.endpoint or os.environ.get("VAST_URL") or _URL}

    # -- create --------------------------------------------------------------------------------------------------------

    def choose(self, spec: Machine) -> Choice:
        """Choose the cheapest verified offer that has what was asked for."""
        found = self._api.ask("POST", "/v0/bundles/", self._query(spec)) or {}
        offers = sorted(found.get("offers", ()), key=lambda each: each["min_bid" if spec.spot else "dph_total"])
        if not offers:
            raise Refused(
                f"vast_ai has no offer now with gpu={spec.gpu!r}, gpu_count={spec.gpu_count}, cpus={spec.cpus}, "
                f"memory={spec.memory}{f' in {self._region}' if self._region else ''}"
            )
        best = offers[0]
        price = best["min_bid" if spec.spot else "dph_total"]
        data = {"offer": best["id"], "price": price if spec.spot else None}
        return Choice(best.get("gpu_name"), price, best.get("num_gpus", 0), best.get("gpu_name"), "root", data)

    def _query(self, spec: Machine) -> dict[str, Any]:
        disk = spec.disk or _DISK_GB
        query: dict[str, Any] = {
            "verified": {"eq": True},
            "external": {"eq": False},
            "rentable": {"eq": True},
            "rented": {"eq": False},
            "disk_space": {"gte": disk},
            "num_gpus": {"eq": max(1, spec.gpu_count)},
            **spec.options.get("query", {}),
            "type": "bid" if spec.spot else "on-demand",
            "order": [["dph_total", "asc"]],
            "allocated_storage": disk,
        }
        if spec.gpu is not None:
            query["gpu_name"] = {"eq": spec.gpu}
        if spec.cpus is not None:
            query["cpu_cores_effective"] = {"gte": spec.cpus}
        if isinstance(spec.memory, int):
            query["cpu_ram"] = {"gte": spec.memory // _MIB}
        if self._region is not None:
            query["geolocation"] = {"in": [self._region]}
        return query

    def create(self, order: Order, choice: Choice) -> Seen:
        """Take the offer. Raises Refused or Unclear."""
        made = self._api.ask("PUT", f"/v0/asks/{choice.data['offer']}/", self._request(order, choice), creating=True)
        if isinstance(made, dict) and made.get("success") is False:
            raise Refused(f"vast_ai refused: {made.get('error')} {made.get('msg') or ''}".rstrip())
        if not isinstance(made, dict) or "new_contract" not in made:
            raise Unclear(f"vast_ai answered without an id: {made}")
        return Seen(str(made["new_contract"]), "pending", "created", tag=order.tag, proof=order.proof)

    @staticmethod
    def _request(order: Order, choice: Choice) -> dict[str, Any]:
        spec = order.spec
        ports = {f"-p {port}:{port}": "1" for port in sorted({*spec.open_ports, *filter(None, [spec.port])} - {_SSH})}
        request: dict[str, Any] = {
            "runtype": "ssh_direct",
            **spec.options.get("request", {}),
            "client_id": "me",
            "label": order.proof,
            "image": spec.image,
            "env": {**spec.labels, **spec.options.get("env", {}), **ports, RESOURCE: order.tag},
            "disk": spec.disk or _DISK_GB,
            "target_state": "running",
            # Else it is put off until the offer is free again, and then nobody expects it.
            "cancel_unavail": True,
        }
        if order.public_key is not None:
            request["onstart"] = _KEY_SCRIPT.format(key=order.public_key)
        if choice.data["price"] is not None:
            request["price"] = choice.data["price"]
        return request

    # -- look and end --------------------------------------------------------------------------------------------------

    def _all(self) -> Iterator[Seen]:
        asked = {"select_filters": "{}", "order_by": '[{"col": "id", "dir": "asc"}]', "limit": str(_PAGE)}
        while True:
            page = self._api.ask("GET", f"/v1/instances/?{urlencode(asked)}") or {}
            yield from map(_seen, page.get("instances") or ())
            if not page.get("next_token"):
                return
            asked["after_token"] = str(page["next_token"])

    def _one(self, machine: str) -> Seen | None:
        shown = (self._api.ask("GET", f"/v0/instances/{machine}/?owner=me") or {}).get("instances")
        return _seen(shown) if shown else None

    def terminate(self, machine: str) -> None:
        """Destroy an instance, its disk included."""
        self._api.ask("DELETE", f"/v0/instances/{machine}/", {})


def _seen(shown: Mapping[str, Any]) -> Seen:
    # A list of pairs; a variable of nobody's may be among them in any form.
    env = {str(pair[0]): str(pair[1]) for pair in shown.get("extra_env") or () if len(pair) == 2}
    ports = {
        int(inside.partition("/")[0]): int(outside[0]["HostPort"])
        for inside, outside in (shown.get("ports") or {}).items()
        if outside
    }
    word = shown.get("actual_status") or "created"
    price = shown.get("dph_total")
    is_direct = _SSH in ports
    return Seen(
        str(shown["id"]),
        _PHASES.get(word, "pending"),
        word,
        str(shown.get("status_msg") or "").strip(),
        env.get(RESOURCE),
        shown.get("label"),
        shown.get("start_date"),
        # Without ports of its own it is reached through a host of Vast.ai's, for SSH alone.
        (shown.get("public_ipaddr") or "").strip() or None if is_direct else shown.get("ssh_host"),
        shown.get("gpu_name"),
        shown.get("num_gpus") or 0,
        shown.get("gpu_name"),
        None if price is None else float(price),
        ports[_SSH] if is_direct else shown.get("ssh_port") or _SSH,
        ports,
    )
