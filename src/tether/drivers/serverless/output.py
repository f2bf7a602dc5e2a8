"""What containers and functions wrote, in a log group of CloudWatch that is made for each. Source: the CloudWatch Logs API."""

from __future__ import annotations

from typing import Any

from tether.drivers.cloud.provider import Refused
from tether.drivers.cloud.providers.aws_client import asking
from tether.drivers.serverless.service import Wanted
from tether.drivers.serverless.where import is_marked, marks_of

__all__ = ["is_there", "make", "may_write", "read", "remove"]


def make(logs: Any, group: str, wanted: Wanted) -> None:
    """Make the log group of a resource. Raises Refused, if there is one that tether did not make, or DriverUnavailable."""
    with asking(absent=("ResourceAlreadyExistsException",)):
        logs.create_log_group(logGroupName=group, tags=marks_of(wanted))
        return
    # An answer to this very request may have been lost; what is there must be ours.
    if not is_there(logs, group, wanted.tag):
        raise Refused(f"aws has a log group {group} that was not made by tether; remove it")


def may_write(group: str) -> dict[str, Any]:
    """Return what lets a role write to a log group, and not make it: what comes late would make it again."""
    actions = ["logs:CreateLogStream", "logs:PutLogEvents"]
    return {"Effect": "Allow", "Action": actions, "Resource": f"arn:*:logs:*:*:log-group:{group}:*"}


def is_there(logs: Any, group: str, tag: str) -> bool:
    """Whether the log group of a resource is there: by its name and its tag."""
    with asking(absent=("ResourceNotFoundException",)):
        shown = logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]
        arns = [each["arn"].removesuffix(":*") for each in shown if each["logGroupName"] == group]
        return any(is_marked(logs.list_tags_for_resource(resourceArn=arn).get("tags", {}), tag) for arn in arns)
    return False


def remove(logs: Any, group: str) -> None:
    """Remove a log group, with all that is in it."""
    with asking(absent=("ResourceNotFoundException",)):
        logs.delete_log_group(logGroupName=group)


def read(logs: Any, group: str) -> bytes:
    """Return every line that is in a log group, the oldest first; empty if there is none."""
    said: list[bytes] = []
    with asking(absent=("ResourceNotFoundException",)):
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=group, interleaved=True):
            said += [f"{event['message'].rstrip()}\n".encode() for event in page["events"]]
    return b"".join(said)
