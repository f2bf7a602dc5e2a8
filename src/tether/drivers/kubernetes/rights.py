"""What an account must be allowed for pods that end with their owner: the rules of a Role, and which of them it lacks."""

from __future__ import annotations

from dataclasses import dataclass

from tether.drivers.kubernetes.client import Cluster

__all__ = ["RULES", "Rule", "lacking"]


@dataclass(frozen=True)
class Rule:
    """What is done with some kinds of objects.

    Attributes:
        group: of the API; empty for the core.
        resources: the kinds.
        verbs: what is done with them.
        without: what follows where that is not allowed.
    """

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    without: str


_EVERY = ("create", "get", "list", "delete")

RULES = (
    Rule("batch", ("jobs",), (*_EVERY, "patch"), "no fuse: should this machine die, pods end by max_lifetime only"),
    Rule("", ("pods",), (*_EVERY, "watch"), "pods can't be started here"),
    Rule("", ("pods/log",), ("get",), "what pods write can't be read"),
    Rule("", ("pods/portforward",), ("create", "get"), "ports of pods can't be forwarded: reach= must be another"),
    Rule("", ("pods/exec",), ("create", "get"), "nothing can be executed in pods, or copied"),
    Rule("", ("secrets",), _EVERY, "pods can't have values in env="),
    Rule("", ("services",), _EVERY, "pods can't have service="),
    Rule("", ("persistentvolumeclaims",), _EVERY, "pods can't have a Claim"),
)
"""All that tether ever asks for in a namespace."""


def lacking(cluster: Cluster, rule: Rule) -> list[str]:
    """Ask the cluster what of a rule this account is not allowed; as "delete pods". Nothing is created by that.

    Raises:
        DriverUnavailable: the cluster does not answer.
    """
    return [
        f"{verb} {resource}"
        for resource in rule.resources
        for verb in rule.verbs
        if not _may(cluster, rule.group, resource, verb)
    ]


def _may(cluster: Cluster, group: str, resource: str, verb: str) -> bool:
    kind, _, part = resource.partition("/")
    asked = {"namespace": cluster.where.namespace, "verb": verb, "group": group, "resource": kind, "subresource": part}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    return bool(cluster.ask("POST", path, body=body)["status"]["allowed"])
