"""A real Kubernetes cluster of the tests' own: built once from Debian's source, started in namespaces of its own."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IMAGE = "tk/box:1"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
NEEDED = (
    "etcd",
    "dockerd",
    "socat",
    "conntrack",
    "busybox",
    "iptables",
    "ip",
    "unshare",
    "setpriv",
    "openssl",
    "gcc",
    "curl",
)
NEEDED_TO_BUILD = ("rsync", "dpkg-source")
_HOST = "10.77.0.1"
_UP_S = 400.0


def why_not() -> str:
    """Return why no cluster can be built or started here; empty if one can."""
    if os.getuid() != 0:
        return "only root can start a Kubernetes cluster"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [program for program in NEEDED if shutil.which(program, path=path) is None]
    if not is_built():
        missing += [program for program in NEEDED_TO_BUILD if shutil.which(program, path=path) is None]
        if not Path("/usr/lib/go-1.19/bin/go").exists():
            missing.append("go 1.19")
        if not Path("/usr/share/gocode/src/github.com/modern-go/reflect2").exists():
            missing.append("reflect2's source")
        if not _version():
            missing.append("Debian's source of kubernetes")
    return f"no {', '.join(missing)} on this machine" if missing else ""


@cache
def _version() -> str:
    """The version of Kubernetes that Debian has."""
    if shutil.which("apt-cache") is None:
        return ""
    shown = subprocess.run(
        ["apt-cache", "policy", "kubernetes-client"], capture_output=True, text=True, check=False
    ).stdout
    candidate = next((line.split()[-1] for line in shown.splitlines() if "Candidate:" in line), "")
    return "" if candidate == "(none)" else candidate


def _cache() -> Path:
    """Where the programs of this version and this script are kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    script = hashlib.sha256((HERE / "build.sh").read_bytes()).hexdigest()[:12]
    return base / "tether-tests" / f"kubernetes-{_version()}-{script}"


def is_built() -> bool:
    """Whether the programs are there already."""
    return all((_cache() / program).exists() for program in PROGRAMS)


def build() -> Path:
    """Return the folder with the programs; builds them if nobody has yet, which takes about 11 minutes of one core."""
    folder = _cache()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_built():
            with tempfile.TemporaryDirectory(prefix="tether-kube-build-") as work, (folder / "log").open("w") as log:
                subprocess.run([HERE / "build.sh", work, folder], stdout=log, stderr=log, check=True)
    return folder


