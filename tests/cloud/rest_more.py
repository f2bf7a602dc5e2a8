"""More stand-ins as those of rest.py: Vast.ai, DigitalOcean and Together, made after their published descriptions."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from cloud.rest import RESOURCE, Answer, Rented, Stand


class Numbered(Stand):
    """One whose ids are numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1_000_001)

    def make(self, asked: dict[str, Any]) -> Rented:
        with self.lock:
            made = super().make(asked)
            del self.rented[made.id]
            made.id = str(next(self.numbers))
            self.rented[made.id] = made
            return made


class VastAi(Numbered):
    """Vast.ai's REST API: an instance that was destroyed is shown no more, at once."""

    provider = "vast_ai"
    variable = "VAST_API_KEY"
    named = "label"
    foreign: ClassVar = {"label": "theirs", "image": "x", "env": {}, "offer": 7}
    end_s = 0.0

    OFFERS: ClassVar = [
        {"id": 9, "gpu_name": "RTX 4090", "num_gpus": 1, "dph_total": 0.61, "min_bid": 0.2, "cpu_ram": 64000, "geolocation": "SE"},
        {"id": 7, "gpu_name": "RTX 4090", "num_gpus": 1, "dph_total": 0.42, "min_bid": 0.3, "cpu_ram": 16000, "geolocation": "US"},
        {"id": 5, "gpu_name": "H100 SXM", "num_gpus": 8, "dph_total": 18.0, "min_bid": 9.0, "cpu_ram": 900000, "geolocation": "US"},
    ]  # fmt: skip

    def mark(self, each: Rented) -> str | None:
        return (each.asked.get("env") or {}).get(RESOURCE)

    def unmarked(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "label": "theirs", "env": {}}

    def kind(self, method: str, path: str) -> str:
        if method in ("PUT", "DELETE"):
            return "create" if method == "PUT" else "terminate"
        return "other" if method == "POST" else "list" if path.startswith("/v1/instances/?") else "look"

    def no_capacity(self) -> Answer:
        return 400, {"success": False, "error": "no_such_ask", "msg": "Instance type by id 7 is not available."}

    def is_offered(self, offer: dict[str, Any], query: dict[str, Any]) -> bool:
        known = {**offer, "verified": True, "external": False, "rentable": True, "rented": False, "disk_space": 500, "cpu_cores_effective": 16}  # fmt: skip
        asked = [(known[name], how, want) for name, each in query.items() if isinstance(each, dict) for how, want in each.items()]  # fmt: skip
        return all(have in want if how == "in" else have >= want if how == "gte" else have == want for have, how, want in asked)  # fmt: skip

    def shown(self, each: Rented) -> dict[str, Any]:
        asked, is_up = each.asked, time.monotonic() - each.made > self.boot_s
        offer = next(one for one in self.OFFERS if one["id"] == asked["offer"])
        # Every port is another one outside; all of them lead to this stand-in.
        outside = [{"HostIp": "0.0.0.0", "HostPort": self.url.rpartition(":")[2]}]
        wanted = [22, *(int(name.split(":")[1]) for name in asked["env"] if name.startswith("-p "))]
        return {
            "id": int(each.id),
            "label": asked["label"],
            "extra_env": [[name, value] for name, value in asked["env"].items()],
            "image_uuid": asked["image"],
            "actual_status": each.status or ("running" if is_up else None),
            "status_msg": "success, running\n",
            "public_ipaddr": "127.0.0.1 ",
            "ssh_host": "ssh5.vast.ai",
            "ssh_port": 10600,
            "ports": {f"{port}/tcp": outside for port in wanted} if is_up else None,
            "gpu_name": offer["gpu_name"],
            "num_gpus": offer["num_gpus"],
            "dph_total": asked.get("price") or offer["dph_total"],
            "start_date": time.time() - (time.monotonic() - each.made),
        }

    def carry_out(self, method: str, path: str, body: Any) -> Answer:
        parts = urlsplit(path)
        if parts.path == "/v0/bundles/":
            offers = [each for each in self.OFFERS if self.is_offered(each, body)]
            return 200, {"offers": sorted(offers, key=lambda each: each[body["order"][0][0]])}
        if method == "PUT":
            offer = int(parts.path.split("/")[3])
            if offer not in [each["id"] for each in self.OFFERS]:
                return 404, {"success": False, "error": "no_such_ask"}
            return 200, {"success": True, "new_contract": int(self.make({**body, "offer": offer}).id)}
        there = [each for each in self.rented.values() if self.is_shown(each) and not self.is_gone(each)]
        if parts.path == "/v1/instances/":
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            assert json.loads(asked["select_filters"]) == {}
            later = [each for each in there if int(each.id) > int(asked.get("after_token", 0))]
            page = later[: min(25, int(asked["limit"]))]
            token = page[-1].id if len(later) > len(page) else None
            return 200, {"instances": [self.shown(each) for each in page], "next_token": token}
        found = next((each for each in there if each.id == parts.path.split("/")[3]), None)
        if method == "DELETE" and found is not None:
            self.end(found.id)
            return 200, {"success": True}
        if found is None:
            return (404, {"success": False, "error": "no_such_instance"}) if method == "DELETE" else (200, {"instances": None})  # fmt: skip
        return 200, {"instances": self.shown(found)}


