"""A pod's object may go while its containers run on: removed by force, or while its node was cut off. Then its end is in doubt.

Gone is what a node says is gone. So a doubt stays until the node was heard of again, long enough after that for it to have ended
what it was told to end, or until the pod's own deadline is over, which every node keeps by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tether.drivers.kubernetes import pods
from tether.drivers.kubernetes.client import Absent, Cluster, Forbidden
from tether.errors import DriverUnavailable
from tether.model import State

__all__ = ["Doubt", "Doubtful", "about", "silence"]

_NODE_ENDS_WITHIN_S = 10.0
_DEADLINE_SLACK_S = 60.0


@dataclass(frozen=True)
class Doubt:
    """Why nobody knows whether a pod has ended.

    Attributes:
        why: in words.
        node: where it ran.
        since: when its object was found to be gone, by the server's clock.
        over: when its own deadline has ended it in any case.
    """

    why: str
    node: str
    since: float
    over: float

    def remains(self, cluster: Cluster) -> str:
        """Say why it is still in doubt; empty if it is not any more. Raises DriverUnavailable."""
        if cluster.now() > self.over:
            return ""
        silent = _silence(cluster, self.node, self.since + _NODE_ENDS_WITHIN_S)
        return f"{self.why}, and {silent}: nobody knows whether it has ended there" if silent else ""


class Doubtful(DriverUnavailable):
    """A pod's object has gone, and nobody knows whether it has ended.

    Attributes:
        doubt: why.
    """

    def __init__(self, message: str, doubt: Doubt) -> None:
        super().__init__(message)
        self.doubt = doubt


def about(cluster: Cluster, last: Mapping[str, Any], *, seen_to_end: bool) -> Doubt | None:
    """Return a doubt about a pod whose object has gone; None if there is no sign that it runs on.

    Args:
        cluster: where.
        last: the last that was seen of it.
        seen_to_end: whether that is its very last state, as a watch showed it, and not one before a gap.
    """
    node = last["spec"].get("nodeName")
    if not node or not pods.has_running_containers(last):
        return None
    now = cluster.now()
    if seen_to_end:
        why = f"its pod was removed by force while it ran on node {node}"
    elif pods.judge(last, None, now).state is State.LOST or _silence(cluster, node, 0.0, strict=False):
        why = f"its pod was removed while node {node} did not answer"
    else:
        return None
    begun = pods.when((last.get("status") or {}).get("startTime")) or now
    over = begun + float(last["spec"].get("activeDeadlineSeconds") or float("inf")) + _DEADLINE_SLACK_S
    return Doubt(why, node, now, over)


def silence(cluster: Cluster, node: str | None) -> str:
    """Say that the node of a pod does not answer, or that nobody here can tell; empty if it does. Raises DriverUnavailable."""
    return "it is on no node" if node is None else _silence(cluster, node, 0.0)


def _silence(cluster: Cluster, node: str, after: float, *, strict: bool = True) -> str:
    """Say that a node does not answer; empty if it was heard of after a time. Strictly, so also if it may not be asked."""
    try:
        seen = cluster.ask("GET", f"/api/v1/nodes/{node}")
    except Absent:
        return f"node {node} is not in the cluster any more"
    except Forbidden:
        return f"this account may not ask for node {node}" if strict else ""
    for each in seen["status"].get("conditions") or []:
        if each["type"] == "Ready" and each["status"] == "True":
            heard = pods.when(each.get("lastHeartbeatTime"))
            return "" if heard > after else f"node {node} was not heard of since"
    return f"node {node} is not ready"
