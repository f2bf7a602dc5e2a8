"""What is made for a machine at AWS beside it: a key pair, a security group; and disks that stayed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tether.drivers.cloud.provider import Order, Part, Refused
from tether.drivers.cloud.providers.aws_client import RESOURCE, asking, tagged, tags_of

__all__ = ["group_id", "make_group", "make_key_pair", "name_of", "present", "remove"]

_CREATION_S = 300.0


def name_of(tag: str) -> str:
    """Return the name of the parts of a resource: of tether's own making, and on record before they are made."""
    return f"tether-{tag}"


def _key_pairs(ec2: Any, name: str) -> list[dict[str, Any]]:
    with asking():
        found: list[dict[str, Any]] = ec2.describe_key_pairs(Filters=[{"Name": "key-name", "Values": [name]}])[
            "KeyPairs"
        ]
        return found


def _groups(ec2: Any, name: str) -> list[dict[str, Any]]:
    with asking():
        found: list[dict[str, Any]] = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [name]}])[
            "SecurityGroups"
        ]
        return found


def _with_tag(shown: list[dict[str, Any]], tag: str) -> list[dict[str, Any]]:
    return [each for each in shown if tags_of(each).get(RESOURCE) == tag]


def make_key_pair(ec2: Any, order: Order) -> None:
    """Have AWS know the public half of the key pair. Its private half was made here, and never leaves."""
    name = name_of(order.tag)
    with asking(absent=("InvalidKeyPair.Duplicate",)):
        ec2.import_key_pair(
            KeyName=name,
            PublicKeyMaterial=(order.public_key or "").encode(),
            TagSpecifications=tagged(order, "key-pair"),
        )
        return
    # An answer to this very request may have been lost; what is there must be ours.
    if not _with_tag(_key_pairs(ec2, name), order.tag):
        raise Refused(f"aws has a key pair {name} that was not made by tether; remove it")


def make_group(ec2: Any, order: Order) -> None:
    """Make a security group that lets in what was asked for."""
    spec, name = order.spec, name_of(order.tag)
    network = {}
    if spec.network is not None:
        with asking():
            subnet = ec2.describe_subnets(SubnetIds=[spec.network])["Subnets"][0]
        network = {"VpcId": subnet["VpcId"]}
    with asking(absent=("InvalidGroup.Duplicate",)):
        ec2.create_security_group(
            GroupName=name,
            Description=f"made by tether for resource {order.tag}",
            TagSpecifications=tagged(order, "security-group"),
            **network,
        )
    kind, where = ("Ipv6Ranges", "CidrIpv6") if ":" in spec.open_to else ("IpRanges", "CidrIp")
    rules = [
        {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, kind: [{where: spec.open_to}]}
        for port in spec.open_ports
    ]
    with asking(absent=("InvalidPermission.Duplicate",)):
        ec2.authorize_security_group_ingress(GroupId=group_id(ec2, order.tag), IpPermissions=rules)


def group_id(ec2: Any, tag: str) -> str:
    """Return the id of the group that was made for a resource."""
    found = _with_tag(_groups(ec2, name_of(tag)), tag)
    if not found:
        raise Refused(f"aws does not show the security group {name_of(tag)}, or it was not made by tether")
    return str(found[0]["GroupId"])


def _disks_left(ec2: Any, tag: str, began: float) -> list[Part]:
    """Disks with the tag that nothing uses. The second proof is their birth: within the time in which the machine was created."""
    with asking():
        shown = ec2.describe_volumes(
            Filters=[{"Name": f"tag:{RESOURCE}", "Values": [tag]}, {"Name": "status", "Values": ["available", "error"]}]
        )["Volumes"]
    return [
        Part("disk", each["VolumeId"])
        for each in shown
        if isinstance(each.get("CreateTime"), datetime)
        and began - _CREATION_S <= each["CreateTime"].timestamp() <= began + _CREATION_S
    ]


def present(ec2: Any, tag: str, planned: Sequence[Part], began: float) -> list[Part]:
    """Return what is there of the parts of a resource, by name and tag."""
    found = []
    for part in planned:
        if part.what == "key pair":
            found += [Part(part.what, each["KeyName"]) for each in _with_tag(_key_pairs(ec2, part.name), tag)]
        elif part.what == "security group":
            found += [Part(part.what, each["GroupId"]) for each in _with_tag(_groups(ec2, part.name), tag)]
    return found + _disks_left(ec2, tag, began)


def remove(ec2: Any, part: Part) -> None:
    """Remove a part by its id or name, as `present` showed it."""
    with asking(absent=("InvalidKeyPair.NotFound", "InvalidGroup.NotFound", "InvalidVolume.NotFound")):
        if part.what == "key pair":
            ec2.delete_key_pair(KeyName=part.name)
        elif part.what == "security group":
            ec2.delete_security_group(GroupId=part.name)
        elif part.what == "disk":
            ec2.delete_volume(VolumeId=part.name)
