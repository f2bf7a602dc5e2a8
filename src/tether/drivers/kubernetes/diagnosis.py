"""What a cluster offers for pods that end with their owner, for ``tether doctor``."""

from __future__ import annotations

from tether.drivers.kubernetes import rights
from tether.drivers.kubernetes.client import Cluster, connect
from tether.drivers.kubernetes.proof import Proofs
from tether.drivers.kubernetes.where import find
from tether.errors import DriverUnavailable, Gone
from tether.model import Finding

__all__ = ["finding", "findings"]

_UNPROVED = "should this machine die, pods end by max_lifetime only; the first pod of an owner has it proved"


def _version(cluster: Cluster) -> str:
    return str(cluster.ask("GET", "/version")["gitVersion"])


def finding() -> Finding:
    """Look for the extra, and ask the cluster in use here for its version."""
    try:
        where = find(None, None, None)
        version = _version(connect(where))
    except (DriverUnavailable, Gone, KeyError, TypeError) as error:
        return Finding("kubernetes", False, str(error).partition(";")[0], "pods can't be started here")
    follows = "'tether doctor --kubernetes' looks at this account's rights and the fuse"
    return Finding("kubernetes", True, f"{where}, {version}, namespace {where.namespace}", follows)


def findings(context: str | None, proofs: Proofs) -> list[Finding]:
    """Look at a cluster: this account's rights in the namespace of the context, and whether its fuses are known to blow.

    Nothing is created there, so that what is said of the fuse is what an owner with this state directory has proved.

    Args:
        context: of the kubeconfig; None for its current one.
        proofs: what was proved.
    """
    try:
        where = find(None, context, None)
        cluster = connect(where)
        found = [Finding("connection", True, f"{where}, {_version(cluster)}", f"namespace {where.namespace}")]
        found += [_right(cluster, rule) for rule in rights.RULES]
    except (DriverUnavailable, Gone, KeyError, TypeError) as error:
        return [Finding("connection", False, str(error), "pods can't be started there")]
    proof = proofs.state(where)
    proved = proof == "proved"
    follows = "pods end with their owner, whatever happens to its machine" if proved else _UNPROVED
    return [*found, _node(cluster), Finding("fuse", proved, proof, follows)]


def _right(cluster: Cluster, rule: rights.Rule) -> Finding:
    lacks = rights.lacking(cluster, rule)
    if not lacks:
        return Finding(", ".join(rule.resources), True, ", ".join(rule.verbs), "")
    return Finding(", ".join(rule.resources), False, f"this account may not {', '.join(lacks)}", rule.without)


def _node(cluster: Cluster) -> Finding:
    rule = rights.Rule(
        "", ("nodes",), ("get",), "a pod that was removed by force is LOST until its max_lifetime is over"
    )
    return _right(cluster, rule)
