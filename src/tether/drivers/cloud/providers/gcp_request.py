"""What Google is asked for when a machine is created: everything in one request, all of it with the mark."""

from __future__ import annotations

import base64
import math
from typing import Any

from tether.drivers.cloud.provider import Choice, Order, Refused

__all__ = ["OURS", "OWNER", "RESOURCE", "SSH_USER", "instance", "name_of", "subnetwork"]

RESOURCE = "tether-resource"
"""The label of tether on whatever it makes that can have labels: the resource's id."""

OWNER = "tether-owner"
"""The label with the owner's id."""

SSH_USER = "tether"
"""Who logs in: Google's agent in the machine makes this account for the key that is in the machine's metadata."""

OURS = (
    "name",
    "description",
    "machineType",
    "labels",
    "disks",
    "networkInterfaces",
    "metadata",
    "scheduling",
    "tags",
    "guestAccelerators",
    "deletionProtection",
)
"""Fields of the request that tether sets."""

_TEXT_BYTES = 256 * 1024
# Source: Compute Engine, "Limit the run time of a VM".
_SHORTEST_CAP_S = 30
_LONGEST_CAP_S = 120 * 24 * 3600
_IMAGE = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-{arch}"

# Google runs it at every boot, where a machine was stopped and started again as well; what was asked for is its first.
_ONCE = """\
#!/bin/sh
mark=/var/lib/tether-booted
[ -e $mark ] && exit 0
: >$mark
tether_first=$(mktemp -d) && printf %s '{script}' | base64 -d >"$tether_first/user-data" && chmod 700 "$tether_first/user-data"
exec "$tether_first/user-data"
"""


def name_of(tag: str) -> str:
    """Return the name of the parts of a resource, and the network tag on its machine."""
    return f"tether-{tag}"


def subnetwork(zone: str, network: str) -> str:
    """Return a subnetwork as requests name it, from its name or address."""
    return network if "/" in network else f"regions/{zone.rpartition('-')[0]}/subnetworks/{network}"


def instance(order: Order, choice: Choice, zone: str) -> dict[str, Any]:
    """Return the body of the request. Raises Refused for user data that is too long."""
    spec = order.spec
    labels = {**spec.labels, RESOURCE: order.tag, OWNER: order.owner}
    disk: dict[str, Any] = {"diskName": order.proof, "sourceImage": _image(order, choice), "labels": labels}
    if spec.disk is not None:
        disk["diskSizeGb"] = str(spec.disk)
    where = {"network": "global/networks/default"}
    if spec.network is not None:
        where = {"subnetwork": subnetwork(zone, spec.network)}
    request: dict[str, Any] = {
        **spec.options.get("request", {}),
        "name": order.proof,
        "description": f"made by tether for resource {order.tag}",
        "machineType": f"zones/{zone}/machineTypes/{choice.type}",
        "labels": labels,
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": disk}],
        "networkInterfaces": [{**where, "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}]}],
        "metadata": {"items": _metadata(order)},
        "scheduling": _scheduling(order, choice),
        "tags": {"items": [name_of(order.tag)]},
        "deletionProtection": False,
    }
    if choice.data["added"]:
        kind = f"zones/{zone}/acceleratorTypes/{choice.gpu}"
        request["guestAccelerators"] = [{"acceleratorType": kind, "acceleratorCount": choice.gpu_count}]
    return request


def _image(order: Order, choice: Choice) -> str:
    image = order.spec.image
    if image is None:
        return _IMAGE.format(arch="arm64" if choice.data["arm"] else "amd64")
    return image if "/" in image else f"global/images/{image}"


def _scheduling(order: Order, choice: Choice) -> dict[str, Any]:
    spec = order.spec
    scheduling: dict[str, Any] = {}
    if spec.spot:
        # Taken away, it goes for good: one that was only stopped would leave a disk that is billed.
        scheduling = {"provisioningModel": "SPOT", "automaticRestart": False, "instanceTerminationAction": "DELETE"}
    if spec.spot or choice.gpu_count:
        scheduling["onHostMaintenance"] = "TERMINATE"
    cap_s = max(_SHORTEST_CAP_S, math.ceil(min(spec.max_lifetime, 2.0 * _LONGEST_CAP_S)))
    if cap_s <= _LONGEST_CAP_S:
        scheduling |= {"maxRunDuration": {"seconds": str(cap_s)}, "instanceTerminationAction": "DELETE"}
    return scheduling


def _metadata(order: Order) -> list[dict[str, str]]:
    said = {}
    if order.user_data:
        script = order.user_data.startswith(b"#!")
        text = base64.b64encode(order.user_data).decode()
        said = {"startup-script": _ONCE.format(script=text)} if script else _for_cloud_init(text)
    if order.public_key is not None:
        # Google's other way to log in would not look at the key.
        said |= {"ssh-keys": f"{SSH_USER}:{order.public_key}", "enable-oslogin": "FALSE"}
    for key, value in said.items():
        if len(value) > _TEXT_BYTES:
            raise Refused(f"user_data is {len(value)} bytes in the form of {key}; gcp takes {_TEXT_BYTES}")
    return [{"key": key, "value": value} for key, value in said.items()]


def _for_cloud_init(text: str) -> dict[str, str]:
    return {"user-data": text, "user-data-encoding": "base64"}
