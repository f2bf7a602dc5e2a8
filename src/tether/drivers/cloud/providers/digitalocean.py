"""DigitalOcean's droplets, those with GPUs too. Without idempotency: name and tag go on a droplet at its creation.

Source: the DigitalOcean API's published OpenAPI description (docs.digitalocean.com, version 2).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from tether.drivers.cloud.provider import Choice, Order, Part, Phase, Refused, Seen, Tested, Unclear
from tether.drivers.cloud.providers.rest import Api, check_options
from tether.drivers.cloud.spec import Machine, MachineRef
from tether.errors import DriverUnavailable
from tether.protocol import CloudProviderType

__all__ = ["DigitalOcean"]

_URL = "https://api.digitalocean.com/v2"
_IMAGE = "ubuntu-24-04-x64"
_MARK = "tether-resource:"
_PAGE = 200
_MIB = 1 << 20
_USER_DATA_BYTES = 64 * 1024
# What is off keeps its disk and its address, and is billed as if it ran.
_PHASES: dict[str, Phase] = {"new": "pending", "active": "running", "off": "stopped", "archive": "stopped"}
_ANYWHERE = {"addresses": ["0.0.0.0/0", "::/0"]}
_OUTBOUND = [
    {"protocol": "tcp", "ports": "all", "destinations": _ANYWHERE},
    {"protocol": "udp", "ports": "all", "destinations": _ANYWHERE},
    {"protocol": "icmp", "destinations": _ANYWHERE},
]
_WHERE = {"tag": "/tags", "key pair": "/account/keys", "firewall": "/firewalls"}
_LISTED = {"tag": "tags", "key pair": "ssh_keys", "firewall": "firewalls"}
_KEYED = {"tag": "name", "key pair": "id", "firewall": "id"}


class DigitalOcean:
    """See `tether.drivers.cloud.provider.Provider`. The key is in ``DIGITALOCEAN_TOKEN``.

    Droplets without a firewall can be reached at every port, so that one is made for each, which lets in ``open_ports`` alone. A
    key of yours is named by its id or fingerprint. A shutdown in a droplet ends no billing, so there is no lease but the reaper's.

    Options of `Machine`: ``request``, more fields of the request to create.
    """

    type: ClassVar[CloudProviderType] = CloudProviderType.CUSTOM
    idempotent: ClassVar[bool] = False
    lag_s: ClassVar[float] = 60.0
    tested: ClassVar[Tested] = "contract-tested against its published description"
    boots: ClassVar[bool] = True

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._region = where["region"]
        self._api = Api("digitalocean", where["endpoint"], "DIGITALOCEAN_TOKEN")

    @classmethod
    def where(cls, spec: Machine | MachineRef) -> dict[str, Any]:
        """Return region and address."""
        wrong = {"profile=": spec.profile is not None}
        if isinstance(spec, Machine):
            labels = [f"{key}:{value}" for key, value in spec.labels.items()]
            wrong |= {"spot=": spec.spot, "disk= beside a size's own": spec.disk is not None}
            wrong |= {"tags but of letters, digits, ':', '-' and '_'": not all(map(_is_tag, labels))}
        check_options(spec, "digitalocean", ("request",), wrong)
        endpoint = spec.endpoint or os.environ.get("DIGITALOCEAN_API_URL") or _URL
        return {"region": spec.region, "endpoint": endpoint}

    def _pages(self, path: str, what: str) -> Iterator[dict[str, Any]]:
        """What a list has, of all its pages."""
        page, join = 1, "&" if "?" in path else "?"
        while True:
            shown = self._api.ask("GET", f"{path}{join}per_page={_PAGE}&page={page}") or {}
            yield from shown.get(what) or ()
            if not (shown.get("links") or {}).get("pages", {}).get("next"):
                return
            page += 1

    # -- create --------------------------------------------------------------------------------------------------------

    def choose(self, spec: Machine) -> Choice:
        """Choose the cheapest size that has what was asked for, where there is one now."""
        fitting = [each for each in self._pages("/sizes", "sizes") if _fits(each, spec)]
        if not fitting:
            raise Refused(
                f"digitalocean has no size with type={spec.type!r}, gpu={spec.gpu!r}, gpu_count={spec.gpu_count}, "
                f"cpus={spec.cpus}, memory={spec.memory}; see its list"
            )
        there = [each for each in fitting if each["available"] and (self._region or each["regions"][:1])]
        there = [each for each in there if self._region is None or self._region in each["regions"]]
        if not there:
            names = ", ".join(each["slug"] for each in fitting)
            raise Refused(
                f"digitalocean has no capacity now for {names}{f' in {self._region}' if self._region else ''}"
            )
        best = min(there, key=lambda each: each["price_hourly"])
        gpus = best.get("gpu_info") or {}
        if gpus and spec.image is None:
            raise Refused(f"digitalocean's {best['slug']} has GPUs: give image=, one that has drivers for them")
        count = gpus.get("count", 0)
        region = self._region or best["regions"][0]
        return Choice(best["slug"], best["price_hourly"], count, gpus.get("model"), "root", {"region": region})

    def create(self, order: Order, choice: Choice) -> Seen:
        """Create one droplet. Raises Refused or Unclear."""
        spec = order.spec
        if len(order.user_data) > _USER_DATA_BYTES:
            raise Refused(f"user_data is {len(order.user_data)} bytes; digitalocean takes {_USER_DATA_BYTES}")
        request: dict[str, Any] = {
            **spec.options.get("request", {}),
            "name": order.proof,
            "region": choice.data["region"],
            "size": choice.type,
            "image": spec.image or _IMAGE,
            "ssh_keys": self._keys_of(order),
            "tags": [*(f"{key}:{value}" for key, value in spec.labels.items()), f"{_MARK}{order.tag}"],
        }
        if order.user_data:
            request["user_data"] = order.user_data.decode("utf-8", "replace")
        if spec.network is not None:
            request["vpc_uuid"] = spec.network
        made = self._api.ask("POST", "/droplets", request, creating=True)
        try:
            return _seen(made["droplet"])
        except (TypeError, KeyError) as error:
            raise Unclear(f"digitalocean answered without a droplet: {made}") from error

    def _keys_of(self, order: Order) -> list[Any]:
        if isinstance(order.spec.key, str):
            return [int(order.spec.key) if order.spec.key.isdigit() else order.spec.key]
        if order.public_key is None:
            return []
        return [each["id"] for each in self._named("key pair", _name(order.tag))]

    # -- look and end --------------------------------------------------------------------------------------------------

    def listed(self, tag: str) -> list[Seen]:
        """Return the droplets with a tag. Those with GPUs stand in a list of their own, which can't be asked for a tag."""
        mark = f"{_MARK}{tag}"
        shown = [
            *self._pages(f"/droplets?tag_name={mark}", "droplets"),
            *self._pages("/droplets?type=gpus", "droplets"),
        ]
        return list({each["id"]: _seen(each) for each in shown if mark in each["tags"]}.values())

    def look(self, ids: Sequence[str]) -> dict[str, Seen]:
        """Return droplets by id."""
        shown = {machine: self._api.ask("GET", f"/droplets/{machine}") for machine in ids}
        return {machine: _seen(each["droplet"]) for machine, each in shown.items() if each is not None}

    def terminate(self, machine: str) -> None:
        """Destroy a droplet."""
        self._api.ask("DELETE", f"/droplets/{machine}")

    # -- parts ---------------------------------------------------------------------------------------------------------

    def planned(self, spec: Machine, tag: str) -> list[Part]:
        """See `HasParts`: the tag itself, which would stay, a key pair, and a firewall for what has the tag."""
        key = [Part("key pair", _name(tag))] if spec.key is True else []
        return [Part("tag", f"{_MARK}{tag}"), *key, Part("firewall", _name(tag))]

    def make(self, part: Part, order: Order) -> None:
        """See `HasParts`. Whether an unclear answer meant that it was made, the list says."""
        if part.what == "tag":
            asked: dict[str, Any] = {"name": part.name}
        elif part.what == "key pair":
            asked = {"name": part.name, "public_key": order.public_key}
        else:
            ports = [{"protocol": "tcp", "ports": str(port)} for port in order.spec.open_ports]
            inbound = [{**port, "sources": {"addresses": [order.spec.open_to]}} for port in ports]
            asked = {"name": part.name, "inbound_rules": inbound, "outbound_rules": _OUTBOUND}
            asked["tags"] = [f"{_MARK}{order.tag}"]
        try:
            self._api.ask("POST", _WHERE[part.what], asked)
        except DriverUnavailable:
            if not self._named(part.what, part.name):
                raise

    def parts(self, tag: str, planned: Sequence[Part], began: float) -> list[Part]:
        """See `HasParts`: by the name, which only tether can have made."""
        return [part for part in planned if self._named(part.what, part.name)]

    def remove(self, part: Part) -> None:
        """See `HasParts`."""
        for each in self._named(part.what, part.name):
            self._api.ask("DELETE", f"{_WHERE[part.what]}/{each[_KEYED[part.what]]}")

    def _named(self, what: str, name: str) -> list[dict[str, Any]]:
        return [each for each in self._pages(_WHERE[what], _LISTED[what]) if each["name"] == name]


