"""A dead man's switch out of what every cluster has: no controller, no image and no agent of ours.

A Job whose pod no scheduler takes, with a deadline that its owner renews. Everything that is made for the owner's resources names
it as its owner. When nobody renews any more, the Job fails, is removed, and the cluster collects all that named it: also what is
created late.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from tether.drivers.kubernetes import pods
from tether.drivers.kubernetes.client import JOB, Absent, Cluster, Conflict
from tether.drivers.kubernetes.manifest import IDENTITY, OWNER, RESOURCE
from tether.errors import Busy, DriverUnavailable, Gone, TetherError

__all__ = ["Fuse", "Renewals", "manifest", "reference"]

_log = logging.getLogger("tether")

Object = dict[str, Any]

FENCE = "tether.dev/fence"
"""The annotation with the number of the ownership."""

_NEVER = "tether.dev/never"
_BEGUN_S = 5.0
_BEGUN_PAUSE_S = 0.05
_RENEWALS_PER_LEASE = 3.0
_RETRY_S = 1.0


def manifest(
    name: str, owner: str, deadline_s: int, fence: int = 1, resource: str | None = None, identity: str = ""
) -> Object:
    """Return the Job. Its pod is never placed, so its image is never fetched."""
    container = {"name": "fuse", "image": _NEVER, "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}}}
    container["resources"]["limits"] = container["resources"]["requests"]  # type: ignore[index]
    inside = {
        "schedulerName": _NEVER,
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
    }
    labels = {OWNER: owner, "app.kubernetes.io/managed-by": "tether"}
    if resource is not None:
        labels[RESOURCE] = resource
    return {
        "metadata": {"name": name, "labels": labels, "annotations": {FENCE: str(fence), IDENTITY: identity}},
        "spec": {
            "activeDeadlineSeconds": deadline_s,
            "ttlSecondsAfterFinished": 0,
            "backoffLimit": 0,
            "template": {"metadata": {"labels": {"tether.dev/fuse": name}}, "spec": inside},
        },
    }


def _fence(job: Object) -> int:
    return int((job["metadata"].get("annotations") or {}).get(FENCE, "1"))


def reference(job: Object) -> Object:
    """Return what names a Job as owner. It does not block its deletion, which would take a right of its own."""
    return {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}


class Fuse:
    """One fuse that is held by this process.

    Args:
        cluster: where it is.
        name: the Job's name.
        owner: the owner's id.
        lease_s: seconds from a renewal to its end.
        keep_s: seconds more, for what waits to be adopted.
        fence: the number of this ownership.
        resource: the tag of the one resource that it is for; None for all of an owner's.
        identity: what is said of the owner.

    Attributes:
        uid: the Job's.
        trouble: why it would not blow, or is not renewed, in words; empty if all is well.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        owner: str,
        lease_s: float,
        keep_s: float = 0.0,
        fence: int = 1,
        resource: str | None = None,
        identity: str = "",
    ) -> None:
        self.cluster = cluster
        self.name = name
        self.uid = ""
        self.trouble = ""
        self._owner = owner
        self._lease_s = lease_s
        self._keep_s = keep_s
        self._fence = fence
        self._resource = resource
        self._identity = identity
        self._job: Object = {}
        self.renewed = 0.0

    @property
    def every_s(self) -> float:
        """How often it is renewed."""
        return self._lease_s / _RENEWALS_PER_LEASE

    def shorten(self, lease_s: float) -> None:
        """Have it blow earlier, from the next renewal on: the shortest lease of all that name it holds."""
        self._lease_s = min(self._lease_s, lease_s)

    @property
    def reference(self) -> Object:
        """What names it as owner."""
        return reference(self._job)

    def _whole_s(self) -> int:
        return math.ceil(self._lease_s + self._keep_s)

    def light(self) -> None:
        """Create it, and wait until the cluster counts its time.

        Raises:
            DriverUnavailable: the cluster does not answer, or forbids it; with Forbidden, Conflict as such.
        """
        wanted = manifest(self.name, self._owner, self._whole_s(), self._fence, self._resource, self._identity)
        made = self.cluster.create(JOB, wanted)
        self._take(made)
        deadline = time.monotonic() + _BEGUN_S
        while not self._begun() and time.monotonic() < deadline:
            time.sleep(_BEGUN_PAUSE_S)
            there = self.cluster.get(JOB, self.name)
            if there is not None:
                self._take(there)
        if not self._begun():
            self.trouble = (
                f"the cluster has not begun to count the time of Job {self.name}: its job controller may be down"
            )

    def _take(self, job: Object) -> None:
        self._job = job
        self.uid = job["metadata"]["uid"]
        self.renewed = time.monotonic()

    def _begun(self) -> float:
        return pods.when((self._job.get("status") or {}).get("startTime"))

    def renew(self) -> None:
        """Move its deadline on. One request, however much hangs on it.

        Raises:
            Gone: it has blown, was removed, or has another owner by now.
            DriverUnavailable: the cluster does not answer.
        """
        begun = self._begun()
        passed = max(0.0, self.cluster.now() - begun) if begun else 0.0
        try:
            job = self.cluster.patch(
                JOB, self.name, {"spec": {"activeDeadlineSeconds": math.ceil(passed) + self._whole_s()}}
            )
        except Absent as error:
            raise Gone(f"the fuse {self.name} has gone: it blew, or somebody removed it") from error
        if job["metadata"]["uid"] != self.uid or _fence(job) > self._fence:
            raise Gone(f"the fuse {self.name} has another owner by now")
        if any(
            each["type"] == "Failed" and each["status"] == "True"
            for each in (job.get("status") or {}).get("conditions") or []
        ):
            raise Gone(f"the fuse {self.name} has blown: it was not renewed in time")
        self._take(job)
        self.trouble = "" if self._begun() else self.trouble

    def take_over(self) -> None:
        """Become its owner: a newer fence than any before, written only over what was read.

        Raises:
            Busy: somebody else was faster.
            Gone: it has blown.
            DriverUnavailable: the cluster does not answer.
        """
        job = self.cluster.get(JOB, self.name)
        if job is None:
            raise Gone(f"the fuse {self.name} has blown, so the cluster has ended what hung on it")
        meta = job["metadata"]
        if _fence(job) >= self._fence and not self._is_taken(job):
            raise Busy(f"the fuse {self.name} was taken over by another owner")
        marks = {
            "resourceVersion": meta["resourceVersion"],
            "annotations": {FENCE: str(self._fence), IDENTITY: self._identity},
            "labels": {OWNER: self._owner},
        }
        try:
            self._take(self.cluster.patch(JOB, self.name, {"metadata": marks}))
            self.renew()
        except Conflict as error:
            # The job controller writes to it too, so what was read may be old without any rival.
            again = self.cluster.get(JOB, self.name)
            if again is not None and (_fence(again) == _fence(job) or self._is_taken(again)):
                return self.take_over()
            raise Busy(f"the fuse {self.name} was taken over by another owner just now") from error
        return None

    def _is_taken(self, job: Object) -> bool:
        """Whether a takeover of this very owner, whose answer was lost, has come about."""
        return _fence(job) == self._fence and (job["metadata"].get("labels") or {}).get(OWNER) == self._owner

    def remove(self) -> None:
        """Remove it, and with it what still names it as owner."""
        if self.uid:
            self.cluster.delete(JOB, self.name, self.uid)


