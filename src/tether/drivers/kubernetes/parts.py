"""What carries a tag in a cluster: seen, and removed until the cluster shows nothing of it any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tether.drivers.kubernetes import doubt, pods
from tether.drivers.kubernetes.client import JOB, POD, Cluster, Forbidden
from tether.drivers.kubernetes.manifest import RESOURCE
from tether.errors import DriverUnavailable

__all__ = ["is_ours", "remove", "with_tag"]

Object = dict[str, Any]

_ROUNDS = 8
_ROUND_PAUSE_S = 0.2
_WATCH_S = 20
_BROKEN_PAUSE_S = 0.5
_SLACK_S = 15.0
"""How much longer than the grace an end may take, before it is asked whether its node answers."""
_PATIENCE_S = 180.0
"""How much longer on a node that does: it ends its pods one after the other, and fifty of them take a minute."""


def is_ours(item: Mapping[str, Any], tag: str, uids: Sequence[str] = ()) -> bool:
    """Whether an object with the tag is one that was made for it: its name is of our own making too, or its uid is on record.

    Labels alone are copied: by templates, by backups, by whoever clones a manifest.
    """
    meta = item["metadata"]
    named = meta["name"].startswith("tether-") and (meta["name"].endswith(tag) or f"-{tag}-" in meta["name"])
    return (meta.get("labels") or {}).get(RESOURCE) == tag and (named or meta["uid"] in uids)


def with_tag(cluster: Cluster, tag: str, kinds: Sequence[str]) -> Iterator[tuple[str, Object]]:
    """Yield what was made for a resource, with its kind."""
    for kind in kinds:
        try:
            found, _ = cluster.list(kind, labelSelector=f"{RESOURCE}={tag}")
        except Forbidden:
            if kind != JOB:
                raise
            # Where fuses are forbidden there is none.
            continue
        for item in found:
            if is_ours(item, tag):
                yield kind, item


def remove(cluster: Cluster, tag: str, kinds: Sequence[str], grace: int, before: Callable[[Object], None]) -> None:
    """Remove what was made for a resource: the pod first, then the rest. What is gone already is success.

    Args:
        cluster: where.
        tag: the resource's.
        kinds: of what was made.
        grace: seconds that the pod has to end politely; at least 1, since without any a node is not waited for.
        before: called with each pod before it is asked to end.

    Raises:
        DriverUnavailable: the cluster does not answer, or nobody can say whether it has ended; to be tried again.
    """
    for attempt in range(_ROUNDS):
        found = list(with_tag(cluster, tag, kinds))
        if not found:
            return
        for kind, item in found:
            if kind == POD:
                before(item)
                _remove_pod(cluster, item, grace)
        for kind, item in found:
            if kind != POD:
                cluster.delete(kind, item["metadata"]["name"], item["metadata"]["uid"])
        time.sleep(_ROUND_PAUSE_S * attempt)
    left = ", ".join(f"{kind}/{item['metadata']['name']}" for kind, item in found)
    raise DriverUnavailable(f"resource {tag} is still in cluster {cluster.where}, which was told to remove it: {left}")


def _remove_pod(cluster: Cluster, pod: Object, grace: int) -> None:
    """End a pod, and return when its node said that it has ended. Never by force: then the object goes, and the container stays.

    Raises:
        DriverUnavailable: the cluster does not answer, or its node does not.
        Doubtful: its object is gone, and it may run on.
    """
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    # Of one that no node has, or that has ended, the server lets go at once, whatever the grace; it alone can tell without a race.
    cluster.delete(POD, name, uid, max(1, grace))
    last, seen_to_end = _await_absent(cluster, pod, grace)
    found = doubt.about(cluster, last, seen_to_end=seen_to_end)
    if found is not None:
        raise doubt.Doubtful(f"pod {name}: {found.why}: nobody knows whether it has ended there", found)


def _await_absent(cluster: Cluster, pod: Object, grace: int) -> tuple[Object, bool]:
    """Wait until a pod's object is gone; return the last that was seen of it, and whether that is its very last state."""
    name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
    last, seen_to_end = pod, False
    deadline = time.monotonic() + grace + _SLACK_S
    patient_until = deadline + _PATIENCE_S
    while True:
        # The watch is a hint of when to look, and tells the pod's last words; only a look decides.
        with suppress(DriverUnavailable):
            last, seen_to_end = _watch_absent(cluster, last, min(_WATCH_S, deadline - time.monotonic()))
        there = cluster.get(POD, name)
        if there is None or there["metadata"]["uid"] != uid:
            return last, seen_to_end
        last, seen_to_end = there, False
        if time.monotonic() >= deadline:
            # Not for what has ended, and whose object something else holds.
            goes_on = time.monotonic() < patient_until and pods.has_running_containers(there)
            if goes_on and not doubt.silence(cluster, there["spec"].get("nodeName")):
                deadline = time.monotonic() + _SLACK_S
                continue
            seen = pods.judge(last, None, cluster.now())
            why = seen.reason if seen.reason and not seen.has_ended else "something holds its object"
            raise DriverUnavailable(f"pod {name} was told to end and is still there: {why}")
        time.sleep(_BROKEN_PAUSE_S)


def _watch_absent(cluster: Cluster, last: Object, within_s: float) -> tuple[Object, bool]:
    meta = last["metadata"]
    selector = f"metadata.name={meta['name']}"
    for what, item in cluster.watch(POD, meta["resourceVersion"], max(1, int(within_s)), fieldSelector=selector):
        if item["metadata"].get("uid") == meta["uid"]:
            last = item
            if what == "DELETED":
                return last, True
    return last, False
