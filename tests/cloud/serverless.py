"""The stand-in for ECS and Lambda, started and looked at by the tests."""

from __future__ import annotations

import io
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3

import support
from cloud.ec2 import REGION
from cloud.stand import Stand, served

_RESOURCE = "tether:resource"
HANDLER = """
import os

def handler(event, context):
    print("called at", event["rawPath"])
    return {"statusCode": 200, "body": os.environ.get("SAID", "hello from the function")}
"""


def packed(text: str = HANDLER) -> bytes:
    """The code of a function, as a zip file; the same text is the same file."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr(zipfile.ZipInfo("main.py"), text)
    return whole.getvalue()


class Serverless(Stand):
    """A running stand-in.

    Attributes:
        url: where it answers.
        ec2, ecs, functions, iam, logs: clients of AWS's own library, which know nothing of tether.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        super().__init__(url, process)
        more = {"aws_access_key_id": "other", "aws_secret_access_key": "other", "region_name": REGION}
        self.ec2 = boto3.client("ec2", endpoint_url=url, **more)
        self.ecs = boto3.client("ecs", endpoint_url=url, **more)
        self.functions = boto3.client("lambda", endpoint_url=url, **more)
        self.iam = boto3.client("iam", endpoint_url=url, **more)
        self.logs = boto3.client("logs", endpoint_url=url, **more)
        self.ecs.create_cluster(clusterName="default")

    def running(self) -> list[str]:
        """The tasks whose processes run."""
        found: list[str] = self.tell()["tasks"]
        return found

    def tasks(self, tag: str) -> list[dict[str, Any]]:
        """All tasks that ever had a tag of tether's."""
        arns = [
            arn
            for status in ("RUNNING", "STOPPED")
            for page in self.ecs.get_paginator("list_tasks").paginate(desiredStatus=status)
            for arn in page["taskArns"]
        ]
        parts = [arns[first : first + 100] for first in range(0, len(arns), 100)]
        shown = [task for part in parts for task in self.ecs.describe_tasks(tasks=part, include=["TAGS"])["tasks"]]
        return [task for task in shown if {"key": _RESOURCE, "value": tag} in task["tags"]]

    def foreign_task(self, **more: Any) -> str:
        """Run a task of somebody else's, and return its ARN."""
        container = {"name": "main", "image": "x", "essential": True, "memory": 128}
        self.ecs.register_task_definition(family="theirs", networkMode="bridge", requiresCompatibilities=["FARGATE"], containerDefinitions=[container])  # fmt: skip
        override = [{"name": "main", "command": ["sleep", "90"]}]
        asked = {"taskDefinition": "theirs", "launchType": "FARGATE", "overrides": {"containerOverrides": override}}
        network = {"awsvpcConfiguration": {"subnets": [self.ec2.describe_subnets()["Subnets"][0]["SubnetId"]]}}
        made = self.ecs.run_task(cluster="default", networkConfiguration=network, **{**asked, **more})
        arn: str = made["tasks"][0]["taskArn"]
        return arn

    def end(self, arn: str) -> None:
        """As the provider does, by itself."""
        self.tell(end=arn)

    def leftovers(self, but: tuple[str, ...] = ()) -> list[str]:
        """What is there of tasks, definitions, functions, roles and log groups that tether made."""
        functions = [each["FunctionName"] for each in self.functions.list_functions()["Functions"]]
        roles = [each["RoleName"] for each in self.iam.list_roles()["Roles"]]
        groups = [each["logGroupName"] for each in self.logs.describe_log_groups()["logGroups"]]
        definitions = [
            arn
            for status in ("ACTIVE", "INACTIVE")
            for arn in self.ecs.list_task_definitions(status=status)["taskDefinitionArns"]
        ]
        named = [each for each in (*functions, *roles, *groups, *definitions) if "tether" in each]
        return [each for each in (*self.running(), *named) if each not in but]


@contextmanager
def running() -> Iterator[Serverless]:
    """Start a stand-in; at the end it is gone, and every task with it."""
    with served("cloud.serverless_stand") as (url, process):
        made = Serverless(url, process)
        yield made
        for task in made.running():
            made.end(task)
        support.eventually(lambda: made.running() == [], 10)
