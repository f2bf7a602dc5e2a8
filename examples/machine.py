"""A machine with a GPU, rented for one model server: from nothing to an answered request and back to nothing, with what it cost.

python examples/machine.py [REGION IMAGE]

With a region and an image it uses your account at AWS (extra aws). Without, as root, it starts the stand-in for EC2 of tether's
tests, in which a machine is a namespace of this one that runs its user data: there is no GPU in it, and a small web server stands
for the model's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tether import Budget, Machine, Owner, Process, RemoteProcess, http, tcp

TESTS = Path(__file__).parents[1] / "tests"
BOOTS = "#!/bin/sh\nmkdir -p /srv/model && echo 'the answer is 42' >/srv/model/answer\n"
SERVES = ["busybox", "httpd", "-f", "-p", "127.0.0.1:{port}", "-h", "/srv/model"]


@contextmanager
def stand_in(folder: str) -> Iterator[dict[str, Any]]:
    """Start a stand-in for EC2, and say how it is reached and with what."""
    import boto3

    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    with Owner("example-stand-in") as owner:
        argv = [sys.executable, "-W", "ignore", "-m", "cloud.ec2_stand", "{port}", folder]
        server = owner.start(Process(argv, name="stand-in", ready=tcp(), cwd=TESTS))
        where = {"region": "us-east-1", "endpoint": server.url}
        ec2 = boto3.client("ec2", region_name=where["region"], endpoint_url=server.url)
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        # Its lists show at once what was created.
        yield {**where, "image": image, "listing_lag": 1.0}


def use(where: dict[str, Any]) -> None:
    """Rent a machine, have a server on it answer a request, and leave: nothing of it stays."""
    box = Machine(gpu="T4", cost_per_hour=0.6, open_ports=[22], user_data=BOOTS, lease=30, name="gpu", **where)
    with Owner("example", budget=Budget(usd=5)) as owner:
        model = owner.start(
            RemoteProcess(on=box, argv=SERVES, user="root", ready=http("/answer"), name="model"), on_progress=print
        )
        (rented,) = (each for each in owner.resources if each.kind == "machine")
        details = rented.details
        print(
            f"rented: {details['instance_type']} with {details['gpu_count']} x {details['gpu']}, lease: {details['lease']}"
        )
        with urlopen(f"{model.url}/answer") as answer:
            print("the model says:", answer.read().decode().strip())
    print("after the end:", model.state.value, rented.state.value)
    subprocess.run([sys.executable, "-m", "tether", "costs"], check=True)


def main() -> None:
    """Use the region and the image that are given, or a stand-in."""
    if len(sys.argv) > 2:
        use({"region": sys.argv[1], "image": sys.argv[2]})
    else:
        with tempfile.TemporaryDirectory() as folder, stand_in(folder) as where:
            use(where)


if __name__ == "__main__":
    main()
