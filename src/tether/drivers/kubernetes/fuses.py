"""The fuses of one process: one for all its resources in a namespace, and one for each that may be kept for the next owner."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from tether.drivers.kubernetes.client import JOB, Cluster, Conflict, Forbidden
from tether.drivers.kubernetes.fuse import Fuse, Renewals
from tether.drivers.kubernetes.manifest import OWNER, RESOURCE
from tether.drivers.kubernetes.proof import Proofs
from tether.drivers.kubernetes.where import Where
from tether.errors import TetherError
from tether.ledger.orphans import owner_mark
from tether.model import Progress

__all__ = ["Fuses", "own_name"]

_log = logging.getLogger("tether")

Object = dict[str, Any]


def own_name(tag: str) -> str:
    """Return the name of the fuse of one resource that may be kept."""
    return f"tether-fuse-{tag}"


class Fuses:
    """Lights fuses, renews them, has them proved, and removes them.

    Args:
        state_dir: where it is kept what was proved; its name stands on each fuse.
        owner: the owner's id.
    """

    def __init__(self, state_dir: Path, owner: str) -> None:
        self._owner = owner
        self._state_dir = state_dir
        self._proofs = Proofs(state_dir)
        self._lock = threading.Lock()
        self._renewals = Renewals(self._has_blown)
        self._shared: dict[Where, Fuse] = {}
        self._own: dict[str, Fuse] = {}
        self._without: dict[Where, str] = {}
        self._lit = 0

    # -- light ---------------------------------------------------------------------------------------------------------

    def shared(self, cluster: Cluster, lease_s: float, progress: Progress) -> list[Object]:
        """Return what names the owner's fuse; it is lit if need be. Empty where that is forbidden, which is said.

        Raises:
            DriverUnavailable: the cluster does not answer.
        """
        with self._lock:
            fuse = self._shared.get(cluster.where)
            if fuse is None:
                self._lit += 1
                name, identity = f"tether-fuse-{self._owner}-{self._lit}", owner_mark(self._state_dir)
                fuse = Fuse(cluster, name, self._owner, lease_s, identity=identity)
                if not self._light(fuse, progress):
                    return []
                self._shared[cluster.where] = fuse
            fuse.shorten(lease_s)
            return [fuse.reference]

    def own(self, cluster: Cluster, tag: str, lease_s: float, keep_s: float, progress: Progress) -> list[Object]:
        """Return what names a fuse for one resource, which burns on for so long when its owner has gone. Otherwise as `shared`."""
        identity = owner_mark(self._state_dir)
        fuse = Fuse(cluster, own_name(tag), self._owner, lease_s, keep_s, resource=tag, identity=identity)
        with self._lock:
            if not self._light(fuse, progress):
                return []
            self._own[tag] = fuse
            return [fuse.reference]

    def _light(self, fuse: Fuse, progress: Progress) -> bool:
        cluster = fuse.cluster
        try:
            progress("lighting the fuse")
            fuse.light()
        except (Forbidden, Conflict) as error:
            # A missing right, a quota, a policy: said, and the pod has its own deadline all the same.
            self._without[cluster.where] = str(error)
            self._warn(cluster.where, str(error))
            progress(f"no fuse: {error}")
            return False
        self._without.pop(cluster.where, None)
        if fuse.trouble:
            self._warn(cluster.where, fuse.trouble)
        self._renewals.hold(fuse)
        self._proofs.begin(cluster, self._owner, [fuse.reference], lambda why: self._warn(cluster.where, why))
        return True

    @staticmethod
    def _warn(where: Where, why: str) -> None:
        _log.warning(
            "cluster %s, namespace %s: %s; should this machine die, pods end by their max_lifetime only",
            where,
            where.namespace,
            why,
        )

    # -- keep ----------------------------------------------------------------------------------------------------------

    def adopt(self, cluster: Cluster, tag: str, lease_s: float, keep_s: float, fence: int) -> None:
        """Take over the fuse of a resource that an earlier owner kept. Raises Busy, Gone, DriverUnavailable."""
        identity = owner_mark(self._state_dir)
        fuse = Fuse(cluster, own_name(tag), self._owner, lease_s, keep_s, fence, resource=tag, identity=identity)
        fuse.take_over()
        with self._lock:
            self._own[tag] = fuse
        self._renewals.hold(fuse)

    def let_go(self, tag: str) -> None:
        """Renew the fuse of one resource no more: it goes with it."""
        with self._lock:
            fuse = self._own.pop(tag, None)
        if fuse is not None:
            self._renewals.let_go(fuse)

    def _has_blown(self, fuse: Fuse, why: str) -> None:
        _log.warning("cluster %s: %s; what hung on it ends", fuse.cluster.where, why)
        with self._lock:
            # The next start lights a new one.
            for where, each in list(self._shared.items()):
                if each is fuse:
                    del self._shared[where]

    # -- say -----------------------------------------------------------------------------------------------------------

    def state(self, where: Where, tag: str) -> dict[str, Any]:
        """Say what guards a resource should its owner's machine die: the strongest that was proved, and how the fuse is."""
        with self._lock:
            fuse = self._own.get(tag) or self._shared.get(where)
            without = self._without.get(where)
        proof = self._proofs.state(where)
        if fuse is None:
            return {"lease": "deadline of the pod", "fuse": f"none: {without or 'not held by this process'}"}
        guards = proof == "proved" and not fuse.trouble
        return {"lease": "fuse" if guards else "deadline of the pod", "fuse": fuse.trouble or proof}

    def proof(self, where: Where) -> str:
        """Say how far the proof of a cluster is."""
        return self._proofs.state(where)

    # -- end -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Remove what is the owner's alone; what is kept burns on for the next. Whatever can't be removed now blows by itself."""
        self._renewals.close()
        with self._lock:
            shared, self._shared = self._shared, {}
        for fuse in shared.values():
            try:
                fuse.remove()
            except TetherError as error:
                _log.info("fuse %s goes by itself: %s", fuse.name, error)

    def clear(self, cluster: Cluster, owner: str) -> None:
        """Remove the shared fuses of a dead owner whose resources were ended one by one, rather than wait for them.

        Never one of a resource that may be adopted: that has a label with its tag.
        """
        try:
            jobs, _ = cluster.list(JOB, labelSelector=f"{OWNER}={owner},!{RESOURCE}")
            for job in jobs:
                if job["metadata"]["name"].startswith((f"tether-fuse-{owner}-", "tether-proof-")):
                    cluster.delete(JOB, job["metadata"]["name"], job["metadata"]["uid"])
        except TetherError as error:
            _log.info("the fuse of owner %s goes by itself: %s", owner, error)
