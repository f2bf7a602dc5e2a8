"""A function and a job in a cloud, which end with their owner: on AWS, or at a stand-in on this machine.

python examples/serverless.py [REGION]

With a region it uses your account (extra aws, and a cluster of ECS that is called "default"). Without one it starts the stand-in of
tether's tests, in which both are real processes of this machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tether import CloudContainer, CloudFunction, Owner, Process, http, tcp

TESTS = Path(__file__).parents[1] / "tests"
HANDLER = """
def handler(event, context):
    return {"statusCode": 200, "body": "hello from " + event["rawPath"]}
"""


@contextmanager
def stand_in() -> Iterator[dict[str, Any]]:
    """Start a stand-in for ECS and Lambda, and say how it is reached."""
    import boto3

    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with Owner("example-stand-in") as owner:
        argv = [sys.executable, "-W", "ignore", "-m", "cloud.serverless_stand", "{port}"]
        server = owner.start(Process(argv, name="stand-in", ready=tcp(), cwd=TESTS))
        where = {"region": "us-east-1", "endpoint": server.url}
        boto3.client("ecs", region_name=where["region"], endpoint_url=server.url).create_cluster(clusterName="default")
        # Its lists show at once what was created.
        yield {**where, "listing_lag": 1.0}


def use(where: dict[str, Any], folder: Path) -> None:
    """Have a function answer a request and a job run to its end, and leave: nothing of them stays."""
    (folder / "main.py").write_text(HANDLER)
    with Owner("example") as owner:
        function = owner.start(
            CloudFunction(folder, url="public", ready=http("/"), name="hello", **where), on_progress=print
        )
        with urlopen(f"{function.url}/here") as answer:
            print("the function says:", answer.read().decode())
        job = owner.start(CloudContainer("busybox", ["sh", "-c", "echo counted to 3"], name="job", **where))
        job.wait(timeout=300)
        print("the job ended with", job.exit_code, "and said:", job.logs().strip())
        print("made for the function:", ", ".join(function.details["parts"]))
    print("after the end:", function.state.value)


def main() -> None:
    """Use the region that is given, or a stand-in."""
    with tempfile.TemporaryDirectory() as name:
        if len(sys.argv) > 1:
            use({"region": sys.argv[1]}, Path(name))
        else:
            with stand_in() as where:
                use(where, Path(name))


if __name__ == "__main__":
    main()
