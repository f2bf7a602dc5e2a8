"""What a cluster is asked for, made from a spec."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tether.drivers.kubernetes.client import CLAIM, POD, SECRET, SERVICE
from tether.drivers.kubernetes.spec import Claim, FromKey, Pod
from tether.port import put_port

__all__ = [
    "IDENTITY",
    "MAIN",
    "OWNER",
    "PORT_INSIDE",
    "RESOURCE",
    "Marks",
    "kinds_of",
    "main_port",
    "name_of",
    "objects",
]

RESOURCE = "tether.dev/resource"
"""The label with the tag, on everything that is made for a resource."""

OWNER = "tether.dev/owner"
"""The label with the owner's id."""

IDENTITY = "tether.dev/identity"
"""The annotation that says who the owner is, for when its ledger has gone. See `tether.ledger.orphans.owner_mark`."""

MAIN = "main"
"""The container that the spec is about; `raw=` may bring others."""

PORT_INSIDE = 8000
"""What ``{port}`` stands for without port=: a pod has an address of its own, where every port is free."""

_PULL = {"missing": "IfNotPresent", "always": "Always", "never": "Never"}
_BASE_LENGTH = 30

Object = dict[str, Any]


@dataclass(frozen=True)
class Marks:
    """What everything carries that is made for one resource.

    Attributes:
        tag: the resource's.
        owner: the owner's id.
        name: of the pod; other things' names begin with it.
        references: the fuse, so that the cluster collects all of it when that has blown; empty where there is none.
        identity: what is said of the owner.
    """

    tag: str
    owner: str
    name: str
    references: tuple[Mapping[str, Any], ...] = ()
    identity: str = ""

    def metadata(
        self, name: str, labels: Mapping[str, str] | None = None, annotations: Mapping[str, str] | None = None
    ) -> Object:
        """Return the metadata of one object; the marks stand over what else it is to carry."""
        marks = {RESOURCE: self.tag, OWNER: self.owner, "app.kubernetes.io/managed-by": "tether"}
        return {
            "name": name,
            "labels": {**(labels or {}), **marks},
            "annotations": {**(annotations or {}), IDENTITY: self.identity},
            "ownerReferences": [dict(each) for each in self.references],
        }


def name_of(spec: Pod, tag: str) -> str:
    """Return the pod's name: of our own making, and never used before, since the tag is not."""
    base = re.sub(r"[^a-z0-9]+", "-", (spec.name or spec.default_name).lower())[:_BASE_LENGTH].strip("-")
    return f"tether-{base}-{tag}" if base else f"tether-{tag}"


def main_port(spec: Pod) -> int | None:
    """Return the port that ``url`` points to; None if it has none."""
    return (spec.port or PORT_INSIDE) if spec.uses_port else None


def _own_claims(spec: Pod) -> dict[str, Claim]:
    """By path, the claims that are made for it."""
    return {path: source for path, source in spec.mounts.items() if isinstance(source, Claim)}


def _values(spec: Pod) -> dict[str, str]:
    return {key: put_port(value, main_port(spec)) for key, value in spec.env.items() if isinstance(value, str)}


def kinds_of(spec: Pod) -> list[str]:
    """Return the kinds of objects that are made for it, the pod last."""
    has = {SECRET: bool(_values(spec)), CLAIM: bool(_own_claims(spec)), SERVICE: spec.service}
    return [*(kind for kind, wanted in has.items() if wanted), POD]


def objects(spec: Pod, marks: Marks) -> list[tuple[str, Object]]:
    """Return what is to be created, by kind and in order: the pod last, since it needs the others."""
    made: list[tuple[str, Object]] = []
    values = _values(spec)
    if values:
        made.append((SECRET, {"metadata": marks.metadata(marks.name), "type": "Opaque", "stringData": values}))
    for number, claim in enumerate(_own_claims(spec).values()):
        made.append((CLAIM, _claim(claim, marks, f"{marks.name}-{number}")))
    if spec.service:
        made.append((SERVICE, _service(spec, marks)))
    return [*made, (POD, _pod(spec, marks))]


def _claim(claim: Claim, marks: Marks, name: str) -> Object:
    wanted: Object = {"accessModes": [claim.access], "resources": {"requests": {"storage": claim.size}}}
    if claim.storage_class is not None:
        wanted["storageClassName"] = claim.storage_class
    return {"metadata": marks.metadata(name), "spec": wanted}


