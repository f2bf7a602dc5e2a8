"""A stand-in for Azure's Resource Manager, made after the published descriptions of its interfaces. Nobody ran it beside the real one.

Machines are records, with what Azure would refuse: what is not there to be referred to, and what is in use. A test has Azure's own
libraries read what it was asked for, and drive it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from cloud.rest import KEY, Answer, Lost, Rented, Stand

SUBSCRIPTION = "5ab5c1b7-0000-0000-0000-000000000001"
GROUP = "the-group"
LOCATION = "westeurope"
RESOURCE = "tether-resource"
ROOT = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/"
MACHINES = "Microsoft.Compute/virtualMachines"
NETWORK = "Microsoft.Network/"

# name: (processors, GiB, GPUs, more)
SIZES: dict[str, tuple[int, float, int, dict[str, str]]] = {
    "Standard_B2ats_v2": (2, 1, 0, {}),
    "Standard_B2pts_v2": (2, 1, 0, {"CpuArchitectureType": "Arm64"}),
    "Standard_D4s_v5": (4, 16, 0, {}),
    "Standard_NC4as_T4_v3": (4, 28, 1, {}),
    "Standard_NC64as_T4_v3": (64, 440, 4, {}),
}


def _error(status: int, code: str, message: str) -> Answer:
    return status, {"error": {"code": code, "message": message}}


class Azure(Stand):
    """Azure's machines, networks and disks in one resource group.

    Attributes:
        fails_late: whether a machine is accepted, and fails a moment later.
        all_stays: whether what goes along with a machine stays.
    """

    provider = "azure"
    variable = ""
    foreign: ClassVar = {"name": "theirs", "properties": {"hardwareProfile": {"vmSize": "Standard_B2ats_v2"}}}
    boot_s = end_s = 0.1
    made_s: ClassVar[float] = 0.05

    def __init__(self) -> None:
        super().__init__()
        self.fails_late = False
        self.all_stays = False
        # By their ids: interfaces, addresses, rules, networks, disks.
        self.things: dict[str, dict[str, Any]] = {}
        self._ended: set[str] = set()

    def environ(self, folder: Path) -> dict[str, str]:
        """A managed identity, whose tokens this stand-in gives."""
        return {
            "IDENTITY_ENDPOINT": f"{self.url}/token",
            "IDENTITY_HEADER": KEY,
            "AZURE_SUBSCRIPTION_ID": SUBSCRIPTION,
            "AZURE_DEFAULTS_GROUP": GROUP,
            "AZURE_DEFAULTS_LOCATION": LOCATION,
            "AZURE_CONFIG_DIR": str(folder),
        }

    # -- what tests look at ----------------------------------------------------------------------------------------------

    def mark(self, each: Rented) -> str | None:
        return (each.asked.get("tags") or {}).get(RESOURCE)

    def live(self) -> list[str]:
        with self.lock:
            self._settle()
            return super().live()

    def leftovers(self) -> list[str]:
        with self.lock:
            self._settle()
            names = [each.removeprefix(ROOT) for each in self.things]
            return [*super().leftovers(), *(each for each in names if each.rpartition("/")[2].startswith("tether"))]

    def unmarked(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "name": "theirs", "tags": {}}

    def make(self, asked: dict[str, Any]) -> Rented:
        with self.lock:
            made = Rented(asked["name"], asked, next(self._numbers))
            self.rented[made.id] = made
            disk = asked["properties"].get("storageProfile", {}).get("osDisk")
            if disk and asked["name"] == disk["name"]:
                one = {"id": f"{ROOT}{MACHINES}/{made.id}"}
                self._put(f"{ROOT}Microsoft.Compute/disks/{disk['name']}", {"managedBy": one["id"], "properties": {"timeCreated": made.born}})  # fmt: skip
            return made

    def _put(self, whole: str, body: dict[str, Any]) -> dict[str, Any]:
        named = {"id": whole, "name": whole.rpartition("/")[2], "at": time.monotonic() + self.made_s}
        self.things[whole] = {**body, **named}
        return self._thing(whole)

    def _thing(self, whole: str) -> dict[str, Any]:
        each = {key: value for key, value in self.things[whole].items() if key != "at"}
        state = "Succeeded" if time.monotonic() >= self.things[whole]["at"] else "Updating"
        more = {"provisioningState": state}
        if "/publicIPAddresses/" in whole and state == "Succeeded":
            more["ipAddress"] = "127.0.0.1"
        return {**each, "properties": {**each.get("properties", {}), **more}}

    def _settle(self) -> None:
        """What has come to pass by now: what goes along with what is gone."""
        for each in [each for each in self.rented.values() if self.is_gone(each) and each.id not in self._ended]:
            self._ended.add(each.id)
            disk = each.asked["properties"].get("storageProfile", {}).get("osDisk", {})
            whole = f"{ROOT}Microsoft.Compute/disks/{disk.get('name')}"
            if whole in self.things:
                self.things[whole]["managedBy"] = None
            if self.all_stays:
                continue
            if disk.get("deleteOption") == "Delete":
                self.things.pop(whole, None)
            for interface in self._interfaces(each.asked):
                if interface.get("properties", {}).get("deleteOption") == "Delete":
                    gone = self.things.pop(interface["id"], {"properties": {"ipConfigurations": []}})
                    for one in gone["properties"]["ipConfigurations"]:
                        address = one["properties"]["publicIPAddress"]
                        if self.things[address["id"]]["properties"].get("deleteOption") == "Delete":
                            del self.things[address["id"]]

    @staticmethod
    def _interfaces(asked: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = asked["properties"].get("networkProfile", {}).get("networkInterfaces", [])
        return found

    # -- requests --------------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, key: str, body: Any) -> Answer:
        if path.startswith("/token"):
            if self.is_down:
                raise Lost
            ends = int(time.time()) + 3600
            return 200, {"access_token": KEY, "expires_on": str(ends), "resource": "r", "token_type": "Bearer"}
        return super().answer(method, path, key, body)

    def kind(self, method: str, path: str) -> str:
        where = unquote(urlsplit(path).path)
        if MACHINES not in where:
            return "other"
        if method == "PUT":
            return "create"
        return "terminate" if method == "DELETE" else "list" if where.endswith(MACHINES) else "look"

    def no_capacity(self) -> Answer:
        said = "The requested VM size is currently not available in location 'westeurope'."
        return _error(409, "SkuNotAvailable", said)

    def carry_out(self, method: str, path: str, body: Any) -> Answer:
        self._settle()
        where, query = unquote(urlsplit(path).path), parse_qs(urlsplit(path).query)
        if "api-version" not in query:
            return _error(
                400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required"
            )
        if where.endswith("/Microsoft.Compute/skus"):
            return self._sizes(query)
        if not where.startswith(ROOT):
            return _error(404, "ResourceGroupNotFound", f"Resource group of {where} could not be found.")
        kind, _, name = where.removeprefix(ROOT).partition("/")
        what, _, name = name.partition("/")
        if f"{kind}/{what}" == MACHINES:
            return self._machines(method, name, "$expand" in query, body)
        return self._others(method, where, name, body, "$expand" in query)

    def _sizes(self, query: dict[str, list[str]]) -> Answer:
        assert query["$filter"] == [f"location eq '{LOCATION}'"]
        shown = []
        for name, (cpus, memory, gpus, more) in SIZES.items():
            has = {"vCPUs": str(cpus), "MemoryGB": str(memory), **({"GPUs": str(gpus)} if gpus else {}), **more}
            capabilities = [{"name": key, "value": value} for key, value in has.items()]
            shown.append({"resourceType": "virtualMachines", "name": name, "capabilities": capabilities, "restrictions": []})  # fmt: skip
        withheld = [{"type": "Location", "reasonCode": "NotAvailableForSubscription"}]
        shown.append({**shown[0], "name": "Standard_A0", "restrictions": withheld})
        # In two pages.
        if "page" in query:
            return 200, {"value": shown[2:]}
        link = f"{self.url}/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/skus?api-version=1&page=2&$filter=location eq '{LOCATION}'"
        return 200, {"value": shown[:2], "nextLink": link}

    def shown(self, each: Rented, *, whole: bool) -> dict[str, Any]:
        """A machine; what runs is shown only where that was asked for."""
        age, asked = time.monotonic() - each.made, each.asked["properties"]
        is_failed = self.fails_late and age > self.boot_s
        state = "Failed" if is_failed else "Succeeded" if age > self.boot_s else "Creating"
        power = each.status or ("PowerState/running" if state == "Succeeded" else "")
        statuses = [{"code": power, "level": "Info"}] if power else []
        if is_failed:
            statuses = [{"code": "ProvisioningState/failed/AllocationFailed", "level": "Error", "message": "Allocation failed."}]  # fmt: skip
        system = {key: value for key, value in asked.get("osProfile", {}).items() if key != "customData"}
        more = {
            "provisioningState": "Deleting" if each.ended is not None else state,
            "vmId": f"vm-{each.number}",
            "timeCreated": each.born,
            "osProfile": system,
            **({"instanceView": {"statuses": statuses}} if whole else {}),
        }
        named = {"id": f"{ROOT}{MACHINES}/{each.id}", "name": each.id, "type": MACHINES, "location": LOCATION}
        return {**named, "tags": each.asked.get("tags") or {}, "properties": {**asked, **more}}

    def _machines(self, method: str, name: str, whole: bool, body: Any) -> Answer:
        there = [each for each in self.rented.values() if self.is_shown(each) and not self.is_gone(each)]
        if method == "PUT":
            return self._ask(name, body)
        if not name:
            return 200, {"value": [self.shown(each, whole=False) for each in there]}
        found = next((each for each in there if each.id.casefold() == name.casefold()), None)
        if method == "DELETE":
            if found is None:
                return 204, None
            if found.ended is None:
                self.end(found.id)
                return 202, None
            return _error(409, "OperationNotAllowed", "The virtual machine is being deleted.")
        if found is None:
            return _error(404, "ResourceNotFound", f"The Resource '{MACHINES}/{name}' was not found.")
        return 200, self.shown(found, whole=whole)

    def _ask(self, name: str, body: dict[str, Any]) -> Answer:
        known = self.rented.get(name)
        if known is not None and not self.is_gone(known):
            if time.monotonic() - known.made < self.boot_s:
                return _error(409, "OperationNotAllowed", "Another operation on the virtual machine is in progress.")
            return 200, self.shown(known, whole=False)
        for interface in self._interfaces(body):
            if interface["id"] not in self.things:
                return _error(400, "InvalidResourceReference", f"Resource {interface['id']} was not found.")
        system = body["properties"]["osProfile"]
        if not system.get("linuxConfiguration", {}).get("ssh", {}).get("publicKeys") and "adminPassword" not in system:
            return _error(400, "InvalidParameter", "Authentication using either SSH or by user name and password must be enabled.")  # fmt: skip
        return 201, self.shown(self.make({**body, "name": name}), whole=False)

    def _others(self, method: str, where: str, name: str, body: Any, whole: bool) -> Answer:
        if method == "PUT":
            missing = [each for each in _references(body) if _base(each) not in self.things]
            if missing:
                return _error(400, "InvalidResourceReference", f"Resource {missing[0]} was not found.")
            unready = [each for each in _references(body) if self._thing(_base(each))["properties"]["provisioningState"] != "Succeeded"]  # fmt: skip
            if unready:
                return _error(409, "ReferencedResourceNotProvisioned", f"Resource {unready[0]} is in Updating state.")
            return 201, self._put(where, body)
        if not name:
            return 200, {"value": [self._thing(each) for each in self.things if each.startswith(f"{where}/")]}
        if where not in self.things:
            return (204, None) if method == "DELETE" else _error(404, "ResourceNotFound", f"{where} was not found.")
        if method == "DELETE":
            users = [each for each in self.things if where in map(_base, _references(self.things[each]))]
            users += [each for each in self.live() if where in [one["id"] for one in self._interfaces(self.rented[each].asked)]]  # fmt: skip
            if users or self.things[where].get("managedBy"):
                return _error(400, "InUseCannotBeDeleted", f"{where} is in use by {users}.")
            del self.things[where]
            return 202, None
        shown = self._thing(where)
        if whole:
            for one in shown["properties"].get("ipConfigurations", ()):
                address = one["properties"]["publicIPAddress"]["id"]
                one["properties"] = {**one["properties"], "publicIPAddress": self._thing(address)}
        return 200, shown


def _references(body: dict[str, Any]) -> list[str]:
    """The ids that an interface refers to."""
    properties = body.get("properties", {})
    found = [one["properties"][key]["id"] for one in properties.get("ipConfigurations", ()) for key in ("subnet", "publicIPAddress")]  # fmt: skip
    return found + ([properties["networkSecurityGroup"]["id"]] if "networkSecurityGroup" in properties else [])


def _base(whole: str) -> str:
    """The network of a subnet; anything else itself."""
    return whole.partition("/subnets/")[0]
