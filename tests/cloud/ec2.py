"""The stand-in for EC2, started and looked at by the tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

import support
from tether.linux import sockets

_PROGRAM = Path(__file__).parent / "ec2_stand.py"
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


class Ec2:
    """A running stand-in.

    Attributes:
        url: where it answers.
        client: a client of AWS's own library, which knows nothing of tether.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self.process: subprocess.Popen[bytes] | None = process
        more = {"aws_access_key_id": "other", "aws_secret_access_key": "other", "region_name": REGION}
        self.client = boto3.client("ec2", endpoint_url=url, **more)
        self.scheduler = boto3.client("scheduler", endpoint_url=url, **more)
        self.is_down = False
        self.image = self.client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]

    def tell(self, **what: Any) -> dict[str, Any]:
        """Set faults ([["RunInstances", "lost"], ...]), ``late`` and ``down``; return what there is."""
        request = urllib.request.Request(f"{self.url}/_stand", json.dumps(what).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            said: dict[str, Any] = json.load(answer)
            return said

    def go_down(self) -> None:
        """Have every request's connection broken, for two minutes at most."""
        self.is_down = True
        self.tell(down=120)

    def come_back(self) -> None:
        """Answer again."""
        self.tell(down=0)
        self.is_down = False

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
    port = sockets.free_port()
    process = subprocess.Popen(
        [*support.SERVICE, sys.executable, "-W", "ignore", str(_PROGRAM), str(port), str(folder)],
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith(("TETHER_", "AWS_"))},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        made = Ec2(f"http://127.0.0.1:{port}", process)
        yield made
        for machine in made.machines():
            made.tell(end=machine)
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