def _name(tag: str) -> str:
    return f"tether-{tag}"


def _is_tag(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9:_-]{1,255}", text) is not None


def _fits(shown: Mapping[str, Any], spec: Machine) -> bool:
    gpus = shown.get("gpu_info") or {}
    memory = spec.memory if isinstance(spec.memory, int) else 0
    if spec.type is not None:
        return bool(shown["slug"] == spec.type)
    has_gpus = gpus.get("count", 0) >= spec.gpu_count if spec.gpu_count else not gpus
    is_model = spec.gpu is None or spec.gpu.casefold() in str(gpus.get("model", "")).casefold()
    return has_gpus and is_model and shown["vcpus"] >= (spec.cpus or 0) and shown["memory"] * _MIB >= memory


def _seen(shown: Mapping[str, Any]) -> Seen:
    size = shown.get("size") or {}
    gpus = size.get("gpu_info") or shown.get("gpu_info") or {}
    public = [each for each in (shown.get("networks") or {}).get("v4", ()) if each.get("type") == "public"]
    marks = [tag.removeprefix(_MARK) for tag in shown.get("tags") or () if tag.startswith(_MARK)]
    return Seen(
        str(shown["id"]),
        _PHASES.get(shown["status"], "pending"),
        shown["status"],
        tag=marks[0] if marks else None,
        proof=shown.get("name"),
        made=datetime.fromisoformat(shown["created_at"]).timestamp() if shown.get("created_at") else None,
        address=public[0]["ip_address"] if public else None,
        type=shown.get("size_slug") or size.get("slug"),
        gpu_count=gpus.get("count", 0),
        gpu=gpus.get("model"),
        cost_per_hour=size.get("price_hourly"),
    )
