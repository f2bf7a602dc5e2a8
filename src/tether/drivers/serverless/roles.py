"""The roles that are made for containers and functions, each with the least that its service needs.

Source: IAM's API; "Amazon ECS task execution IAM role"; "Defining Lambda function permissions with an execution role".
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tether.drivers.cloud.provider import Refused
from tether.drivers.cloud.providers.aws_client import asking, tags_of
from tether.drivers.serverless.service import Wanted
from tether.drivers.serverless.where import is_marked, marks_of, name_of
from tether.errors import DriverUnavailable

__all__ = ["arn", "await_known", "is_there", "make", "remove"]

T = TypeVar("T")

_SHOWN_S = 15.0
_KNOWN_S = 60.0
# Neither service has a code of its own for it.
_UNKNOWN = ("cannot be assumed", "unable to assume")
_PAUSE_S = 0.5
_POLICY = "tether"


def make(iam: Any, wanted: Wanted, service: str, may: Sequence[dict[str, Any]]) -> None:
    """Make the role of a resource, which one service may take on.

    Args:
        iam: the client.
        wanted: what it is for.
        service: who may take it on, like "lambda.amazonaws.com".
        may: what it may do, as statements of a policy.

    Raises:
        Refused: there is one of that name that tether did not make, or its owner may make none.
        DriverUnavailable: IAM does not answer.
    """
    name = name_of(wanted.tag)
    trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    is_new = False
    with asking(absent=("EntityAlreadyExists",)):
        iam.create_role(
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
            Description=f"made by tether for resource {wanted.tag}",
            Tags=[{"Key": key, "Value": value} for key, value in marks_of(wanted).items()],
        )
        is_new = True
    # An answer to this very request may have been lost; what is there must be ours.
    if not is_new and not is_there(iam, wanted.tag):
        raise Refused(f"aws has a role {name} that was not made by tether; remove it")
    document = json.dumps({"Version": "2012-10-17", "Statement": list(may)})
    with asking():
        iam.put_role_policy(RoleName=name, PolicyName=_POLICY, PolicyDocument=document)


def _shown(iam: Any, tag: str) -> dict[str, Any] | None:
    with asking(absent=("NoSuchEntity",)):
        role: dict[str, Any] = iam.get_role(RoleName=name_of(tag))["Role"]
        return role if is_marked(tags_of(role), tag) else None
    return None


def is_there(iam: Any, tag: str) -> bool:
    """Whether the role of a resource is there: by its name and its tag."""
    return _shown(iam, tag) is not None


def arn(iam: Any, tag: str) -> str:
    """Return the ARN of the role that was made for a resource. IAM may show it a moment late. Raises DriverUnavailable."""
    deadline = time.monotonic() + _SHOWN_S
    while (role := _shown(iam, tag)) is None:
        if time.monotonic() > deadline:
            raise DriverUnavailable(f"aws does not show the role {name_of(tag)}")
        time.sleep(_PAUSE_S)
    return str(role["Arn"])


def await_known(ask: Callable[[], T]) -> T:
    """Ask for something that needs a new role, again while it is refused for that: IAM tells other services some seconds later."""
    deadline = time.monotonic() + _KNOWN_S
    while True:
        try:
            return ask()
        except Refused as error:
            if not any(said in str(error) for said in _UNKNOWN) or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_S)


def remove(iam: Any, name: str) -> None:
    """Remove a role, and before that what it was given."""
    with asking(absent=("NoSuchEntity",)):
        for each in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
            iam.detach_role_policy(RoleName=name, PolicyArn=each["PolicyArn"])
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
            iam.delete_role_policy(RoleName=name, PolicyName=policy)
        iam.delete_role(RoleName=name)
