"""Starts, finds, inspects, stops and destroys pods. What is made for one has its tag as a label, and hangs on its fuse."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from tether.drivers import Context
from tether.drivers.kubernetes import manifest, output, parts, pods, reach, where
from tether.drivers.kubernetes.client import JOB, POD, Absent, Cluster, Conflict, connect
from tether.drivers.kubernetes.doubt import Doubtful
from tether.drivers.kubernetes.fuses import Fuses
from tether.drivers.kubernetes.spec import Pod, PodRef
from tether.drivers.kubernetes.track import Track
from tether.drivers.kubernetes.watch import Watch
from tether.drivers.kubernetes.where import Where
from tether.errors import DriverUnavailable, Gone, NotCreated, SpecError, StartError
from tether.ledger import logs
from tether.life.machine import Ended
from tether.life.probes import Target
from tether.linux import faults
from tether.model import Finding, Handle, OnDeath, Progress, State, Status, Usage
from tether.protocol import PluginExecutionMode

__all__ = ["KubernetesDriver"]

_log = logging.getLogger("tether")

_VERSION = 1
_KILL_GRACE_S = 1
"""The least that a node is waited for: without any, the object goes at once and the containers later, or never."""
_LAST_WORDS_S = 2.0

Object = dict[str, Any]


class KubernetesDriver:
    """See `tether.drivers.Driver`. The handle has where the cluster is, the pod's name and uid, and what else was made for it."""

    kind: ClassVar[str] = "kubernetes"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.KUBERNETES})
    has_pids: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._track = Track(context.emit, self._clear)
        self._watches: dict[Where, Watch] = {}
        self._fuses = Fuses(context.state_dir, context.owner)
        self._reach = reach.Reach()
        self._settled: set[tuple[Where, str]] = set()

    # -- start ---------------------------------------------------------------------------------------------------------

    def plan(self, spec: Pod | PodRef, tag: str) -> Handle:
        """Say in which cluster and namespace it will be: everything made for it is found there by the label. See `HasPlan`."""
        try:
            place = where.find(spec.kubeconfig, spec.context, spec.namespace)  # type: ignore[arg-type]
        except DriverUnavailable as error:
            raise NotCreated(f"cannot start {spec.name or tag}: {error}", resource=spec.name or tag) from error
        attached = isinstance(spec, PodRef)
        data: Object = {"where": place.record(), "owner": self._context.owner, "attached": attached, "uid": None}
        if isinstance(spec, PodRef):
            data |= {"pod": spec.ref, "container": spec.container, "port": spec.port, "kinds": []}
        else:
            data |= {
                "pod": manifest.name_of(spec, tag),
                "container": manifest.MAIN,
                "port": manifest.main_port(spec),
                # A fuse of its own, should it be one to be kept.
                "kinds": [*manifest.kinds_of(spec), JOB],
                "image": spec.image,
                "lease": spec.lease,
                "keep_for": spec.keep_for,
                "service": manifest.name_of(spec, tag) if spec.service else None,
            }
        data["reach"] = reach.chosen(spec.reach, place)
        data["probe"] = None if spec.ready is None else spec.ready.first_of("tcp") or spec.ready.kind
        return Handle(self.kind, tag, data, _VERSION)

    def start(self, spec: Pod | PodRef, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Light the fuse, make Secret, claims, Service and pod, all with the tag; without ``ready``, wait until it runs.

        Raises:
            NotCreated: the cluster can't be found or does not answer: nothing was created.
            StartError: it refused, or the pod never ran; what was made of it is the caller's to destroy, by the plan.

        Crash:
            What was made is found by its label, in the cluster that the plan names; and it hangs on the fuse.
        """
        plan = self.plan(spec, tag)
        called = spec.name or tag
        logs.path(self._context.state_dir, tag).unlink(missing_ok=True)
        try:
            cluster = connect(Where.recorded(plan.data["where"]))
            # Asked for now, since a watch that was cut may not have noticed yet.
            cluster.list(POD, labelSelector=f"{manifest.RESOURCE}={tag}")
            self._watch(cluster).await_listening()
            if isinstance(spec, PodRef):
                return self._attach(spec, plan, cluster)
            shared = on_death != "keep"
            fuse = self._fuses.shared(cluster, spec.lease, progress) if shared else []
        except (DriverUnavailable, Gone) as error:
            raise NotCreated(f"cannot start {called}: {error}", resource=called) from error
        try:
            if not shared:
                fuse = self._fuses.own(cluster, tag, spec.lease, spec.keep_for, progress)
            handle = self._create(spec, plan, cluster, fuse, progress, own_fuse=not shared)
            if spec.ready is None:
                self._await_running(handle, cluster, spec, progress)
        except (DriverUnavailable, Absent) as error:
            raise StartError(f"cannot start {called}: {error}", resource=called) from error
        return handle

    def _create(
        self, spec: Pod, plan: Handle, cluster: Cluster, fuse: list[Object], progress: Progress, *, own_fuse: bool
    ) -> Handle:
        faults.point("start.making")
        marks = manifest.Marks(plan.tag, self._context.owner, plan.data["pod"], tuple(fuse))
        made: Object = {}
        for kind, wanted in manifest.objects(spec, marks):
            progress(f"creating {kind.removesuffix('s')} {wanted['metadata']['name']}")
            made = cluster.create(kind, wanted)
            if kind != POD:
                faults.point("start.making")
        kinds = plan.data["kinds"] if own_fuse else [kind for kind in plan.data["kinds"] if kind != JOB]
        data = {**plan.data, "uid": made["metadata"]["uid"], "kinds": kinds}
        handle = Handle(self.kind, plan.tag, data, _VERSION)
        self._reach.open(handle, cluster)
        self._track.hold(handle, made)
        # What was said of it before it was held was not for anybody.
        self._track.look(handle)
        return handle

    def _await_running(self, handle: Handle, cluster: Cluster, spec: Pod, progress: Progress) -> None:
        seen = self._track.await_running(handle, spec.run_within, progress, cluster.now)
        if seen.is_hopeless:
            raise DriverUnavailable(seen.reason)

    def _attach(self, spec: PodRef, plan: Handle, cluster: Cluster) -> Handle:
        self._watch(cluster).see_all()
        pod = cluster.get(POD, spec.ref)
        seen = None if pod is None else pods.judge(pod, spec.container, cluster.now())
        if pod is None or seen is None or seen.state is not State.READY:
            what = "there is no pod of that name" if seen is None else seen.reason or "it has ended"
            raise NotCreated(
                f"cannot attach to {spec.ref}: {what}; see 'kubectl -n {cluster.where.namespace} get pods'",
                resource=spec.ref,
            )
        handle = Handle(self.kind, plan.tag, {**plan.data, "uid": pod["metadata"]["uid"]}, _VERSION)
        self._reach.open(handle, cluster)
        self._track.hold(handle, pod)
        return handle

    def _watch(self, cluster: Cluster) -> Watch:
        place = cluster.where
        with self._lock:
            if place not in self._watches:
                self._watches[place] = Watch(
                    cluster,
                    lambda found: self._track.listed(place, found),
                    lambda what, pod: self._track.changed(place, what, pod),
                    lambda why: self._track.lost(place, why),
                )
            return self._watches[place]

    # -- look ----------------------------------------------------------------------------------------------------------

    @staticmethod
    def _cluster(handle: Handle) -> Cluster:
        return connect(Where.recorded(handle.data["where"]))

    def find(self, tag: str) -> list[Handle]:
        """Return nothing: the plan says where it is."""
        return []

    def _pod(self, handle: Handle, cluster: Cluster) -> Object | None:
        """The pod as it is now; of a plan, whatever carries the tag. Raises DriverUnavailable."""
        if handle.data["uid"] is not None:
            pod = cluster.get(POD, handle.data["pod"])
            return pod if pod is not None and pod["metadata"]["uid"] == handle.data["uid"] else None
        return next((item for _, item in parts.with_tag(cluster, handle.tag, [POD])), None)

    def inspect(self, handle: Handle) -> Status:
        """Ask the cluster. Raises DriverUnavailable.

        GONE means that neither the pod nor anything that was made for it is there, and that there is no sign that it runs on.
        """
        cluster = self._cluster(handle)
        pod = self._pod(handle, cluster)
        if pod is not None:
            seen = pods.judge(pod, handle.data["container"], cluster.now())
            return Status(seen.state, seen.exit_code, seen.reason)
        if handle.data["attached"]:
            return Status(State.GONE, reason="not there")
        doubt = self._track.doubt(cluster, handle.tag)
        if doubt:
            return Status(State.LOST, reason=doubt)
        if any(parts.with_tag(cluster, handle.tag, handle.data["kinds"])):
            return Status(State.STOPPING, reason="something that was made for it is left")
        return Status(State.GONE, reason="not there")

    def usage(self, handle: Handle) -> Usage:
        """Ask the metrics API; all of it None where there is none."""
        return reach.usage(self._cluster(handle), handle.data["pod"])

    def url(self, handle: Handle) -> str | None:
        """Return where its port is reached from here; None if it has none."""
        return self._reach.url(handle)

    def details(self, handle: Handle) -> dict[str, Any]:
        """Return its pod, where that is, and what guards it."""
        data, place = handle.data, Where.recorded(handle.data["where"])
        last = self._track.last(handle.tag)
        told = {
            "pod": data["pod"],
            "pod_uid": data["uid"],
            "namespace": place.namespace,
            "context": place.context,
            "server": place.server,
            "node": None if last is None else last["spec"].get("nodeName"),
            "image": data.get("image"),
            "service": f"{data['service']}.{place.namespace}.svc" if data.get("service") else None,
        }
        return told if data["attached"] else {**told, **self._fuses.state(place, handle.tag)}

    def is_attached(self, handle: Handle) -> bool:
        """Whether it is a `PodRef`."""
        return bool(handle.data["attached"])

    def target(self, handle: Handle) -> Target:
        """Probe it as users reach it, once it runs; its own readiness is what the cluster says."""
        return self._reach.target(
            handle,
            missing=lambda: self._missing(handle),
            log=lambda: self.read_log(handle, None),
            health=lambda: self._health(handle),
        )

    def _missing(self, handle: Handle) -> str:
        last = self._track.last(handle.tag)
        if last is None:
            return "its pod has gone"
        seen = pods.judge(last, handle.data["container"], self._cluster(handle).now())
        if seen.state is not State.READY:
            return seen.reason or "its pod has ended"
        return self._reach.refusal(handle, last)

    def _health(self, handle: Handle) -> str:
        last = self._track.last(handle.tag)
        if last is not None and pods.is_ready(last):
            return ""
        return (self._missing(handle) if last is None else "") or self._not_ready(handle, last)

    def _not_ready(self, handle: Handle, last: Object | None) -> str:
        seen = None if last is None else pods.judge(last, handle.data["container"], self._cluster(handle).now())
        return (seen.reason if seen is not None else "") or "the cluster does not say that its pod is ready"

    def diagnose(self) -> Finding:
        """Look for the extra, and ask the cluster in use here."""
        return reach.finding(self._fuses)

    def inside(self, handle: Handle, argv: Sequence[str], env: Mapping[str, str | None] | None = None) -> list[str]:
        """Return the command that runs ``argv`` in the pod's container, by kubectl.

        Raises:
            SpecError: there is no kubectl, or there are variables, which it can't pass on.
        """
        if env:
            raise SpecError(
                f"variables can't be passed to a command in pod {handle.data['pod']}: kubectl exec knows none, and on its command "
                "line everybody could read them; put them into the pod's spec"
            )
        return reach.inside(handle, argv)

    def inside_terminal(self, handle: Handle, argv: Sequence[str]) -> list[str]:
        """The same with a terminal. See `HasTerminalsInside`. Raises SpecError: there is no kubectl."""
        return reach.inside(handle, argv, "-t")

    # -- output --------------------------------------------------------------------------------------------------------

    def _saved(self, tag: str) -> Path:
        return logs.path(self._context.state_dir, tag)

    def read_log(self, handle: Handle, lines: int | None) -> bytes:
        """Ask the cluster; of one that has ended, read what was kept. Raises DriverUnavailable."""
        saved = self._saved(handle.tag)
        if saved.exists():
            return logs.last_lines(saved.read_bytes(), lines)
        with suppress(Absent):
            return output.read(self._cluster(handle), handle.data["pod"], handle.data["container"], lines)
        return b""

    def follow_log(self, handle: Handle) -> Iterator[bytes]:
        """Yield what it writes from now on, over broken connections, until it ends."""
        if self._saved(handle.tag).exists():
            return
        cluster = self._cluster(handle)

        def goes_on() -> bool:
            return self.inspect(handle).state in (State.STARTING, State.READY, State.LOST)

        yield from output.follow(cluster, handle.data["pod"], handle.data["container"], goes_on)

    # -- adoption ------------------------------------------------------------------------------------------------------

    def adopt(self, handle: Handle, fence: int) -> int | None:
        """Watch a kept pod from now on, and renew its fuse under a newer fence. See `tether.drivers.CanAdopt`."""
        cluster = self._cluster(handle)
        self._watch(cluster).await_listening()
        pod = self._pod(handle, cluster)
        seen = None if pod is None else pods.judge(pod, handle.data["container"], cluster.now())
        if pod is None or seen is None or seen.has_ended:
            raise Gone(
                f"resource {handle.tag} can't be adopted: {'not there' if seen is None else seen.reason or 'it has ended'}"
            )
        if JOB in handle.data["kinds"]:
            self._fuses.adopt(cluster, handle.tag, handle.data["lease"], handle.data["keep_for"], fence)
        self._reach.open(handle, cluster)
        self._track.hold(handle, pod)
        return None

    def receipt(self, handle: Handle) -> Ended | None:
        """Return the exit code that the cluster kept, or None if the pod has been removed."""
        status = self.inspect(handle)
        if status.state is not State.STOPPING or status.exit_code is None:
            return None
        return Ended(status.exit_code, status.reason or "ended while nobody owned it", proof="the cluster says so")

    # -- end -----------------------------------------------------------------------------------------------------------

    def stop(self, handle: Handle, grace: float) -> None:
        """Have its node stop it, then remove all that was made for it. Raises as `destroy`."""
        self._end(handle, max(_KILL_GRACE_S, math.ceil(grace)))

    def destroy(self, handle: Handle) -> None:
        """Have its node end it, as good as at once, and remove all that was made for it. Never what was there before.

        Raises:
            DriverUnavailable: the cluster does not answer, or its node does not say that it has ended; to be tried again.
        """
        self._end(handle, _KILL_GRACE_S)

    def _end(self, handle: Handle, grace: int) -> None:
        if not handle.data["attached"]:
            self._track.is_ending(handle.tag)
            self._remove_all(handle, grace)
        self._let_go(handle)

    def _clear(self, handle: Handle) -> None:
        """It has ended by itself: remove what was made for it."""
        self._remove_all(handle, _KILL_GRACE_S)
        self._reach.close(handle.tag)
        self._fuses.let_go(handle.tag)

    def _remove_all(self, handle: Handle, grace: int) -> None:
        cluster = self._cluster(handle)
        kept: list[output.Keeper] = []

        def listen(pod: Object) -> None:
            if pod["status"].get("containerStatuses"):
                name, container = pod["metadata"]["name"], handle.data["container"]
                kept.append(output.Keeper(cluster, name, container, self._saved(handle.tag)))

        try:
            parts.remove(cluster, handle.tag, handle.data["kinds"], grace, listen)
        except Doubtful as error:
            self._track.doubts.setdefault(handle.tag, error.doubt)
            raise
        finally:
            for keeper in kept[:1]:
                keeper.keep(_LAST_WORDS_S)
        doubt = self._track.doubt(cluster, handle.tag)
        if doubt:
            raise DriverUnavailable(f"resource {handle.tag}: {doubt}")
        if handle.data["owner"] != "":
            self._settled.add((cluster.where, handle.data["owner"]))

    def _let_go(self, handle: Handle) -> None:
        self._reach.close(handle.tag)
        self._fuses.let_go(handle.tag)
        self._track.let_go(handle.tag)

    def close(self) -> None:
        """Hear nothing any more, and remove the owner's fuse: whatever still hangs on it was to be ended, too."""
        self._track.close()
        for watch in self._watches.values():
            watch.close()
        self._reach.close_all()
        self._fuses.close()
        for place, owner in self._settled:
            # The estate of a dead owner, all of which was ended here: its fuse is not waited for.
            if owner == self._context.owner and not self._watches:
                with suppress(DriverUnavailable, Conflict):
                    self._fuses.clear(connect(place), owner)
