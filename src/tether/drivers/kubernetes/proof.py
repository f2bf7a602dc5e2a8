"""Whether a cluster's fuses blow: tried once for each cluster, since some lose a renewed deadline, and some forbid what it takes.

Stock Kubernetes 1.20 does not arm a Job's renewed deadline again; quotas, policies and missing rights forbid the rest. A guard that
was not proved counts for nothing, and that is said.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tether.drivers.kubernetes.client import JOB, POD, Cluster
from tether.drivers.kubernetes.fuse import manifest, reference
from tether.drivers.kubernetes.manifest import OWNER
from tether.drivers.kubernetes.where import Where
from tether.errors import TetherError
from tether.ledger import place

__all__ = ["Proofs", "prove"]

_log = logging.getLogger("tether")

_FIRST_S = 3
_RENEWED_S = 6
_BLOWS_WITHIN_S = 45.0
_LOOK_PAUSE_S = 0.5
_GOOD_FOR_S = 30 * 24 * 3600.0
_BAD_FOR_S = 3600.0


def prove(cluster: Cluster, owner: str, references: list[dict[str, Any]]) -> str:
    """Light a short fuse with something on it, renew it once, and see whether both go. Returns why not; empty if they do.

    Args:
        cluster: where.
        owner: the owner's id.
        references: what this hangs on itself, should this process die meanwhile.

    Raises:
        DriverUnavailable: the cluster does not answer any more, so nothing was proved.
    """
    name = f"tether-proof-{secrets.token_hex(8)}"
    wanted = manifest(name, owner, _FIRST_S)
    wanted["metadata"]["ownerReferences"] = references
    job = cluster.create(JOB, wanted)
    begun = time.monotonic()
    try:
        hanging = {"metadata": {"name": name, "labels": {OWNER: owner}, "ownerReferences": [reference(job)]}}
        inside = wanted["spec"]["template"]["spec"]
        cluster.create(POD, {**hanging, "spec": inside})
        time.sleep(1.0)
        cluster.patch(JOB, name, {"spec": {"activeDeadlineSeconds": _RENEWED_S}})
        return _watch(cluster, name, begun)
    finally:
        cluster.delete(JOB, name, job["metadata"]["uid"])


def _watch(cluster: Cluster, name: str, begun: float) -> str:
    while time.monotonic() < begun + _BLOWS_WITHIN_S:
        job, pod = cluster.get(JOB, name), cluster.get(POD, name)
        if time.monotonic() < begun + _FIRST_S + 1 and (job is None or pod is None):
            return "what hangs on a fuse went although it had been renewed"
        if job is None and pod is None:
            return ""
        time.sleep(_LOOK_PAUSE_S)
    if cluster.get(JOB, name) is not None:
        return f"a Job whose deadline was renewed is still there {_BLOWS_WITHIN_S:g} s later: stock Kubernetes before 1.23 loses it"
    return f"what hung on a removed Job is still there {_BLOWS_WITHIN_S:g} s later: the garbage collector does not work"


class Proofs:
    """What was proved of which cluster, kept in the state directory: by address and namespace, no secrets.

    Args:
        folder: where.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._running: set[Where] = set()
        self._failed: dict[Where, str] = {}

    def _path(self, where: Where) -> Path:
        name = hashlib.sha256(f"{where.server} {where.namespace}".encode()).hexdigest()[:16]
        return self._folder / "kubernetes" / f"{name}.json"

    def _known(self, where: Where) -> str | None:
        """Why it is not proved, empty if it is; None if nobody knows, or that is too long ago."""
        try:
            said = json.loads(self._path(where).read_text())
            fresh = time.time() < said["at"] + (_GOOD_FOR_S if said["good"] else _BAD_FOR_S)
            return ("" if said["good"] else str(said["why"])) if fresh else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def state(self, where: Where) -> str:
        """Say how far the proof is: "proved", "being proved", or "not proved" and why."""
        known = self._known(where)
        if known == "":
            return "proved"
        if known:
            return f"not proved: {known}"
        with self._lock:
            if where in self._running:
                return "being proved"
            return f"not proved: {self._failed.get(where, 'not tried yet')}"

    def begin(
        self, cluster: Cluster, owner: str, references: list[dict[str, Any]], told: Callable[[str], None]
    ) -> None:
        """Have it proved in the background, unless that is known or under way. ``told`` hears why it could not be."""
        with self._lock:
            if cluster.where in self._running or self._known(cluster.where) is not None:
                return
            self._running.add(cluster.where)
        threading.Thread(
            target=self._run, args=(cluster, owner, references, told), name="tether-proof", daemon=True
        ).start()

    def _run(self, cluster: Cluster, owner: str, references: list[dict[str, Any]], told: Callable[[str], None]) -> None:
        where = cluster.where
        try:
            why = prove(cluster, owner, references)
        except TetherError as error:
            # Nothing is known then; the next owner tries again.
            why = str(error)
        else:
            self._write(where, why)
        with self._lock:
            self._running.discard(where)
            self._failed[where] = why
        if why:
            told(why)

    def _write(self, where: Where, why: str) -> None:
        path = self._path(where)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            said = {
                "server": where.server,
                "namespace": where.namespace,
                "at": time.time(),
                "good": not why,
                "why": why,
            }
            place.write_private(path, json.dumps(said).encode())
        except OSError as error:
            _log.warning("what was proved of cluster %s can't be kept: %s", where, error)
