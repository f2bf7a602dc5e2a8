"""The stand-in for EC2, started and looked at by the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

from cloud.stand import Stand, served

_RESOURCE = "tether:resource"
REGION = "us-east-1"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "the-secret-of-the-account",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def why_not() -> str:
    """Return why there can be no stand-in here; empty if there can."""
    if os.getuid() != 0:
        return "only root can make the namespaces of machines"
    missing = [program for program in ("unshare", "ip", "curl", "ssh-keygen") if shutil.which(program) is None]
    return f"there is no {', '.join(missing)}" if missing else ""


class Ec2(Stand):
    """A running stand-in.

    Attributes:
        url: where it answers.
        client: a client of AWS's own library, which knows nothing of tether.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        super().__init__(url, process)
        more = {"aws_access_key_id": "other", "aws_secret_access_key": "other", "region_name": REGION}
        self.client = boto3.client("ec2", endpoint_url=url, **more)
        self.scheduler = boto3.client("scheduler", endpoint_url=url, **more)
        self.image = self.client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]

    def machines(self) -> list[str]:
        """The real machines that run."""
        found: list[str] = self.tell()["machines"]
        return found

    def instances(self, **tags: str) -> list[dict[str, Any]]:
        """Instances that are not terminated, those with the tags."""
        filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in tags.items()]
        return [
            instance
            for reservation in self.client.describe_instances(Filters=filters)["Reservations"]
            for instance in reservation["Instances"]
            if instance["State"]["Name"] != "terminated"
        ]

    def every(self, tag: str) -> list[tuple[str, str]]:
        """All instances with a tag of tether's, ended ones too, each with its state."""
        filters = [{"Name": f"tag:{_RESOURCE}", "Values": [tag]}]
        return [
            (instance["InstanceId"], instance["State"]["Name"])
            for reservation in self.client.describe_instances(Filters=filters)["Reservations"]
            for instance in reservation["Instances"]
        ]

    def foreign(self, **more: Any) -> str:
        """Start a machine of somebody else's, and return its id."""
        made = self.client.run_instances(ImageId=self.image, MinCount=1, MaxCount=1, InstanceType="t3.micro", **more)
        machine: str = made["Instances"][0]["InstanceId"]
        return machine

    def leftovers(self, but: tuple[str, ...] = ()) -> list[str]:
        """What is there of machines, key pairs, groups, disks and schedules that tether made."""
        ec2, mine = self.client, [{"Name": "tag-key", "Values": [_RESOURCE]}]
        instances = [
            instance["InstanceId"]
            for reservation in ec2.describe_instances(Filters=mine)["Reservations"]
            for instance in reservation["Instances"]
            if instance["State"]["Name"] != "terminated"
        ]
        machines = [machine for machine in self.machines() if machine not in instances]
        keys = [
            each["KeyName"] for each in ec2.describe_key_pairs()["KeyPairs"] if each["KeyName"].startswith("tether")
        ]
        groups = [
            each["GroupName"]
            for each in ec2.describe_security_groups()["SecurityGroups"]
            if each["GroupName"] != "default"
        ]
        disks = [each["VolumeId"] for each in ec2.describe_volumes(Filters=mine)["Volumes"]]
        schedules = [each["Name"] for each in self.scheduler.list_schedules()["Schedules"]]
        return [each for each in (*instances, *machines, *keys, *groups, *disks, *schedules) if each not in but]


@contextmanager
def running(folder: Path) -> Iterator[Ec2]:
    """Start a stand-in; at the end it is gone, and all machines with it."""
    with served("cloud.ec2_stand", folder) as (url, process):
        made = Ec2(url, process)
        yield made
        for machine in made.machines():
            made.tell(end=machine)
