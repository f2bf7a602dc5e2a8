"""What dead owners left in a cluster of which no ledger knows any more: their state directory has gone.

Where the fuse blows, the cluster has collected that already; this is for where it does not, for what burns on for the next owner,
and for who does not want to wait. An annotation says who the owner was; of a resource that was adopted, its fuse says who is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tether.drivers.kubernetes import parts
from tether.drivers.kubernetes.client import CLAIM, JOB, POD, SECRET, SERVICE, Cluster, Forbidden, connect
from tether.drivers.kubernetes.fuses import own_name
from tether.drivers.kubernetes.manifest import IDENTITY, OWNER, RESOURCE
from tether.drivers.kubernetes.where import find
from tether.errors import DriverUnavailable
from tether.ledger.orphans import Orphan, why_it_may_live

__all__ = ["reap"]

Object = dict[str, Any]

_KINDS = (POD, SERVICE, SECRET, CLAIM, JOB)
_DEAD = "its owner is dead, and its ledger has gone"


@dataclass
class _Found:
    """What a namespace has of tether's.

    Attributes:
        by_tag: of each resource, its objects by kind.
        fuses: Jobs that are an owner's, and no resource's.
        sees_jobs: whether this account may list Jobs.
    """

    by_tag: dict[str, list[tuple[str, Object]]] = field(default_factory=lambda: defaultdict(list))
    fuses: list[Object] = field(default_factory=list)
    sees_jobs: bool = True


def reap(context: str | None = None, *, kubeconfig: str | None = None, dry_run: bool = False) -> list[Orphan]:
    """End what dead owners left in a cluster, of which no ledger knows any more: in all namespaces, if this account may list those.

    Args:
        context: of the kubeconfig; by default its current one.
        kubeconfig: by default as for `Pod`.
        dry_run: only say what would be done.

    Raises:
        DriverUnavailable: the cluster can't be found or does not answer, or this account may not even list pods.
    """
    cluster = connect(find(kubeconfig, context, None))
    found: dict[str, _Found] = defaultdict(_Found)
    refused: list[Orphan] = []
    for kind in _KINDS:
        try:
            items = _all_of(cluster, kind)
        except Forbidden as error:
            if kind == POD:
                raise
            refused.append(Orphan("", kind, "failed", f"what there is of them can't be seen: {error}"))
            continue
        for item in items:
            _sort(found[item["metadata"]["namespace"]], kind, item)
    if any(each.name == JOB for each in refused):
        for each_found in found.values():
            each_found.sees_jobs = False
    came = [
        each
        for namespace in sorted(found)
        for each in _settle(connect(replace(cluster.where, namespace=namespace)), found[namespace], dry_run=dry_run)
    ]
    return [*came, *refused]


def _all_of(cluster: Cluster, kind: str) -> list[Object]:
    """Return all of a kind that carries an owner's label: in the whole cluster, else in the namespace in use. Raises Forbidden."""
    try:
        answer = cluster.ask("GET", cluster.path(kind, everywhere=True), labelSelector=OWNER)
    except Forbidden:
        return cluster.list(kind, labelSelector=OWNER)[0]
    return answer.get("items") or []


def _sort(found: _Found, kind: str, item: Object) -> None:
    meta = item["metadata"]
    tag, owner = meta["labels"].get(RESOURCE), meta["labels"][OWNER]
    if tag:
        found.by_tag[tag].append((kind, item))
    elif kind == JOB and meta["name"].startswith(f"tether-fuse-{owner}-"):
        found.fuses.append(item)


def _settle(cluster: Cluster, found: _Found, *, dry_run: bool) -> Iterator[Orphan]:
    for tag in sorted(found.by_tag):
        yield _settle_one(cluster, tag, found.by_tag[tag], sees_jobs=found.sees_jobs, dry_run=dry_run)
    # After what hangs on them, which was seen to end then.
    for job in found.fuses:
        yield _settle_fuse(cluster, job, dry_run=dry_run)


def _settle_one(
    cluster: Cluster, tag: str, items: list[tuple[str, Object]], *, sees_jobs: bool, dry_run: bool
) -> Orphan:
    ours = [(kind, item) for kind, item in items if parts.is_ours(item, tag)]
    if not ours:
        return Orphan(
            tag, _name(items[0][1]), "left alone", "it only carries the label: whoever clones a manifest copies it"
        )
    name, what = _name(ours[0][1]), ", ".join(f"{kind}/{_name(item)}" for kind, item in ours)
    why = next((why for _, item in ours if (why := why_it_may_live(_identity(item)))), "")
    if not sees_jobs and any(_hangs_on(item, own_name(tag)) for _, item in ours):
        why = "its fuse, which this account may not see, says whether somebody has adopted it"
    if why:
        return Orphan(tag, name, "left alone", why)
    if dry_run:
        return Orphan(tag, name, "would end", f"{_DEAD}: {what}")
    try:
        parts.remove(
            cluster, tag, [kind for kind in _KINDS if any(kind == each for each, _ in ours)], 1, lambda _: None
        )
    except DriverUnavailable as error:
        return Orphan(tag, name, "failed", str(error))
    return Orphan(tag, name, "ended", f"{_DEAD}: {what}")


def _settle_fuse(cluster: Cluster, job: Object, *, dry_run: bool) -> Orphan:
    name, owner = _name(job), job["metadata"]["labels"][OWNER]
    why = why_it_may_live(_identity(job))
    if why:
        return Orphan(owner, name, "left alone", why)
    if dry_run:
        return Orphan(owner, name, "would end", f"{_DEAD}: its fuse")
    try:
        cluster.delete(JOB, name, job["metadata"]["uid"])
    except DriverUnavailable as error:
        return Orphan(owner, name, "failed", str(error))
    return Orphan(owner, name, "ended", f"{_DEAD}: its fuse")


def _hangs_on(item: Mapping[str, Any], fuse: str) -> bool:
    return any(each["name"] == fuse for each in item["metadata"].get("ownerReferences") or [])


def _name(item: Mapping[str, Any]) -> str:
    return str(item["metadata"]["name"])


def _identity(item: Mapping[str, Any]) -> str | None:
    return (item["metadata"].get("annotations") or {}).get(IDENTITY)
