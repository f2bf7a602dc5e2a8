"""What a pod's object says of it. Pure: an object in, a judgement out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tether.model import State

__all__ = ["Seen", "has_running_containers", "is_ready", "judge", "when"]

_OVERDUE_S = 15.0
"""How much later than promised a pod that is on its way out may still be there, before its node counts as cut off."""

_HOPELESS = ("ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "ErrInvalidImageName")
_PULL_FAILED = ("ErrImagePull", "ImagePullBackOff")
_SAID_FINALLY = ("not found", "manifest unknown", "denied", "unauthorized", "does not exist")
_WHY = {
    "OOMKilled": "it used more memory than it may (OOMKilled)",
    "DeadlineExceeded": "its max_lifetime is over",
    "Evicted": "its node evicted it",
    "Preempting": "something of a higher priority took its place",
}


@dataclass(frozen=True)
class Seen:
    """What a pod looks like.

    Attributes:
        state: STARTING, READY ("is there and runs"), STOPPING, or LOST: its node does not answer.
        reason: in words; what is missing, or why it has ended.
        has_ended: whether its command has ended, or never will begin.
        exit_code: of its command, as the container engine says it: 128 and the number for a signal.
        is_hopeless: whether it will not start, however long one waits.
        node: where it is; empty if it was not placed yet.
    """

    state: State
    reason: str = ""
    has_ended: bool = False
    exit_code: int | None = None
    is_hopeless: bool = False
    node: str = ""


def when(stamp: str | None) -> float:
    """Return a time of the server's as seconds; 0 for none."""
    return 0.0 if not stamp else datetime.fromisoformat(stamp).timestamp()


def judge(pod: Mapping[str, Any], container: str | None, now: float) -> Seen:
    """Say how a pod is.

    Args:
        pod: its object.
        container: whose end counts; None for the first.
        now: the server's time.
    """
    status = pod.get("status") or {}
    node = pod["spec"].get("nodeName") or ""
    main = _container_status(pod, container)
    state = main.get("state") or {}
    if "terminated" in state or status.get("phase") in ("Succeeded", "Failed"):
        return _ended(status, state.get("terminated") or {}, node)
    lost = _lost(pod, now)
    if lost:
        return Seen(State.LOST, lost, node=node)
    if pod["metadata"].get("deletionTimestamp"):
        return Seen(State.STOPPING, "it is on its way out", node=node)
    if "running" in state:
        return Seen(State.READY, node=node)
    return _starting(status, state.get("waiting") or {}, node)


def _container_status(pod: Mapping[str, Any], container: str | None) -> Mapping[str, Any]:
    statuses: list[Mapping[str, Any]] = (pod.get("status") or {}).get("containerStatuses") or []
    wanted = container or pod["spec"]["containers"][0]["name"]
    return next((each for each in statuses if each["name"] == wanted), {})


def _ended(status: Mapping[str, Any], terminated: Mapping[str, Any], node: str) -> Seen:
    reason = status.get("reason") or terminated.get("reason") or ""
    said = _WHY.get(reason, "")
    if not said and reason not in ("", "Error", "Completed"):
        said = ": ".join(each for each in (reason, terminated.get("message") or status.get("message")) if each)
    code = terminated.get("exitCode")
    if code is None and status.get("phase") == "Succeeded":
        code = 0
    return Seen(State.STOPPING, said, has_ended=True, exit_code=code, node=node)


def _lost(pod: Mapping[str, Any], now: float) -> str:
    """Say that its node does not answer; empty if that is not to be seen."""
    status, node = pod.get("status") or {}, pod["spec"].get("nodeName")
    if not node:
        return ""
    conditions = {each["type"]: each["status"] for each in status.get("conditions") or []}
    # The node controller takes Ready away from the pods of a node that went silent, and from nothing else that they say.
    silent = conditions.get("Ready") == "False" and conditions.get("ContainersReady") == "True"
    if status.get("phase") == "Unknown" or (silent and not pod["spec"].get("readinessGates")):
        return f"node {node} does not answer, so nobody knows whether it runs there"
    # The time of deletion is the one at which it was to be over.
    ends = when(pod["metadata"].get("deletionTimestamp"))
    if ends and now > ends + _OVERDUE_S:
        return f"node {node} does not say that it has ended, {now - ends:.0f} s after it should have"
    return ""


def _starting(status: Mapping[str, Any], waiting: Mapping[str, Any], node: str) -> Seen:
    reason, message = waiting.get("reason") or "", waiting.get("message") or ""
    if reason and reason not in ("ContainerCreating", "PodInitializing"):
        text = f"{message}".lower()
        hopeless = reason in _HOPELESS or (reason in _PULL_FAILED and any(each in text for each in _SAID_FINALLY))
        return Seen(State.STARTING, f"{reason}: {message}".rstrip(": "), is_hopeless=hopeless, node=node)
    for each in status.get("conditions") or []:
        if each["type"] == "PodScheduled" and each["status"] == "False":
            return Seen(State.STARTING, f"no node takes it ({each.get('reason')}): {each.get('message')}")
    return Seen(State.STARTING, f"node {node} is creating it" if node else "it is not placed yet", node=node)


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether the cluster says that it is ready."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def has_running_containers(pod: Mapping[str, Any]) -> bool:
    """Whether a node would have something to end, by its own last word.

    A kubelet that removes a pod's object has said before that its containers ended; whoever removes it by force has not.
    """
    status = pod.get("status") or {}
    every = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return any("running" in (each.get("state") or {}) for each in every)
