"""The spec of a pod: what may be said of one, and what is refused before anything is created."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fsdecode
from typing import Any, ClassVar, Literal

from tether.errors import SpecError, require_extra
from tether.fitting import check_fields
from tether.model import OnDeath, Ready
from tether.port import has_port
from tether.spec import SpecBase, checked_env, checked_words, redact

__all__ = ["Claim", "FromKey", "Pod", "PodRef"]

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_OBJECT = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_QUANTITY = re.compile(r"\d+(\.\d+)?([EPTGMk]i?|m|Ki)?")
_OURS = "tether.dev/"
_SHORTEST_LEASE_S = 3.0


@dataclass(frozen=True)
class Claim:
    """A volume claim that is made for the pod and goes with it.

    Attributes:
        size: like "10Gi".
        storage_class: None for the cluster's own choice.
        access: who may mount it at the same time.
    """

    size: str
    storage_class: str | None = None
    access: Literal["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"] = "ReadWriteOnce"

    def __post_init__(self) -> None:
        """Refuse what is of another type than its field."""
        check_fields(self)


@dataclass(frozen=True)
class FromKey:
    """The value of a variable that stands in the cluster already.

    Attributes:
        key: the key.
        secret: the name of the Secret that has it, or
        config_map: the name of the ConfigMap that has it.
    """

    key: str
    secret: str | None = None
    config_map: str | None = None

    def __post_init__(self) -> None:
        """Refuse what can't be right."""
        check_fields(self)
        if (self.secret is None) == (self.config_map is None):
            raise SpecError("FromKey takes either secret= or config_map=")


