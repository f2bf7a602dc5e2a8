"""How a pod is reached from here: its port, its own address or its Service's name; what it uses; whether its cluster answers."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tether.drivers.kubernetes.client import POD, Cluster, connect
from tether.drivers.kubernetes.forward import Forward, refusal
from tether.drivers.kubernetes.fuses import Fuses
from tether.drivers.kubernetes.where import Where, find
from tether.errors import DriverUnavailable, Gone, SpecError
from tether.life.probes import Target
from tether.model import Finding, Handle, Usage

__all__ = ["Reach", "chosen", "finding", "inside", "usage"]

_UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def chosen(asked: str, where: Where) -> str:
    """Return how a pod's port is reached: by its address inside the cluster, else through the API server."""
    if asked != "auto":
        return asked
    return "address" if where.kubeconfig is None else "forward"


class Reach:
    """The ways to the pods of one process; those that are forwarded end with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forwards: dict[str, Forward] = {}
        self._addresses: dict[str, str] = {}

    def open(self, handle: Handle, cluster: Cluster) -> None:
        """Open a way to a pod's port, if it has one and needs one."""
        if handle.data["port"] is None or handle.data["reach"] != "forward":
            return
        with self._lock:
            old = self._forwards.pop(handle.tag, None)
            self._forwards[handle.tag] = Forward(cluster, handle.data["pod"], handle.data["port"])
        if old is not None:
            old.close()

    def close(self, tag: str) -> None:
        """Close it."""
        with self._lock:
            forward = self._forwards.pop(tag, None)
        if forward is not None:
            forward.close()

    def close_all(self) -> None:
        """Close all."""
        for tag in list(self._forwards):
            self.close(tag)

    def _place(self, handle: Handle) -> tuple[str, int] | None:
        """Where its port is reached; None if it has none, or nowhere yet."""
        port, how = handle.data["port"], handle.data["reach"]
        if port is None:
            return None
        if how == "dns":
            return f"{handle.data['service']}.{handle.data['where']['namespace']}.svc", port
        if how == "address":
            address = self._addresses.get(handle.tag) or _address(handle)
            if address:
                self._addresses[handle.tag] = address
            return (address, port) if address else None
        forward = self._forwards.get(handle.tag)
        return None if forward is None else ("127.0.0.1", forward.port)

    def url(self, handle: Handle) -> str | None:
        """Return where its port is reached from here; None if it has none."""
        place = self._place(handle) if handle.data["reach"] != "address" or handle.tag in self._addresses else None
        return None if place is None else f"http://{place[0]}:{place[1]}"

    def target(
        self, handle: Handle, missing: Callable[[], str], log: Callable[[], bytes], health: Callable[[], str]
    ) -> Target:
        """Return what is probed; where it is not known yet, nothing is there to be probed either."""
        place = self._place(handle) or ("127.0.0.1", None)
        return Target(host=place[0], port=place[1], missing=missing, log=log, health=health)

    def refusal(self, handle: Handle, pod: Mapping[str, Any]) -> str:
        """Say why nobody answers at its port, where the way to it accepts what nobody answers; empty if that can't be told."""
        if handle.data["reach"] == "forward" and handle.data["probe"] == "tcp":
            return refusal(connect(Where.recorded(handle.data["where"])), pod["metadata"]["name"], handle.data["port"])
        return ""


def _address(handle: Handle) -> str:
    pod = connect(Where.recorded(handle.data["where"])).get(POD, handle.data["pod"]) or {}
    address = str((pod.get("status") or {}).get("podIP") or "")
    return f"[{address}]" if ":" in address else address


def inside(handle: Handle, argv: Sequence[str], *more: str) -> list[str]:
    """Return the command that runs ``argv`` in a pod's container, with more options. Raises SpecError where there is no kubectl."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise SpecError(
            f"a command in pod {handle.data['pod']} is run by kubectl, which is not on the PATH; install it"
        )
    where = handle.data["where"]
    cluster = (
        [] if where["kubeconfig"] is None else ["--kubeconfig", where["kubeconfig"], "--context", where["context"]]
    )
    container = [] if handle.data["container"] is None else ["-c", handle.data["container"]]
    return [
        kubectl,
        *cluster,
        "-n",
        where["namespace"],
        "exec",
        "-i",
        *more,
        handle.data["pod"],
        *container,
        "--",
        *argv,
    ]


def usage(cluster: Cluster, pod: str) -> Usage:
    """Ask the metrics API, which a cluster may have or not."""
    path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{cluster.where.namespace}/pods/{pod}"
    try:
        containers = cluster.ask("GET", path)["containers"]
        return Usage(memory_bytes=int(sum(_bytes(each["usage"]["memory"]) for each in containers)))
    except (DriverUnavailable, Gone, KeyError, TypeError, ValueError):
        return Usage()


def _bytes(quantity: str) -> float:
    number = quantity.rstrip("KMGTiknum")
    unit = quantity[len(number) :]
    return float(number) * (_BINARY.get(unit) or _UNITS[unit])


def finding(fuses: Fuses) -> Finding:
    """Look for the extra, and ask the cluster in use here for its version."""
    try:
        where = find(None, None, None)
        version = connect(where).ask("GET", "/version")["gitVersion"]
    except (DriverUnavailable, Gone, KeyError, TypeError) as error:
        return Finding("kubernetes", False, str(error).partition(";")[0], "pods can't be started here")
    proof = fuses.proof(where)
    follows = (
        "pods end with their owner, whatever happens to its machine" if proof == "proved" else f"the fuse is {proof}"
    )
    return Finding("kubernetes", True, f"{where}, {version}, namespace {where.namespace}", follows)
