"""What Azure is asked for: a machine, its interface, public address, rules and network, each by its name and with the tag."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tether.drivers.cloud.provider import Choice, Order, Part, Refused
from tether.drivers.cloud.providers.azure_client import Arm
from tether.drivers.cloud.spec import Machine

__all__ = [
    "KINDS",
    "OURS",
    "OWNER",
    "RESOURCE",
    "SSH_USER",
    "disks_left",
    "machine",
    "make",
    "name_of",
    "planned",
    "present",
]

RESOURCE = "tether-resource"
"""The tag of tether on whatever it makes: the resource's id."""

OWNER = "tether-owner"
"""The tag with the owner's id."""

SSH_USER = "tether"
"""Who logs in."""

OURS = (
    "hardwareProfile",
    "storageProfile",
    "osProfile",
    "networkProfile",
    "priority",
    "evictionPolicy",
    "billingProfile",
)
"""Properties of the machine that tether sets."""

KINDS = {
    "network": "Microsoft.Network/virtualNetworks",
    "security group": "Microsoft.Network/networkSecurityGroups",
    "public address": "Microsoft.Network/publicIPAddresses",
    "interface": "Microsoft.Network/networkInterfaces",
    "disk": "Microsoft.Compute/disks",
}
"""How Azure calls what is made beside a machine, or goes along with it."""
_TEXT_BYTES = 65535
_CREATION_S = 300.0
_NETWORK = "10.0.0.0/24"
_ADDRESS = {"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4", "deleteOption": "Delete"}


def name_of(tag: str) -> str:
    """Return the name of the parts of a resource."""
    return f"tether-{tag}"


def planned(spec: Machine, tag: str) -> list[Part]:
    """Return what is made beside a machine, in the order in which one needs the other."""
    wanted = {
        "network": spec.network is None,
        "security group": bool(spec.open_ports),
        "public address": True,
        "interface": True,
    }
    return [Part(what, name_of(tag)) for what, is_wanted in wanted.items() if is_wanted]


def _tags(order: Order) -> dict[str, str]:
    return {**order.spec.labels, RESOURCE: order.tag, OWNER: order.owner}


def make(arm: Arm, location: str, part: Part, order: Order) -> None:
    """Make a part, until it is there. Raises DriverUnavailable."""
    if part.what == "network":
        subnet = {"name": "default", "properties": {"addressPrefix": _NETWORK}}
        body: dict[str, Any] = {"properties": {"addressSpace": {"addressPrefixes": [_NETWORK]}, "subnets": [subnet]}}
    elif part.what == "security group":
        body = _rules(order.spec)
    elif part.what == "public address":
        body = {"sku": {"name": "Standard"}, "properties": _ADDRESS}
    else:
        body = _interface(arm, order)
    arm.make(KINDS[part.what], part.name, {"location": location, "tags": _tags(order), **body})


def _rules(spec: Machine) -> dict[str, Any]:
    rule = {
        "priority": 100,
        "direction": "Inbound",
        "access": "Allow",
        "protocol": "Tcp",
        "sourceAddressPrefix": "*" if spec.open_to == "0.0.0.0/0" else spec.open_to,
        "sourcePortRange": "*",
        "destinationAddressPrefix": "*",
        "destinationPortRanges": [str(port) for port in spec.open_ports],
    }
    return {"properties": {"securityRules": [{"name": "open", "properties": rule}]}}


def _interface(arm: Arm, order: Order) -> dict[str, Any]:
    name, network = name_of(order.tag), order.spec.network
    if network is None:
        network = f"{name}/default"
    if not network.startswith("/"):
        whole, _, subnet = network.partition("/")
        network = f"{arm.id_of(KINDS['network'], whole)}/subnets/{subnet}"
    address = {"id": arm.id_of(KINDS["public address"], name), "properties": {"deleteOption": "Delete"}}
    one = {"name": "main", "properties": {"subnet": {"id": network}, "publicIPAddress": address, "primary": True}}
    properties: dict[str, Any] = {"ipConfigurations": [one]}
    if order.spec.open_ports:
        properties["networkSecurityGroup"] = {"id": arm.id_of(KINDS["security group"], name)}
    return {"properties": properties}


def machine(arm: Arm, location: str, order: Order, choice: Choice) -> dict[str, Any]:
    """Return the body of the request for a machine. Raises Refused for user data that is too long."""
    spec = order.spec
    if len(order.user_data) > _TEXT_BYTES:
        raise Refused(f"user_data is {len(order.user_data)} bytes with the host key's part; azure takes {_TEXT_BYTES}")
    disk: dict[str, Any] = {"name": order.proof, "createOption": "FromImage", "deleteOption": "Delete"}
    if spec.disk is not None:
        disk["diskSizeGB"] = spec.disk
    interface = {
        "id": arm.id_of(KINDS["interface"], name_of(order.tag)),
        "properties": {"primary": True, "deleteOption": "Delete"},
    }
    public_key = order.public_key or choice.data["public_key"]
    key = {"path": f"/home/{SSH_USER}/.ssh/authorized_keys", "keyData": public_key}
    system: dict[str, Any] = {
        "computerName": order.proof,
        "adminUsername": SSH_USER,
        "linuxConfiguration": {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [key]}},
    }
    if order.user_data:
        system["customData"] = base64.b64encode(order.user_data).decode()
    request = spec.options.get("request", {})
    properties: dict[str, Any] = {
        **request.get("properties", {}),
        "hardwareProfile": {"vmSize": choice.type},
        "storageProfile": {"imageReference": _image(spec.image, is_arm=choice.data["arm"]), "osDisk": disk},
        "osProfile": system,
        "networkProfile": {"networkInterfaces": [interface]},
    }
    if spec.spot:
        # Taken away, it goes for good: one that was only deallocated would leave a disk that is billed.
        properties |= {"priority": "Spot", "evictionPolicy": "Delete", "billingProfile": {"maxPrice": -1}}
    return {**request, "location": location, "tags": _tags(order), "properties": properties}


def _image(image: str | None, *, is_arm: bool) -> dict[str, str]:
    if image is None:
        sku = "server-arm64" if is_arm else "server"
        return {"publisher": "Canonical", "offer": "ubuntu-24_04-lts", "sku": sku, "version": "latest"}
    if image.startswith("/"):
        return {"id": image}
    publisher, offer, sku, version = image.split(":")
    return {"publisher": publisher, "offer": offer, "sku": sku, "version": version}


def present(arm: Arm, tag: str, parts: Sequence[Part]) -> list[Part]:
    """Return what is there of the parts of a resource, by name and tag, in the order in which it can be removed."""
    found = []
    for part in reversed(parts):
        shown = arm.get(KINDS[part.what], part.name)
        if shown is not None and (shown.get("tags") or {}).get(RESOURCE) == tag:
            found.append(part)
    return found


def disks_left(arm: Arm, tag: str, began: float) -> list[Part]:
    """Return disks that stayed. Azure puts no tag on a machine's disk: the proofs are its name, and its birth with the machine."""
    return [
        Part("disk", each["name"])
        for each in arm.every(KINDS["disk"])
        if each["name"].startswith(f"{name_of(tag)}-") and not each.get("managedBy") and _is_born_about(each, began)
    ]


def _is_born_about(shown: Mapping[str, Any], began: float) -> bool:
    try:
        born = datetime.fromisoformat(str(shown["properties"]["timeCreated"])).timestamp()
    except (KeyError, TypeError, ValueError):
        return False
    return began - _CREATION_S <= born <= began + _CREATION_S