@dataclass(frozen=True, repr=False)
class Pod(SpecBase):
    """A pod to run, with the Secret, Service and claims that are made for it. It is never moved or run a second time.

    Args:
        image: the image.
        command: the arguments; by default the image's.
        name: unique among the live resources of its owner; by default made from the image's.
        entrypoint: instead of the image's.
        env: variables; values go into a Secret of its own, never into the ledger or the pod. `FromKey` refers to one that is there.
        workdir: the working directory; by default the image's.
        port: the port on which it listens, for ``url``.
        ports: more ports, to be said in the pod and its Service.
        service: make a Service of the pod's name, so that others in the cluster reach it.
        reach: how this process reaches its port: "forward" through the API server, "address" at the pod's own address, "dns" by
            its Service's name; "auto" is "address" inside the cluster, else "forward".
        mounts: what is seen at a path: None for an empty folder, the name of a claim that exists, a `Claim` that is made for it, or
            a volume source as in a manifest.
        cpus: what it needs and may use, for instance 1.5.
        memory: the same, like "2Gi".
        gpus: how many; ``gpu_resource`` says of which kind.
        gpu_resource: what the cluster calls a GPU.
        resources: as in a manifest, instead of the above.
        labels, annotations: of yours.
        service_account: whose token is mounted; by default none is.
        node_selector, tolerations, pull_secrets, priority_class: as in a manifest.
        user: the user id it runs as.
        security_context: of the container, as in a manifest.
        pull: "missing" fetches the image if the node has it not, "always" fetches it anew, "never" does not.
        raw: a fragment of a manifest that is merged in: mappings key by key, lists of named things by name (the container is called
            "main"), everything else replaces.
        namespace: by default the context's.
        context: of the kubeconfig; by default its current one.
        kubeconfig: by default ``KUBECONFIG``, else ~/.kube/config; inside a cluster, where there is neither, the pod's own account.
        lease: seconds that it lives on without word from its owner, where the cluster's fuse was proved.
        max_lifetime: seconds after which its node ends it, come what may; the only thing that ends one on a node that is cut off.
        run_within: without ``ready``, seconds within which it must run; with it, that has a limit of its own.
        ready: when it counts as ready; None for as soon as it runs. `healthy` waits for the pod's own readiness.
        stop_grace: seconds from the polite signal to the end by force; clusters count whole ones, at least 1.
        on_death: "kill" and "stop": ended by the owner's reaper, or by the cluster when the lease is over. "keep": for the next
            owner to adopt, ``keep_for`` seconds after the lease.
        keep_for, needs: as for `Process`.

    ``{port}`` in the command and in values of ``env`` is replaced by ``port``, else 8000.

    Raises:
        SpecError: something of it can't be right; nothing was created.
        DriverUnavailable: the extra is not installed.
    """

    image: str
    command: Sequence[str] = ()
    name: str | None = None
    entrypoint: Sequence[str] | None = None
    env: Mapping[str, str | FromKey | None] = field(default_factory=dict, repr=False)
    workdir: str | None = None
    port: int | None = None
    ports: Sequence[int] = ()
    service: bool = False
    reach: Literal["auto", "forward", "address", "dns"] = "auto"
    mounts: Mapping[str, str | Claim | Mapping[str, Any] | None] = field(default_factory=dict)
    cpus: float | None = None
    memory: str | int | None = None
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    resources: Mapping[str, Any] | None = None
    labels: Mapping[str, str] = field(default_factory=dict, repr=False)
    annotations: Mapping[str, str] = field(default_factory=dict, repr=False)
    service_account: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    pull_secrets: Sequence[str] = ()
    priority_class: str | None = None
    user: int | None = None
    security_context: Mapping[str, Any] | None = None
    pull: Literal["missing", "always", "never"] = "missing"
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)
    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | PathLike[str] | None = None
    lease: float = 60.0
    max_lifetime: float = 24 * 3600.0
    run_within: float = 300.0
    ready: Ready | None = None
    stop_grace: float = 10.0
    on_death: OnDeath | None = None
    keep_for: float = 3600.0
    needs: Sequence[str] | None = None
    kind: str = field(default="kubernetes", init=False)
    checked_apart: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Refuse what can't be right, before anything is created."""
        require_extra("lightkube", "kubernetes", "a Pod")
        if not isinstance(self.image, str) or not self.image or any(each.isspace() for each in self.image):
            raise SpecError(f"{self.image!r} is no name of an image")
        for each in ("command", "entrypoint"):
            object.__setattr__(self, each, checked_words(getattr(self, each), each))
        if self.kubeconfig is not None:
            object.__setattr__(self, "kubeconfig", fsdecode(self.kubeconfig))
        self._check_common()
        self._check_env()
        self._check_ports()
        self._check_mounts()
        self._check_limits()
        self._check_raw()

    def _check_env(self) -> None:
        refs = {key: value for key, value in self.env.items() if isinstance(value, FromKey)}
        values = checked_env({key: value for key, value in self.env.items() if key not in refs})
        for key in (*refs, *values):
            if not _VARIABLE.fullmatch(key):
                raise SpecError(
                    f"{key!r} can't be the name of a variable in a pod: use letters, digits, '.', '_' and '-'"
                )
        object.__setattr__(self, "env", {**values, **refs})

    def _check_ports(self) -> None:
        for port in (self.port, *self.ports):
            if port is not None and not (isinstance(port, int) and 0 < port < 65536):
                raise SpecError(f"{port!r} is no port")
        if self.ready is not None and (probe := self.ready.first_of("http", "tcp")) and not self.uses_port:
            raise SpecError(f"ready={probe}() needs a port to probe: give port=, or use {{port}} in command or env")
        if self.service and not (self.uses_port or self.ports):
            raise SpecError("service=True needs a port: give port=, ports=, or use {port} in command or env")
        if self.reach == "dns" and not self.service:
            raise SpecError("reach='dns' needs service=True: it is the Service that has a name")

    def _check_mounts(self) -> None:
        for path, source in self.mounts.items():
            if not isinstance(path, str) or not path.startswith("/") or ":" in path:
                raise SpecError(f"mounts takes absolute paths of the pod, not {path!r}")
            if isinstance(source, Claim):
                self._check_quantity("size", source.size)
            elif isinstance(source, str) and not _OBJECT.fullmatch(source):
                raise SpecError(f"{source!r} can't be mounted at {path}: it is no name of a volume claim")
            elif source is not None and not isinstance(source, str | Mapping):
                raise SpecError(
                    f"{source!r} can't be mounted at {path}: give None, a claim's name, a Claim or a volume source"
                )

    def _check_quantity(self, what: str, value: object) -> None:
        if not isinstance(value, int | float) and not (isinstance(value, str) and _QUANTITY.fullmatch(value)):
            raise SpecError(f"{what}={value!r} is no quantity; write for instance '500Mi' or '2Gi'")

    def _check_limits(self) -> None:
        for each, pattern in (("namespace", _LABEL), ("service_account", _OBJECT), ("priority_class", _OBJECT)):
            value = getattr(self, each)
            if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
                raise SpecError(f"{each}={value!r} can't be a name in a cluster")
        if self.memory is not None:
            self._check_quantity("memory", self.memory)
        if self.cpus is not None and not self.cpus > 0:
            raise SpecError(f"cpus={self.cpus!r} must be more than 0")
        if not (isinstance(self.gpus, int) and self.gpus >= 0):
            raise SpecError(f"gpus={self.gpus!r} must be a whole number")
        if not self.lease >= _SHORTEST_LEASE_S:
            raise SpecError(
                f"lease={self.lease!r} must be {_SHORTEST_LEASE_S:g} or more seconds: it is renewed three times in that time"
            )
        for each in ("max_lifetime", "run_within"):
            if not getattr(self, each) >= 1:
                raise SpecError(f"{each}={getattr(self, each)!r} must be 1 or more seconds")

    def _check_raw(self) -> None:
        meta, spec = self.raw.get("metadata") or {}, self.raw.get("spec") or {}
        if set(self.raw) - {"metadata", "spec"}:
            raise SpecError("raw= takes a fragment of a pod's manifest: 'metadata' and 'spec'")
        forbidden = {"name", "generateName", "namespace", "ownerReferences", "finalizers", "uid"} & set(meta)
        forbidden |= {"restartPolicy", "activeDeadlineSeconds", "terminationGracePeriodSeconds"} & set(spec)
        if forbidden:
            raise SpecError(f"raw= can't set {', '.join(sorted(forbidden))}: that is how tether finds and ends the pod")
        keys = [*self.labels, *self.annotations, *(meta.get("labels") or {}), *(meta.get("annotations") or {})]
        if any(key.startswith(_OURS) for key in keys):
            raise SpecError(f"labels and annotations that begin with '{_OURS}' are tether's own")

    @property
    def default_name(self) -> str:
        """The last part of the image's name."""
        return self.image.rpartition("/")[2].partition(":")[0].partition("@")[0]

    @property
    def uses_port(self) -> bool:
        """Whether it has a port that ``url`` points to."""
        values = (*self.command, *(value for value in self.env.values() if isinstance(value, str)))
        return self.port is not None or any(has_port(value) for value in values)

    @property
    def stays_up(self) -> bool:
        """Whether it is a server (it has a readiness probe or a port): to end by itself is then to fail."""
        return self.ready is not None or self.uses_port

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger: no values of the environment, and no arguments that look like secrets."""
        return {
            "image": self.image,
            "command": redact(list(self.command)),
            "env": sorted(self.env),
            "mounts": sorted(self.mounts),
            "service": self.service,
            "ready": None if self.ready is None else self.ready.kind,
            "lease": self.lease,
            "max_lifetime": self.max_lifetime,
            "stop_grace": self.stop_grace,
            "stays_up": self.stays_up,
        }


@dataclass(frozen=True, repr=False)
class PodRef(SpecBase):
    """A pod that is there already: watched and probed, and never ended.

    Args:
        ref: its name.
        name: what it is called here; by default its own name.
        port: a port of the pod, for ``url`` and the probe.
        container: whose log is read; by default the first.
        reach, namespace, context, kubeconfig: as for `Pod`.
        ready: when it counts as ready; None for as soon as it was seen to run.
        needs: as for `Process`.
    """

    ref: str
    name: str | None = None
    port: int | None = None
    container: str | None = None
    reach: Literal["auto", "forward", "address"] = "auto"
    namespace: str | None = None
    context: str | None = None
    kubeconfig: str | PathLike[str] | None = None
    ready: Ready | None = None
    needs: Sequence[str] | None = None
    on_death: OnDeath | None = field(default=None, init=False)
    keep_for: float = field(default=1.0, init=False)
    stop_grace: float = field(default=0.0, init=False)
    kind: str = field(default="kubernetes", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right."""
        require_extra("lightkube", "kubernetes", "a PodRef")
        if not isinstance(self.ref, str) or not _OBJECT.fullmatch(self.ref):
            raise SpecError(f"{self.ref!r} is no name of a pod")
        if self.name is None:
            object.__setattr__(self, "name", self.ref[:64])
        if self.kubeconfig is not None:
            object.__setattr__(self, "kubeconfig", fsdecode(self.kubeconfig))
        self._check_common()
        if self.ready is not None and (probe := self.ready.first_of("http", "tcp")) and self.port is None:
            raise SpecError(f"ready={probe}() needs port=, a port of the pod")

    @property
    def stays_up(self) -> bool:
        """It is somebody else's: that it stays up is expected."""
        return True

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger."""
        return {"ref": self.ref, "port": self.port, "stays_up": True}
