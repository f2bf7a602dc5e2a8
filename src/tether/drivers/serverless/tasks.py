"""Containers as tasks of ECS on Fargate. RunTask's clientToken makes creation idempotent; startedBy and tags go on at creation.

A task is gone when ECS says STOPPED, and is shown for an hour after that, with the exit code of its container.

Source: the Amazon ECS API reference, RunTask, DescribeTasks and "Ensuring idempotency".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from tether.drivers.cloud.provider import Part, Phase, Refused, Seen, Tested, Unclear
from tether.drivers.cloud.providers.aws_client import RESOURCE, Clients, asking
from tether.drivers.serverless import output, roles
from tether.drivers.serverless.service import Wanted
from tether.drivers.serverless.sizes import fitting
from tether.drivers.serverless.spec import CloudContainer
from tether.drivers.serverless.where import account, is_marked, marks_of, name_of

__all__ = ["Tasks"]

_PHASES: dict[str, Phase] = {
    "PROVISIONING": "pending",
    "PENDING": "pending",
    "ACTIVATING": "pending",
    "RUNNING": "running",
    "DEACTIVATING": "ending",
    "STOPPING": "ending",
    "DEPROVISIONING": "ending",
    "STOPPED": "gone",
    "DELETED": "gone",
}
_CONTAINER = "main"
_PULLS = {
    "Effect": "Allow",
    "Action": [
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:GetAuthorizationToken",
        "ecr:GetDownloadUrlForLayer",
    ],
    "Resource": "*",
}
_AT_ONCE = 10


class Tasks:
    """See `tether.drivers.serverless.service.Service`. Credentials are found as boto3 does."""

    idempotent: ClassVar[bool] = True
    lag_s: ClassVar[float] = 30.0
    tested: ClassVar[Tested] = "run against a stand-in with real processes"

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._clients = Clients(where)
        self._cluster = where["cluster"]
        self._public = where["public_ip"]
        self._addresses: dict[str, str] = {}

    @classmethod
    def where(cls, spec: CloudContainer) -> dict[str, Any]:
        """Return how the account is reached, and the cluster."""
        return {**account(spec), "cluster": spec.cluster, "public_ip": spec.public_ip}

    # -- create --------------------------------------------------------------------------------------------------------

    def choose(self, spec: CloudContainer) -> dict[str, Any]:
        """Look whether there is the cluster, and where it is to run."""
        with asking():
            shown = self._clients.ecs.describe_clusters(clusters=[spec.cluster])["clusters"]
        if not any(each["status"] == "ACTIVE" for each in shown):
            raise Refused(
                f"aws has no cluster {spec.cluster} in region {self._clients.region}; give cluster=, or make it: "
                f"aws ecs create-cluster --cluster-name {spec.cluster}"
            )
        if spec.subnets:
            return {"subnets": list(spec.subnets)}
        with asking():
            subnets = self._clients.ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])
        found = sorted(each["SubnetId"] for each in subnets["Subnets"])
        if not found:
            raise Refused(f"aws has no default network in region {self._clients.region}; give subnets=")
        return {"subnets": found}

    def create(self, wanted: Wanted, chosen: Mapping[str, Any]) -> Seen:
        """Run one task. Raises Refused or Unclear."""
        spec = wanted.spec
        network: dict[str, Any] = {
            "subnets": chosen["subnets"],
            "assignPublicIp": "ENABLED" if spec.public_ip else "DISABLED",
        }
        if spec.security_groups:
            network["securityGroups"] = list(spec.security_groups)
        override: dict[str, Any] = {"name": _CONTAINER, "environment": _pairs(spec.env, "name", "value")}
        if spec.command is not None:
            override["command"] = list(spec.command)
        kind: dict[str, Any] = {"launchType": "FARGATE"}
        if spec.spot:
            kind = {"capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]}
        request = {
            **kind,
            "cluster": self._cluster,
            "taskDefinition": name_of(wanted.tag),
            "count": 1,
            "clientToken": wanted.proof,
            "startedBy": wanted.proof,
            "tags": _pairs(marks_of(wanted), "key", "value"),
            "networkConfiguration": {"awsvpcConfiguration": network},
            "overrides": {"containerOverrides": [override]},
        }
        made = roles.await_known(lambda: self._ask(request))
        if made["tasks"]:
            return self._seen(made["tasks"][0])
        why = ", ".join(str(each.get("reason")) for each in made.get("failures", ()))
        if not why:
            raise Unclear("aws answered without a task")
        raise Refused(f"aws refused: {why}")

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with asking(creating=True):
            made: dict[str, Any] = self._clients.ecs.run_task(**request)
            return made

    # -- look and end --------------------------------------------------------------------------------------------------

    def listed(self, tag: str) -> list[Seen]:
        """Return the tasks of a resource's own definition that carry its tag; ended ones for an hour."""
        found: set[str] = set()
        with asking(absent=("ClusterNotFoundException",)):
            for status in ("RUNNING", "STOPPED"):
                pages = self._clients.ecs.get_paginator("list_tasks")
                for page in pages.paginate(cluster=self._cluster, family=name_of(tag), desiredStatus=status):
                    found.update(page["taskArns"])
        return [seen for seen in self.look(sorted(found)).values() if seen.tag == tag]

    def look(self, ids: Sequence[str]) -> dict[str, Seen]:
        """Return tasks by their ARN; what ECS shows no more is left out."""
        shown: list[dict[str, Any]] = []
        with asking(absent=("ClusterNotFoundException",)):
            for first in range(0, len(ids), _AT_ONCE):
                part = list(ids[first : first + _AT_ONCE])
                shown += self._clients.ecs.describe_tasks(cluster=self._cluster, tasks=part, include=["TAGS"])["tasks"]
        return {each["taskArn"]: self._seen(each) for each in shown}

    def terminate(self, machine: str) -> None:
        """Have a task stopped: SIGTERM, and SIGKILL after the time that its definition says."""
        with asking(absent=("ClusterNotFoundException",)):
            self._clients.ecs.stop_task(cluster=self._cluster, task=machine, reason="ended by tether")

    def _seen(self, shown: Mapping[str, Any]) -> Seen:
        tags = {each["key"]: each["value"] for each in shown.get("tags", ())}
        word, made = shown.get("lastStatus", ""), shown.get("createdAt")
        container: Mapping[str, Any] = next(iter(shown.get("containers", ())), {})
        reasons = [shown.get("stoppedReason"), container.get("reason")]
        is_up = word == "RUNNING"
        return Seen(
            shown["taskArn"],
            "ending" if is_up and shown.get("desiredStatus") == "STOPPED" else _PHASES.get(word, "pending"),
            word,
            ": ".join(each for each in reasons if each),
            tags.get(RESOURCE),
            shown.get("startedBy"),
            made.timestamp() if isinstance(made, datetime) else None,
            self._address(shown) if is_up else None,
            exit_code=container.get("exitCode"),
        )

    def _address(self, shown: Mapping[str, Any]) -> str | None:
        """The address of its network interface: the public one is asked for once."""
        details = {
            each["name"]: each.get("value")
            for attached in shown.get("attachments", ())
            if attached.get("type") == "ElasticNetworkInterface"
            for each in attached.get("details", ())
        }
        interface = details.get("networkInterfaceId")
        if not self._public or interface is None:
            return details.get("privateIPv4Address")
        if interface not in self._addresses:
            with asking(absent=("InvalidNetworkInterfaceID.NotFound",)):
                found = self._clients.ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])
                public = [each.get("Association", {}).get("PublicIp") for each in found["NetworkInterfaces"]]
                if any(public):
                    self._addresses[interface] = public[0]
        return self._addresses.get(interface)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def planned(self, spec: CloudContainer, tag: str) -> list[Part]:
        """See `Service`: the role, the log group, and the task definition, which needs both."""
        role = [Part("role", name_of(tag))] if spec.execution_role is None else []
        return [*role, Part("log group", _group(tag)), Part("task definition", name_of(tag))]

    def make(self, part: Part, wanted: Wanted) -> None:
        """See `Service`."""
        if part.what == "role":
            may = [_PULLS, output.may_write(_group(wanted.tag))]
            roles.make(self._clients.iam, wanted, "ecs-tasks.amazonaws.com", may)
        elif part.what == "log group":
            output.make(self._clients.logs, part.name, wanted)
        else:
            self._define(wanted)

    def _define(self, wanted: Wanted) -> None:
        """Register its definition. What is secret comes with RunTask: definitions are shown for ever to whoever asks."""
        spec, name = wanted.spec, name_of(wanted.tag)
        units, memory = fitting(spec.cpus, spec.memory_bytes)
        options = {
            "awslogs-group": _group(wanted.tag),
            "awslogs-region": self._clients.region,
            "awslogs-stream-prefix": _CONTAINER,
        }
        container: dict[str, Any] = {
            "name": _CONTAINER,
            "image": spec.image,
            "essential": True,
            "stopTimeout": max(2, int(spec.stop_grace)),
            "logConfiguration": {"logDriver": "awslogs", "options": options},
        }
        if spec.port is not None:
            container["portMappings"] = [{"containerPort": spec.port, "protocol": "tcp"}]
        definition: dict[str, Any] = {
            "family": name,
            "requiresCompatibilities": ["FARGATE"],
            "networkMode": "awsvpc",
            "cpu": str(units),
            "memory": str(memory),
            "executionRoleArn": spec.execution_role or roles.arn(self._clients.iam, wanted.tag),
            "containerDefinitions": [container],
            "tags": _pairs(marks_of(wanted), "key", "value"),
        }
        if spec.role is not None:
            definition["taskRoleArn"] = spec.role
        # Asked for again it is another revision: all of them go.
        with asking():
            self._clients.ecs.register_task_definition(**definition)

    def parts(self, tag: str, planned: Sequence[Part]) -> list[Part]:
        """See `Service`."""
        there = {
            "role": lambda: roles.is_there(self._clients.iam, tag),
            "log group": lambda: output.is_there(self._clients.logs, _group(tag), tag),
            "task definition": lambda: bool(self._definitions(name_of(tag), tag)),
        }
        return [part for part in reversed(planned) if there[part.what]()]

    def _definitions(self, family: str, tag: str | None = None) -> dict[str, str]:
        """The revisions of a definition that are there, each with its status; those with a tag."""
        found: dict[str, str] = {}
        with asking():
            for status in ("ACTIVE", "INACTIVE"):
                for page in self._clients.ecs.get_paginator("list_task_definitions").paginate(
                    familyPrefix=family, status=status
                ):
                    found |= dict.fromkeys(page["taskDefinitionArns"], status)
        if tag is None or not found:
            return found
        with asking():
            first = self._clients.ecs.describe_task_definition(taskDefinition=next(iter(found)), include=["TAGS"])
        tags = {each["key"]: each["value"] for each in first.get("tags", ())}
        return found if is_marked(tags, tag) else {}

    def remove(self, part: Part) -> None:
        """See `Service`."""
        if part.what == "role":
            roles.remove(self._clients.iam, part.name)
        elif part.what == "log group":
            output.remove(self._clients.logs, part.name)
        else:
            found = self._definitions(part.name)
            with asking():
                for revision, status in found.items():
                    if status == "ACTIVE":
                        self._clients.ecs.deregister_task_definition(taskDefinition=revision)
                revisions = list(found)
                for first in range(0, len(revisions), _AT_ONCE):
                    self._clients.ecs.delete_task_definitions(taskDefinitions=revisions[first : first + _AT_ONCE])

    # -- what it says --------------------------------------------------------------------------------------------------

    def output(self, tag: str) -> bytes:
        """See `Service`."""
        return output.read(self._clients.logs, _group(tag))

    def details(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """See `Service`."""
        return {"cluster": self._cluster, "task": data.get("id")}


def _group(tag: str) -> str:
    return f"/tether/{tag}"


def _pairs(values: Mapping[str, str], key: str, value: str) -> list[dict[str, str]]:
    return [{key: name, value: each} for name, each in values.items()]
