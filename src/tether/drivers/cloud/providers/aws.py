"""Amazon EC2: the ClientToken makes creation idempotent, tags go on everything at its creation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from tether.drivers.cloud.provider import Choice, Order, Part, Phase, Refused, Seen, Tested
from tether.drivers.cloud.providers import aws_parts, aws_types
from tether.drivers.cloud.providers.aws_client import RESOURCE, Clients, asking, tagged, tags_of
from tether.drivers.cloud.providers.aws_schedules import Schedules
from tether.drivers.cloud.spec import Machine, MachineRef
from tether.errors import DriverUnavailable, SpecError
from tether.protocol import CloudProviderType

__all__ = ["Aws"]

_PHASES: dict[str, Phase] = {
    "pending": "pending",
    "running": "running",
    "stopping": "stopping",
    "stopped": "stopped",
    "shutting-down": "ending",
    "terminated": "gone",
}
_OPTIONS = ("scheduler_role", "instance_profile", "security_groups", "request")
_OURS = ("ClientToken", "TagSpecifications", "MinCount", "MaxCount", "InstanceInitiatedShutdownBehavior", "UserData")
_USER_DATA_BYTES = 16 * 1024
_LEASE_TAG = "tether:lease"
_LATEST = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{arch}"


class Aws:
    """See `tether.drivers.cloud.provider.Provider`. Credentials are found as boto3 does: profiles, SSO, roles, the environment.

    Options of `Machine`: ``scheduler_role``, the ARN of a role that EventBridge Scheduler may take on to terminate the machine;
    ``instance_profile``, a name; ``security_groups``, ids of yours; ``request``, more fields of the RunInstances request.
    """

    type: ClassVar[CloudProviderType] = CloudProviderType.AWS
    idempotent: ClassVar[bool] = True
    lag_s: ClassVar[float] = 30.0
    tested: ClassVar[Tested] = "run against a stand-in with real machines"
    boots: ClassVar[bool] = True

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._clients = Clients(where)
        self._schedules = Schedules(self._clients)

    @classmethod
    def where(cls, spec: Machine | MachineRef) -> dict[str, Any]:
        """Return region, profile and address as they are in use now: a sweep may have another environment."""
        cls._check(spec)
        endpoint = spec.endpoint or os.environ.get("AWS_ENDPOINT_URL_EC2") or os.environ.get("AWS_ENDPOINT_URL")
        profile = spec.profile or os.environ.get("AWS_PROFILE")
        where = {"region": spec.region, "profile": profile, "endpoint": endpoint}
        if spec.region is None:
            where["region"] = Clients(where).region
        role = spec.options.get("scheduler_role")
        return where if role is None else {**where, "scheduler_role": role}

    @staticmethod
    def _check(spec: Machine | MachineRef) -> None:
        unknown = sorted(set(spec.options) - set(_OPTIONS))
        if unknown:
            raise SpecError(f"options {', '.join(unknown)} are not known for aws; there are {', '.join(_OPTIONS)}")
        ours = sorted(set(spec.options.get("request", {})) & set(_OURS))
        if ours:
            raise SpecError(f"options['request'] can't have {', '.join(ours)}: tether sets them")

    # -- create --------------------------------------------------------------------------------------------------------

    def choose(self, spec: Machine) -> Choice:
        """Choose a size that has what was asked for, and the newest Amazon Linux if no image was named."""
        ec2 = self._clients.ec2
        with asking():
            size = aws_types.smallest(ec2, spec)
            image = spec.image
            if image is None:
                name = _LATEST.format(arch=size.architecture)
                image = self._clients.ssm.get_parameter(Name=name)["Parameter"]["Value"]
            shown = ec2.describe_images(ImageIds=[image])["Images"]
        if not shown:
            raise Refused(f"aws has no image {image} in region {self._clients.region}")
        # Amazon Linux's own user; of other images tether knows none.
        user = "ec2-user" if spec.image is None else None
        return Choice(size.name, None, size.gpu_count, size.gpu, user, {"image": shown[0]})

    def create(self, order: Order, choice: Choice) -> Seen:
        """Run one instance. The same proof again is the same instance. Raises Refused or Unclear."""
        request = self._request(order, choice)
        with asking(creating=True):
            made = self._clients.ec2.run_instances(**request)
        return _seen(made["Instances"][0])

    def _request(self, order: Order, choice: Choice) -> dict[str, Any]:
        spec, image = order.spec, choice.data["image"]
        if len(order.user_data) > _USER_DATA_BYTES:
            raise Refused(
                f"user_data is {len(order.user_data)} bytes with the lease's part; aws takes {_USER_DATA_BYTES}"
            )
        kinds = ["instance", "volume", "network-interface", *(["spot-instances-request"] if spec.spot else [])]
        request: dict[str, Any] = {
            **spec.options.get("request", {}),
            "ImageId": image["ImageId"],
            "InstanceType": choice.type,
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": order.proof,
            "InstanceInitiatedShutdownBehavior": "terminate",
            "UserData": order.user_data.decode("latin-1") if order.user_data else "",
            "MetadataOptions": {"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
            "TagSpecifications": tagged(order, *kinds),
        }
        disks = _disks(image, spec.disk)
        if disks:
            request["BlockDeviceMappings"] = disks
        if order.public_key is not None:
            request["KeyName"] = aws_parts.name_of(order.tag)
        elif isinstance(spec.key, str):
            request["KeyName"] = spec.key
        if spec.network is not None:
            request["SubnetId"] = spec.network
        groups = list(spec.options.get("security_groups", ()))
        if spec.open_ports:
            groups.append(aws_parts.group_id(self._clients.ec2, order.tag))
        if groups:
            request["SecurityGroupIds"] = groups
        if "instance_profile" in spec.options:
            request["IamInstanceProfile"] = {"Name": spec.options["instance_profile"]}
        if spec.spot:
            once = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
            request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": once}
        return request

    # -- look and end --------------------------------------------------------------------------------------------------

    def listed(self, tag: str) -> list[Seen]:
        """Return the instances with a tag."""
        return self._described([{"Name": f"tag:{RESOURCE}", "Values": [tag]}])

    def look(self, ids: Sequence[str]) -> dict[str, Seen]:
        """Return instances by id. A filter says nothing of what is not there, where asking by id is refused."""
        return (
            {seen.id: seen for seen in self._described([{"Name": "instance-id", "Values": list(ids)}])} if ids else {}
        )

    def _described(self, filters: list[dict[str, Any]]) -> list[Seen]:
        with asking():
            pages = self._clients.ec2.get_paginator("describe_instances").paginate(Filters=filters)
            return [
                _seen(instance)
                for page in pages
                for reservation in page["Reservations"]
                for instance in reservation["Instances"]
            ]

    def terminate(self, machine: str) -> None:
        """Terminate an instance."""
        with asking(absent=("InvalidInstanceID.NotFound",)):
            self._clients.ec2.terminate_instances(InstanceIds=[machine])

    # -- parts ---------------------------------------------------------------------------------------------------------

    def planned(self, spec: Machine, tag: str) -> list[Part]:
        """See `HasParts`: a key pair, a security group, a schedule."""
        name = aws_parts.name_of(tag)
        wanted = {
            "key pair": spec.key is True,
            "security group": bool(spec.open_ports),
            "schedule": spec.lease is not None and "scheduler_role" in spec.options,
        }
        return [Part(what, name) for what, is_wanted in wanted.items() if is_wanted]

    def make(self, part: Part, order: Order) -> None:
        """See `HasParts`. The schedule is made when there is something to end."""
        if part.what == "key pair":
            aws_parts.make_key_pair(self._clients.ec2, order)
        elif part.what == "security group":
            aws_parts.make_group(self._clients.ec2, order)

    def parts(self, tag: str, planned: Sequence[Part], began: float) -> list[Part]:
        """See `HasParts`: also disks that stayed, whatever their image says."""
        found = aws_parts.present(self._clients.ec2, tag, planned, began)
        return found + [part for part in planned if part.what == "schedule" and self._schedules.is_there(part.name)]

    def remove(self, part: Part) -> None:
        """See `HasParts`."""
        if part.what == "schedule":
            self._schedules.remove(part.name)
        else:
            aws_parts.remove(self._clients.ec2, part)

    # -- leases and output ---------------------------------------------------------------------------------------------

    def watch_script(self) -> str:
        """See `CanRenew`: the instance reads its own tag from the metadata service (IMDSv2), without any key."""
        return (
            "base=http://169.254.169.254/latest; "
            "token=$(curl -sf -m 3 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $base/api/token) && "
            f'curl -sf -m 3 -H "X-aws-ec2-metadata-token: $token" $base/meta-data/tags/instance/{_LEASE_TAG}'
        )

    def renew(self, machine: str, word: str) -> None:
        """See `CanRenew`: a new value of the tag that it reads."""
        with asking(absent=("InvalidInstanceID.NotFound",)):
            self._clients.ec2.create_tags(Resources=[machine], Tags=[{"Key": _LEASE_TAG, "Value": word}])
            return
        raise DriverUnavailable(f"aws does not show machine {machine}, or not yet")

    def lease(self, name: str, machine: str, until: float) -> bool:
        """See `CanLease`: a one-shot schedule of EventBridge that terminates it."""
        return self._schedules.put(aws_parts.name_of(name), machine, until)

    def console(self, machine: str) -> bytes:
        """See `HasConsole`."""
        with asking(absent=("InvalidInstanceID.NotFound",)):
            said = self._clients.ec2.get_console_output(InstanceId=machine, Latest=True).get("Output", "")
            return str(said).encode()
        return b""


def _disks(image: Mapping[str, Any], gigabytes: int | None) -> list[dict[str, Any]]:
    """Every disk of an image, to go with the machine: an image may say that they stay."""
    disks = []
    for disk in image.get("BlockDeviceMappings", ()):
        if "Ebs" not in disk:
            continue
        ebs: dict[str, Any] = {"DeleteOnTermination": True}
        size = disk["Ebs"].get("VolumeSize")
        if gigabytes is not None and disk["DeviceName"] == image.get("RootDeviceName"):
            size = gigabytes
        if size is not None:
            ebs["VolumeSize"] = size
        disks.append({"DeviceName": disk["DeviceName"], "Ebs": ebs})
    return disks


def _seen(shown: Mapping[str, Any]) -> Seen:
    tags = tags_of(shown)
    launched = shown.get("LaunchTime")
    why = shown.get("StateReason", {}).get("Message") or shown.get("StateTransitionReason") or ""
    return Seen(
        shown["InstanceId"],
        _PHASES.get(shown["State"]["Name"], "pending"),
        shown["State"]["Name"],
        why,
        tags.get(RESOURCE),
        # The token is the creation's own: copying a machine with all its tags does not copy it.
        shown.get("ClientToken"),
        launched.timestamp() if isinstance(launched, datetime) else None,
        shown.get("PublicIpAddress") or shown.get("PrivateIpAddress"),
        shown.get("InstanceType"),
    )
