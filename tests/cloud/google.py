"""A stand-in for Google Compute Engine, made after the published description of its API, version 1. Nobody ran it beside the real one.

A test has what it is asked for read by Google's own classes, which refuse a field that they have not, and drives it with Google's own
client. Machines are records.
"""

from __future__ import annotations

import json
import secrets
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from cloud.rest import KEY, Answer, Lost, Rented, Stand

PROJECT = "the-project"
ZONE = "us-central1-a"
RESOURCE = "tether-resource"

# name: (cpus, MiB, built-in accelerator)
SIZES: dict[str, tuple[int, int, str | None]] = {
    "e2-micro": (2, 1024, None),
    "e2-standard-4": (4, 16384, None),
    "n1-standard-1": (1, 3840, None),
    "n1-standard-4": (4, 15360, None),
    "g2-standard-4": (4, 16384, "nvidia-l4"),
    "t2a-standard-1": (1, 4096, None),
}


def _error(status: int, reason: str, message: str) -> Answer:
    return status, {"error": {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}}


class Gcp(Stand):
    """Google Compute Engine.

    Attributes:
        pace: how much faster the clock of its limits runs.
        ignores_caps: whether it takes a limit and does not keep it, nor shows it.
        disks_stay: whether disks stay when their machine goes.
    """

    provider = "gcp"
    variable = ""
    foreign: ClassVar = {"name": "theirs", "machineType": f"zones/{ZONE}/machineTypes/e2-micro"}
    boot_s = end_s = 0.1
    key_file: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        self.pace = 1.0
        self.ignores_caps = False
        self.disks_stay = False
        self.disks: dict[str, dict[str, Any]] = {}
        self.rules: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.requests: dict[str, str] = {}

    def environ(self, folder: Path) -> dict[str, str]:
        """A service account's key, whose tokens this stand-in gives."""
        if not type(self).key_file:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            type(self).key_file = key.private_bytes(*form).decode()
        account = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "1",
            "private_key": self.key_file,
            "client_email": f"tests@{PROJECT}.iam.gserviceaccount.com",
            "token_uri": f"{self.url}/token",
        }
        path = folder / "account.json"
        path.write_text(json.dumps(account))
        return {
            "GOOGLE_APPLICATION_CREDENTIALS": str(path),
            "CLOUDSDK_CONFIG": str(folder),
            "CLOUDSDK_COMPUTE_ZONE": ZONE,
        }

    # -- what tests look at ----------------------------------------------------------------------------------------------

    def mark(self, each: Rented) -> str | None:
        return (each.asked.get("labels") or {}).get(RESOURCE)

    def leftovers(self) -> list[str]:
        with self.lock:
            self._settle()
            return [*super().leftovers(), *(name for name in (*self.disks, *self.rules) if name.startswith("tether"))]

    def live(self) -> list[str]:
        with self.lock:
            self._settle()
            return super().live()

    def unmarked(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "name": "theirs", "labels": {}}

    def make(self, asked: dict[str, Any]) -> Rented:
        with self.lock:
            made = Rented(str(secrets.randbelow(10**18) + 10**18), asked, next(self._numbers))
            self.rented[made.id] = made
            for disk in asked.get("disks", ()):
                new = disk["initializeParams"]
                labels = new.get("labels", {})
                self.disks.setdefault(new["diskName"], {"name": new["diskName"], "labels": labels, "users": [made.id]})
            return made

    def _settle(self) -> None:
        """What has come to pass by now: limits, and disks of what is gone."""
        for each in self.rented.values():
            cap = self._cap(each)
            if cap is not None and time.monotonic() - each.made > cap:
                self.end(each.id)
            if self.is_gone(each):
                stays = self.disks_stay or not all(disk.get("autoDelete") for disk in each.asked.get("disks", ()))
                for disk in [disk for disk in self.disks.values() if each.id in disk["users"]]:
                    disk["users"] = []
                    if not stays:
                        del self.disks[disk["name"]]

    def _cap(self, each: Rented) -> float | None:
        """Seconds after which it is deleted."""
        asked = each.asked.get("scheduling", {})
        if self.ignores_caps or asked.get("instanceTerminationAction") != "DELETE" or "maxRunDuration" not in asked:
            return None
        return float(asked["maxRunDuration"]["seconds"]) / self.pace

    # -- requests --------------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, key: str, body: Any) -> Answer:
        if path == "/token":
            if self.is_down:
                raise Lost
            return 200, {"access_token": KEY, "expires_in": 3600, "token_type": "Bearer"}
        return super().answer(method, path, key, body)

    def _parts(self, path: str) -> list[str]:
        """What a path names below its project: zone or global, folder, name, more."""
        return urlsplit(path).path.removeprefix("/compute/v1").strip("/").split("/")[2:]

    def kind(self, method: str, path: str) -> str:
        parts = self._parts(path)
        if "instances" not in parts:
            return "operation" if "operations" in parts else "other"
        if method == "POST":
            return "create"
        return "terminate" if method == "DELETE" else "list" if parts[-1] == "instances" else "look"

    def no_capacity(self) -> Answer:
        said = "The zone does not have enough resources available to fulfill the request."
        return 200, self._operation("insert", "0", {"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": said})

    def _operation(self, what: str, target: str, error: dict[str, str] | None = None) -> dict[str, Any]:
        name = f"operation-{secrets.token_hex(8)}"
        made = {"name": name, "operationType": what, "targetId": target, "at": time.monotonic() + self.boot_s}
        self.operations[name] = made | ({"failed": error} if error else {})
        return self._shown_operation(name)

    def _shown_operation(self, name: str) -> dict[str, Any]:
        each = self.operations[name]
        is_done = time.monotonic() >= each["at"]
        shown = {"kind": "compute#operation", "status": "DONE" if is_done else "RUNNING"}
        shown |= {key: each[key] for key in ("name", "operationType", "targetId")}
        return shown | ({"error": {"errors": [each["failed"]]}} if is_done and "failed" in each else {})

    def shown(self, each: Rented) -> dict[str, Any]:
        asked, is_up = each.asked, time.monotonic() - each.made > self.boot_s
        status = "STOPPING" if each.ended is not None else "RUNNING" if is_up else "STAGING"
        base = f"https://www.googleapis.com/compute/v1/projects/{PROJECT}/"
        shown: dict[str, Any] = {
            name: asked[name] for name in ("name", "labels", "metadata", "tags", "description") if name in asked
        }
        interface = {"networkIP": "127.0.0.1", "accessConfigs": [{"natIP": "127.0.0.1"}] if is_up else []}
        shown |= {
            "kind": "compute#instance",
            "id": each.id,
            "status": each.status or status,
            "creationTimestamp": each.born,
            "lastStartTimestamp": each.born,
            "machineType": base + asked["machineType"],
            "zone": f"{base}zones/{ZONE}",
            "networkInterfaces": [interface],
            "scheduling": {"provisioningModel": "STANDARD", **asked.get("scheduling", {})},
            "guestAccelerators": self._accelerators(asked, base),
            "disks": [{"boot": True, "autoDelete": disk.get("autoDelete", False)} for disk in asked.get("disks", ())],
        }
        cap = self._cap(each)
        if cap is not None:
            ends = datetime.fromisoformat(each.born) + timedelta(seconds=cap)
            shown["resourceStatus"] = {"scheduling": {"terminationTimestamp": ends.isoformat()}}
        elif self.ignores_caps:
            shown["scheduling"].pop("maxRunDuration", None)
        return shown

    @staticmethod
    def _accelerators(asked: dict[str, Any], base: str) -> list[dict[str, Any]]:
        built_in = SIZES[asked["machineType"].rpartition("/")[2]][2]
        given = asked.get("guestAccelerators", [])
        kinds = [(each["acceleratorType"], each["acceleratorCount"]) for each in given]
        kinds += [(f"zones/{ZONE}/acceleratorTypes/{built_in}", 1)] if built_in else []
        return [{"acceleratorType": base + kind, "acceleratorCount": count} for kind, count in kinds]

    def carry_out(self, method: str, path: str, body: Any) -> Answer:
        self._settle()
        parts, query = self._parts(path), {key: value[0] for key, value in parse_qs(urlsplit(path).query).items()}
        where = 2 if parts[0] in ("zones", "regions") else 1
        folder, name, more = ([*parts[where:], "", "", ""])[:3]
        if folder == "operations":
            known = name in self.operations
            return (200, self._shown_operation(name)) if known else _error(404, "notFound", f"no operation {name}")
        if query.get("requestId", "-") in self.requests:
            return 200, self._shown_operation(self.requests[query["requestId"]])
        status, said = getattr(self, f"_{folder}")(method, name, more, query, body)
        if "requestId" in query and status == 200:
            self.requests[query["requestId"]] = said["name"]
        return status, said

    def _instances(self, method: str, name: str, more: str, query: dict[str, str], body: Any) -> Answer:
        there = [each for each in self.rented.values() if self.is_shown(each) and not self.is_gone(each)]
        if method == "POST":
            return self._insert(body)
        if not name:
            return 200, {"items": _filtered([self.shown(each) for each in there], query)}
        found = next((each for each in there if name in (each.id, each.asked["name"])), None)
        if found is None:
            return _error(404, "notFound", f"The resource 'instances/{name}' was not found")
        if more == "serialPort":
            return 200, {"contents": f"{found.asked['name']} is up\n", "start": "0", "next": "1"}
        if method == "GET":
            return 200, self.shown(found)
        if found.ended is not None:
            return _error(400, "resourceNotReady", f"The resource 'instances/{name}' is not ready")
        self.end(found.id)
        return 200, self._operation("delete", found.id)

    def _insert(self, body: dict[str, Any]) -> Answer:
        size = body["machineType"].rpartition("/")[2]
        if size not in SIZES:
            return _error(404, "notFound", f"no machine type {size}")
        if any(each.asked["name"] == body["name"] and not self.is_gone(each) for each in self.rented.values()):
            return _error(409, "alreadyExists", f"The resource 'instances/{body['name']}' already exists")
        has_gpu = bool(body.get("guestAccelerators")) or SIZES[size][2] is not None
        if has_gpu and body.get("scheduling", {}).get("onHostMaintenance") != "TERMINATE":
            return _error(400, "invalid", "Instances with guest accelerators do not support live migration.")
        seconds = int(body.get("scheduling", {}).get("maxRunDuration", {}).get("seconds", 30))
        if not 30 <= seconds <= 10368000:
            return _error(400, "invalid", "maxRunDuration must be between 30 seconds and 120 days")
        return 200, self._operation("insert", self.make(body).id)

    def _firewalls(self, method: str, name: str, more: str, query: dict[str, str], body: Any) -> Answer:
        if method == "POST":
            if body["name"] in self.rules:
                return _error(409, "alreadyExists", f"The resource 'firewalls/{body['name']}' already exists")
            self.rules[body["name"]] = body
            return 200, self._operation("insert", "1")
        if name not in self.rules:
            return _error(404, "notFound", f"The resource 'firewalls/{name}' was not found")
        if method == "DELETE":
            del self.rules[name]
            return 200, self._operation("delete", "1")
        return 200, self.rules[name]

    def _disks(self, method: str, name: str, more: str, query: dict[str, str], body: Any) -> Answer:
        if not name:
            return 200, {"items": _filtered(list(self.disks.values()), query)}
        if name not in self.disks:
            return _error(404, "notFound", f"The resource 'disks/{name}' was not found")
        if self.disks[name]["users"]:
            return _error(400, "resourceInUseByAnotherResource", f"'disks/{name}' is already being used")
        del self.disks[name]
        return 200, self._operation("delete", "1")

    def _subnetworks(self, method: str, name: str, more: str, query: dict[str, str], body: Any) -> Answer:
        return 200, {"name": name, "network": f"projects/{PROJECT}/global/networks/of-{name}"}

    @staticmethod
    def _size(name: str) -> dict[str, Any]:
        cpus, memory, gpu = SIZES[name]
        shown = {"name": name, "guestCpus": cpus, "memoryMb": memory, "architecture": "ARM64" if name[:3] == "t2a" else "X86_64"}  # fmt: skip
        built_in = [{"guestAcceleratorType": gpu, "guestAcceleratorCount": 1}]
        return shown | ({"accelerators": built_in} if gpu else {})

    def _machineTypes(self, method: str, name: str, more: str, query: dict[str, str], body: Any) -> Answer:  # noqa: N802 - the API's own word
        if not name:
            # In two pages.
            page = sorted(SIZES)[3:] if "pageToken" in query else sorted(SIZES)[:3]
            return 200, {"items": [self._size(each) for each in page]} | ({} if "pageToken" in query else {"nextPageToken": "2"})  # fmt: skip
        return (200, self._size(name)) if name in SIZES else _error(404, "notFound", f"no machine type {name}")

    def _acceleratorTypes(self, method: str, name: str, more: str, query: dict[str, str], body: Any) -> Answer:  # noqa: N802 - likewise
        return 200, {"items": [{"name": "nvidia-tesla-t4", "maximumCardsPerInstance": 4}]}


def _filtered(shown: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    """What a filter on one label leaves: "labels.KEY=VALUE", or "labels.KEY:*"."""
    asked = query.get("filter", "")
    if not asked:
        return shown
    key, sign, value = asked.removeprefix("labels.").partition(":" if asked.endswith(":*") else "=")
    assert sign, f"a filter that this stand-in does not know: {asked}"
    labels = [(each, (each.get("labels") or {}).get(key)) for each in shown]
    return [each for each, label in labels if label is not None and value in ("*", label)]