def _service(spec: Pod, marks: Marks) -> Object:
    ports = [{"name": f"p{port}", "port": port, "targetPort": port} for port in _ports(spec)]
    return {"metadata": marks.metadata(marks.name), "spec": {"selector": {RESOURCE: marks.tag}, "ports": ports}}


def _ports(spec: Pod) -> list[int]:
    first = main_port(spec)
    return list(dict.fromkeys([*([] if first is None else [first]), *spec.ports]))


def _pod(spec: Pod, marks: Marks) -> Object:
    volumes, mounts = _volumes(spec, marks.name)
    inside = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": math.ceil(spec.max_lifetime),
        "terminationGracePeriodSeconds": max(1, math.ceil(spec.stop_grace)),
        "serviceAccountName": spec.service_account,
        "automountServiceAccountToken": spec.service_account is not None,
        "enableServiceLinks": False,
        "nodeSelector": dict(spec.node_selector),
        "tolerations": [dict(each) for each in spec.tolerations],
        "imagePullSecrets": [{"name": each} for each in spec.pull_secrets],
        "priorityClassName": spec.priority_class,
        "volumes": volumes,
        "containers": [_container(spec, marks.name, mounts)],
    }
    metadata = marks.metadata(marks.name, spec.labels, spec.annotations)
    merged: Object = _merge({"metadata": metadata, "spec": _present(inside)}, spec.raw)
    return merged


def _volumes(spec: Pod, name: str) -> tuple[list[Object], list[Object]]:
    """The volumes of a pod, and where its container has them."""
    volumes: list[Object] = []
    mounts = []
    claims = {path: f"{name}-{number}" for number, path in enumerate(_own_claims(spec))}
    for number, (path, source) in enumerate(spec.mounts.items()):
        if source is None:
            where: Object = {"emptyDir": {}}
        elif isinstance(source, Mapping):
            where = dict(source)
        else:
            where = {"persistentVolumeClaim": {"claimName": claims.get(path, source)}}
        volumes.append({"name": f"v{number}", **where})
        mounts.append({"name": f"v{number}", "mountPath": path})
    return volumes, mounts


def _container(spec: Pod, name: str, mounts: list[Object]) -> Object:
    security = {**({} if spec.user is None else {"runAsUser": spec.user}), **(spec.security_context or {})}
    return _present(
        {
            "name": MAIN,
            "image": spec.image,
            "imagePullPolicy": _PULL[spec.pull],
            "command": _literal(spec, spec.entrypoint or ()),
            "args": _literal(spec, spec.command),
            "workingDir": spec.workdir,
            "env": [_variable(key, value, name) for key, value in spec.env.items() if value is not None],
            "ports": [{"containerPort": port} for port in _ports(spec)],
            "resources": _resources(spec),
            "volumeMounts": mounts,
            "securityContext": security,
        }
    )


def _literal(spec: Pod, words: tuple[str, ...] | Any) -> list[str]:
    """Words that reach the command as they are: a kubelet takes $(NAME) for a variable, and $$ for a dollar."""
    return [put_port(word, main_port(spec)).replace("$", "$$") for word in words]


def _variable(key: str, value: str | FromKey, name: str) -> Object:
    if isinstance(value, str):
        source = {"secretKeyRef": {"name": name, "key": key}}
    elif value.secret is not None:
        source = {"secretKeyRef": {"name": value.secret, "key": value.key}}
    else:
        source = {"configMapKeyRef": {"name": str(value.config_map), "key": value.key}}
    return {"name": key, "valueFrom": source}


def _resources(spec: Pod) -> Object:
    if spec.resources is not None:
        return dict(spec.resources)
    wanted = {
        "cpu": None if spec.cpus is None else f"{math.ceil(spec.cpus * 1000)}m",
        "memory": None if spec.memory is None else str(spec.memory),
        spec.gpu_resource: spec.gpus or None,
    }
    given = _present(wanted)
    return {"requests": given, "limits": given} if given else {}


def _present(values: Object) -> Object:
    """Without what was not said."""
    return {key: value for key, value in values.items() if value is not None and value not in ([], {}, "")}


def _merge(ours: Any, theirs: Any) -> Any:
    """Merge a fragment in: mappings key by key, lists of named things by name, everything else replaces."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return {key: _merge(ours.get(key), theirs[key]) if key in theirs else ours[key] for key in {**ours, **theirs}}
    if _is_named(ours) and _is_named(theirs):
        by_name = {each["name"]: each for each in ours}
        for each in theirs:
            by_name[each["name"]] = _merge(by_name.get(each["name"]), each)
        return list(by_name.values())
    return theirs


def _is_named(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(each, Mapping) and "name" in each for each in value)
    )