class DigitalOcean(Numbered):
    """The DigitalOcean API, version 2. What was destroyed is shown no more; a tag and a firewall stay."""

    provider = "digitalocean"
    variable = "DIGITALOCEAN_TOKEN"
    foreign: ClassVar = {"name": "theirs", "size": "s-1vcpu-1gb", "region": "nyc3", "tags": [], "image": "x"}
    end_s = 0.0

    SIZES: ClassVar = {
        "s-1vcpu-1gb": (1024, 1, 0.00893, ["nyc3", "fra1"], None),
        "c-4": (8192, 4, 0.125, ["nyc3"], None),
        "gpu-h100x1-80gb": (245760, 20, 3.39, ["nyc2"], {"count": 1, "model": "nvidia_h100"}),
        "gpu-l40sx1-48gb": (65536, 8, 1.57, [], {"count": 1, "model": "nvidia_l40s"}),
    }
    MADE: ClassVar = {"tags": ("tag", 201), "account/keys": ("ssh_key", 201), "firewalls": ("firewall", 202)}
    LISTED: ClassVar = {"tags": "tags", "account/keys": "ssh_keys", "firewalls": "firewalls"}

    def mark(self, each: Rented) -> str | None:
        marks = [tag for tag in each.asked.get("tags", ()) if tag.startswith("tether-resource:")]
        return marks[0].partition(":")[2] if marks else None

    def unmarked(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "name": "theirs", "tags": []}

    def kind(self, method: str, path: str) -> str:
        if not path.startswith("/droplets"):
            return "key" if method != "GET" else "other"
        if method != "GET":
            return "create" if method == "POST" else "terminate"
        return "list" if "?" in path else "look"

    def no_capacity(self) -> Answer:
        return 422, {"id": "unprocessable_entity", "message": "The selected size has not enough capacity in that region."}  # fmt: skip

    def size(self, slug: str) -> dict[str, Any]:
        memory, cpus, price, regions, gpu = self.SIZES[slug]
        shown = {"slug": slug, "memory": memory, "vcpus": cpus, "price_hourly": price, "regions": regions}
        return {**shown, "available": bool(regions), **({"gpu_info": gpu} if gpu else {})}

    def shown(self, each: Rented) -> dict[str, Any]:
        is_up = time.monotonic() - each.made > self.boot_s
        public = {"ip_address": "127.0.0.1", "netmask": "255.255.240.0", "type": "public"}
        return {
            "id": int(each.id),
            "name": each.asked["name"],
            "tags": each.asked["tags"],
            "status": each.status or ("active" if is_up else "new"),
            "created_at": each.born.replace("+00:00", "Z"),
            "networks": {"v4": [{**public, "ip_address": "10.0.0.2", "type": "private"}, *([public] if is_up else [])]},
            "size": self.size(each.asked["size"]),
            "size_slug": each.asked["size"],
        }

    def carry_out(self, method: str, path: str, body: Any) -> Answer:
        parts = urlsplit(path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/sizes":
            return self.paged([self.size(slug) for slug in self.SIZES], "sizes", asked)
        if not parts.path.startswith("/droplets"):
            return self.with_parts(method, parts.path, body, asked)
        if method == "POST":
            if len(body["name"]) > 255 or body["size"] not in self.SIZES or not body["image"]:
                return 422, {"id": "unprocessable_entity", "message": "You specified an invalid size for Droplet creation."}  # fmt: skip
            if any(key not in [int(each["id"]) for each in self.keys.values()] for key in body["ssh_keys"]):
                return 422, {"id": "unprocessable_entity", "message": "is an invalid key identifier."}
            return 202, {"droplet": self.shown(self.make(body))}
        there = [each for each in self.rented.values() if self.is_shown(each) and not self.is_gone(each)]
        if parts.path == "/droplets":
            gpus = asked.get("type") == "gpus"
            wanted = [each for each in there if ("gpu_info" in self.size(each.asked["size"])) == gpus]
            tagged = [each for each in wanted if asked.get("tag_name") in (None, *each.asked["tags"])]
            return self.paged([self.shown(each) for each in tagged], "droplets", asked)
        found = next((each for each in there if each.id == parts.path.rpartition("/")[2]), None)
        if found is None:
            return 404, {"id": "not_found", "message": "The resource you were accessing could not be found."}
        if method == "DELETE":
            self.end(found.id)
            return 204, None
        return 200, {"droplet": self.shown(found)}

    def paged(self, every: list[dict[str, Any]], what: str, asked: dict[str, str]) -> Answer:
        size, page = int(asked.get("per_page", 20)), int(asked.get("page", 1))
        more = {"pages": {"next": f"{self.url}/next"}} if len(every) > size * page else {}
        return 200, {what: every[size * (page - 1) : size * page], "links": more, "meta": {"total": len(every)}}

    def with_parts(self, method: str, path: str, body: Any, asked: dict[str, str]) -> Answer:
        where = next(each for each in self.MADE if path.startswith(f"/{each}"))
        mine = {number: each for number, each in self.keys.items() if each["where"] == where}
        if method == "GET":
            every = [{**each, "id": int(each["id"])} for each in mine.values()]
            return self.paged(every, self.LISTED[where], asked)
        if method == "DELETE":
            last = path.rpartition("/")[2]
            gone = [number for number, each in mine.items() if last in (each["name"], each["id"])]
            for number in gone:
                del self.keys[number]
            return (204, None) if gone else (404, {"id": "not_found"})
        if body["name"] in [each["name"] for each in mine.values()]:
            return 422, {"id": "unprocessable_entity", "message": "is already in use on your account"}
        for tag in body.get("tags", ()):
            if tag not in [each["name"] for each in self.keys.values() if each["where"] == "tags"]:
                return 422, {"id": "unprocessable_entity", "message": "tag does not exist"}
        number = str(next(self.numbers))
        said = {name: value for name, value in body.items() if isinstance(value, str)}
        self.keys[number] = {**said, "id": number, "where": where, "rules": json.dumps(body.get("inbound_rules"))}
        what, status = self.MADE[where]
        return status, {what: {**self.keys[number], "id": int(number)}}


class TogetherAi(Stand):
    """Together's clusters of GPUs. What can log in to one stands in what is shown of it."""

    provider = "together_ai"
    variable = "TOGETHER_API_KEY"
    named = "cluster_name"
    foreign: ClassVar = {"cluster_name": "theirs", "region": "us-central-8", "gpu_type": "H100_SXM", "num_gpus": 8}
    SECRET = "client-key-data: the-secret-of-the-cluster"

    def mark(self, each: Rented) -> str | None:
        name = each.asked["cluster_name"]
        return name.split("-")[1] if name.startswith("tether-") else None

    def unmarked(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "cluster_name": "theirs"}

    def kind(self, method: str, path: str) -> str:
        if method != "GET":
            return "create" if method == "POST" else "terminate"
        return "other" if path == "/compute/regions" else "list" if path == "/compute/clusters" else "look"

    def no_capacity(self) -> Answer:
        return 400, {"error": {"message": "not enough capacity for H100_SXM in us-central-8"}}

    def shown(self, each: Rented) -> dict[str, Any]:
        status = "Ready" if time.monotonic() - each.made > self.boot_s else "WaitingForControlPlaneNodes"
        if each.ended is not None:
            status = "Deleting"
        config = f"clusters:\n- cluster:\n    server: https://127.0.0.1:6443\nusers:\n- user:\n    {self.SECRET}\n"
        return {
            **{name: each.asked[name] for name in ("cluster_name", "region", "gpu_type", "num_gpus")},
            "cluster_id": each.id,
            "cluster_type": each.asked.get("cluster_type", "KUBERNETES"),
            "status": each.status or status,
            "kube_config": config if status == "Ready" else "",
            "created_at": each.born.replace("+00:00", "Z"),
            "control_plane_nodes": [],
            "gpu_worker_nodes": [],
            "volumes": [],
        }

    def carry_out(self, method: str, path: str, body: Any) -> Answer:
        if path == "/compute/regions":
            versions = [{"id": "nv-1", "cuda_version": "12.6", "nvidia_driver_version": "560", "os": "ubuntu-24.04"}]
            return 200, {"regions": [
                {"name": "us-east-1", "driver_versions": versions, "supported_instance_types": ["B200_SXM"]},
                {"name": "us-central-8", "driver_versions": versions, "supported_instance_types": ["H100_SXM", "H200_SXM"]},
            ]}  # fmt: skip
        if method == "POST":
            wanted = ("billing_type", "cluster_name", "gpu_type", "num_gpus", "nvidia_version_id", "region")
            if any(not body.get(name) for name in wanted) or body["num_gpus"] % 8:
                return 400, {"error": {"message": "invalid request"}}
            return 200, self.shown(self.make(body))
        there = [each for each in self.rented.values() if self.is_shown(each) and not self.is_gone(each)]
        if path == "/compute/clusters":
            return 200, {"clusters": [self.shown(each) for each in there]}
        found = next((each for each in there if each.id == path.rpartition("/")[2]), None)
        if found is None:
            return 404, {"error": {"message": "cluster not found"}}
        if method == "DELETE":
            self.end(found.id)
            return 200, {"cluster_id": found.id}
        return 200, self.shown(found)
