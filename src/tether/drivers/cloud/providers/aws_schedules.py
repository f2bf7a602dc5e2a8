"""A schedule of EventBridge that terminates a machine once, and is put off while its owner lives.

Source: EventBridge Scheduler user guide, "Universal targets", and the API's CreateSchedule.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from tether.drivers.cloud.providers.aws_client import Clients, asking

__all__ = ["Schedules"]

_TARGET = "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances"


class Schedules:
    """The schedules of one account and region.

    Args:
        clients: how it is reached; its ``where`` has the role that schedules take on.
    """

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def put(self, name: str, machine: str, until: float) -> bool:
        """Make or put off a schedule; whether reading it back shows it armed for that time and machine."""
        wanted: dict[str, Any] = {
            "Name": name,
            "ScheduleExpression": f"at({datetime.fromtimestamp(until, UTC):%Y-%m-%dT%H:%M:%S})",
            "ScheduleExpressionTimezone": "UTC",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "ActionAfterCompletion": "DELETE",
            "State": "ENABLED",
            "Target": {
                "Arn": _TARGET,
                "RoleArn": self._clients.where["scheduler_role"],
                "Input": json.dumps({"InstanceIds": [machine]}),
            },
        }
        scheduler = self._clients.scheduler
        exists = self.is_there(name)
        with asking(absent=("ConflictException",)):
            (scheduler.update_schedule if exists else scheduler.create_schedule)(**wanted)
        with asking():
            shown = scheduler.get_schedule(Name=name)
        return bool(
            shown.get("State") == "ENABLED"
            and shown.get("ScheduleExpression") == wanted["ScheduleExpression"]
            and shown.get("Target", {}).get("Arn") == _TARGET
            and json.loads(shown["Target"].get("Input", "{}")) == {"InstanceIds": [machine]}
        )

    def is_there(self, name: str) -> bool:
        """Whether there is such a schedule."""
        with asking(absent=("ResourceNotFoundException",)):
            self._clients.scheduler.get_schedule(Name=name)
            return True
        return False

    def remove(self, name: str) -> None:
        """Remove a schedule."""
        with asking(absent=("ResourceNotFoundException",)):
            self._clients.scheduler.delete_schedule(Name=name)