class Renewals:
    """Renews fuses, each three times in a lease: one thread, which waits for the next.

    Args:
        blown: called with a fuse that has gone, and why.
    """

    def __init__(self, blown: Callable[[Fuse, str], None]) -> None:
        self._blown = blown
        self._changed = threading.Condition()
        self._due: dict[Fuse, float] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def hold(self, fuse: Fuse) -> None:
        """Renew it from now on."""
        with self._changed:
            self._due[fuse] = time.monotonic() + fuse.every_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tether-fuses", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def let_go(self, fuse: Fuse) -> None:
        """Renew it no more."""
        with self._changed:
            self._due.pop(fuse, None)

    def close(self) -> list[Fuse]:
        """Renew nothing any more; returns what was held."""
        with self._changed:
            held = list(self._due)
            self._due.clear()
            self._closed = True
            self._changed.notify_all()
        return held

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                fuse, due = min(self._due.items(), key=lambda item: item[1], default=(None, None))
                left = None if due is None else due - time.monotonic()
                if fuse is None or left is None or left > 0:
                    self._changed.wait(left)
                    continue
            self._renew(fuse)

    def _renew(self, fuse: Fuse) -> None:
        try:
            fuse.renew()
            pause = fuse.every_s
        except Gone as error:
            fuse.trouble = str(error)
            self.let_go(fuse)
            self._blown(fuse, str(error))
            return
        except DriverUnavailable as error:
            fuse.trouble = f"not renewed: {error}"
            pause = min(_RETRY_S, fuse.every_s)
        except TetherError as error:
            _log.warning("fuse %s: %s", fuse.name, error)
            pause = fuse.every_s
        with self._changed:
            if fuse in self._due:
                self._due[fuse] = time.monotonic() + pause