class KubeCluster:
    """One running cluster.

    Args:
        programs: the folder with its programs.
        state: where it keeps everything.
        nodes: how many.

    Attributes:
        kubeconfig: of its administrator.
    """

    def __init__(self, programs: Path, state: Path, nodes: int = 1) -> None:
        self._programs = programs
        self._state = state
        self._nodes = nodes
        self.kubeconfig = state / "admin.conf"

    def _script(self, *words: object) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TETHER_")}
        environ["PATH"] = f"{environ.get('PATH', '')}:/usr/sbin:/sbin"
        log = (self._state / "script.log").open("a")
        with log:
            subprocess.run([HERE / "cluster.sh", *map(str, words)], stdout=log, stderr=log, check=True, env=environ)

    def up(self) -> None:
        """Start it, and return when its nodes are ready."""
        self._script("up", self._programs, self._state, self._nodes)
        deadline = time.monotonic() + _UP_S
        while len(self.ready_nodes()) < self._nodes or not self.exists("serviceaccounts", "default"):
            assert time.monotonic() < deadline, f"the cluster did not come up; see the logs in {self._state}"
            time.sleep(0.2)

    def down(self) -> None:
        """End it, and everything in it."""
        self._script("down", self._state)

    # -- what is there, as the administrator sees it -------------------------------------------------------------------

    def ask(self, method: str, path: str, body: str = "", kind: str = "application/json") -> Any:
        """Ask its API from within its own namespace, by other means than tether's; None for what is not there."""
        import json

        command = [
            "ip",
            "netns",
            "exec",
            "tkcp",
            "curl",
            "-sk",
            "-m",
            "20",
            "-X",
            method,
            "-H",
            "Authorization: Bearer admin-token",
        ]
        command += ["-H", f"Content-Type: {kind}", *(["-d", body] if body else []), f"https://10.77.0.10:6443{path}"]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        try:
            answer = json.loads(said)
        except ValueError:
            return None
        return None if answer.get("kind") == "Status" and answer.get("code", 0) >= 400 else answer

    def exists(self, kind: str, name: str, namespace: str = "default") -> bool:
        """Whether there is such an object."""
        return self.ask("GET", f"/api/v1/namespaces/{namespace}/{kind}/{name}") is not None

    def ready_nodes(self) -> list[str]:
        """The names of the nodes that are ready."""
        answer = self.ask("GET", "/api/v1/nodes") or {}
        return [
            node["metadata"]["name"]
            for node in answer.get("items", [])
            if any(
                each["type"] == "Ready" and each["status"] == "True" for each in node["status"].get("conditions", [])
            )
        ]

    def objects(self, label: str = "tether.dev/owner", namespace: str = "default") -> list[str]:
        """Return everything that carries a mark of tether, in a namespace; with "tether.dev/resource", no owner's fuse."""
        kinds = ("pods", "services", "secrets", "persistentvolumeclaims")
        found = []
        for path in [
            *(f"api/v1/namespaces/{namespace}/{kind}" for kind in kinds),
            f"apis/batch/v1/namespaces/{namespace}/jobs",
        ]:
            answer = self.ask("GET", f"/{path}?labelSelector={label}") or {}
            found += [f"{path.rpartition('/')[2]}/{item['metadata']['name']}" for item in answer.get("items", [])]
        return found

    def containers(self, pattern: str, node: int = 1) -> list[str]:
        """The running containers of a node whose name has ``pattern`` in it, as its own engine says; never a pod's pause."""
        socket = f"unix://{self._state}/n{node}/docker.sock"
        said = subprocess.run(
            ["docker", "-H", socket, "ps", "--format", "{{.Names}}"], capture_output=True, text=True, check=False
        ).stdout
        return [
            name for name in said.split() if pattern in name and "_POD_" not in name and not name.startswith("k8s_POD")
        ]

    def requests(self, seen: int = 0) -> list[tuple[str, str, str]]:
        """What tether asked for, as the API server's audit says: verb, kind and name, in order, after so many that were seen."""
        import json

        lines = (self._state / "audit.log").read_text().splitlines()
        events = [json.loads(line) for line in lines if line.endswith("}")]
        asked = [each for each in events if not each["userAgent"].startswith("curl") and "objectRef" in each]
        # A watch is said when it begins and when it ends.
        once = [each for each in asked if each["stage"] == "ResponseComplete"]
        return [
            (each["verb"], each["objectRef"]["resource"], each["objectRef"].get("name", "")) for each in once[seen:]
        ]

    # -- faults --------------------------------------------------------------------------------------------------------

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Its API server refuses connections of this machine for the time of a block, and resets those that are open."""
        rule = ["INPUT", "-s", _HOST, "-p", "tcp", "--dport", "6443", "-j", "REJECT", "--reject-with", "tcp-reset"]
        inside = ["ip", "netns", "exec", "tkcp", "iptables"]
        subprocess.run([*inside, "-I", *rule], check=True)
        try:
            yield
        finally:
            subprocess.run([*inside, "-D", *rule], check=True)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Nothing gets through between this machine and the cluster, and nobody says so: connections are half open."""
        subprocess.run(["ip", "-n", "tkcp", "link", "set", "vhost", "down"], check=True)
        try:
            yield
        finally:
            subprocess.run(["ip", "-n", "tkcp", "link", "set", "vhost", "up"], check=True)

    @contextmanager
    def node_cut(self, node: int = 1) -> Iterator[None]:
        """A node is cut off from everything."""
        subprocess.run(["ip", "-n", f"tkn{node}", "link", "set", "eth0", "down"], check=True)
        try:
            yield
        finally:
            subprocess.run(["ip", "-n", f"tkn{node}", "link", "set", "eth0", "up"], check=True)
            subprocess.run(["ip", "-n", f"tkn{node}", "route", "replace", "default", "via", _HOST], check=True)

    @contextmanager
    def without(self, program: str) -> Iterator[None]:
        """A program of the control plane is killed, and started again: apiserver, kcm or sched."""
        pid = (self._state / f"{program}.pid").read_text().strip()
        subprocess.run(["kill", "-9", pid], check=True)
        try:
            yield
        finally:
            self._script("program", program, self._state)
            deadline = time.monotonic() + _UP_S
            while self.ask("GET", "/api/v1/nodes") is None:
                assert time.monotonic() < deadline
                time.sleep(0.2)

    def start_node(self, node: int) -> None:
        """Start one more node, or one that has died, and return when it is ready."""
        self._script("node", node, self._state)
        deadline = time.monotonic() + _UP_S
        while f"n{node}" not in self.ready_nodes():
            assert time.monotonic() < deadline, f"node {node} did not come up; see the logs in {self._state}"
            time.sleep(0.2)

    def kill_node(self, node: int) -> None:
        """The whole machine of a node dies."""
        subprocess.run(["kill", "-9", (self._state / f"node{node}.pid").read_text().strip()], check=True)

    @contextmanager
    def second_node(self) -> Iterator[int]:
        """One more node for the time of a block; it may die meanwhile."""
        self.start_node(2)
        try:
            yield 2
        finally:
            subprocess.run(["kill", "-9", (self._state / "node2.pid").read_text().strip()], check=False)
            self.ask("DELETE", "/api/v1/nodes/n2")


@contextmanager
def running(nodes: int = 1) -> Iterator[KubeCluster]:
    """Start a cluster; at the end nothing of it is left. One at a time on a machine: its namespaces have fixed names."""
    programs = build()
    with (
        Path("/run/lock/tether-test-kube").open("w") as lock,
        tempfile.TemporaryDirectory(prefix="tether-kube-", ignore_cleanup_errors=True) as folder,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        cluster = KubeCluster(programs, Path(folder), nodes)
        # What a run that was killed left behind.
        cluster.down()
        try:
            cluster.up()
            yield cluster
        finally:
            cluster.down()
