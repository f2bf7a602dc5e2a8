"""What the documentation promises of pods when something dies: each row of its table of guarantees names its tests."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube.cluster import IMAGE, KubeCluster
from kube.pods import LOOP, OWNER, eventually, owner_apart, page, pod, told
from tether import Owner, State
from tether.drivers.kubernetes import Claim
from tether.errors import DriverUnavailable
from tether.ledger.store import Ledger

pytestmark = pytest.mark.usefixtures("nothing_of_it_left")

VOLUMES = "/api/v1/persistentvolumes"
MANY = 50
OWNERS = 10


def test_each_row_of_the_table_names_tests_that_exist() -> None:
    """And none says that it has none."""
    named = {
        node.name
        for path in [
            *Path(__file__).parent.glob("test_*.py"),
            Path(__file__).parents[2] / "src/tether/testing/contract.py",
        ]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    rows = re.findall(r"^\| (?!---|what happened)(.*) \|$", page(), re.MULTILINE)
    assert len(rows) >= 7
    for row in rows:
        tests = re.findall(r"`(test_\w+)`", row.split(" | ")[-1])
        assert tests, row
        assert set(tests) <= named, row


@pytest.fixture
def strangers(kube: KubeCluster) -> Iterator[list[str]]:
    """A pod and a Secret without a mark of tether's, and what they are called."""
    container = {"name": "m", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", LOOP]}
    made = {
        "pods": {"metadata": {"name": "stranger"}, "spec": {"containers": [container]}},
        "secrets": {"metadata": {"name": "stranger"}, "stringData": {"a": "b"}},
    }
    for kind, manifest in made.items():
        assert kube.ask("POST", f"/api/v1/namespaces/default/{kind}", json.dumps(manifest)) is not None
    yield list(made)
    for kind in made:
        kube.ask("DELETE", f"/api/v1/namespaces/default/{kind}/stranger?gracePeriodSeconds=1")
    eventually(lambda: not any(kube.exists(kind, "stranger") for kind in made))


@pytest.fixture
def volumes(kube: KubeCluster) -> Iterator[str]:
    """Volumes for claims; the name of their storage class."""
    names = [f"volume-{number}" for number in range(MANY)]
    for name in names:
        spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "by-hand"}
        manifest = {"metadata": {"name": name}, "spec": {**spec, "hostPath": {"path": "/tmp"}}}
        assert kube.ask("POST", VOLUMES, json.dumps(manifest)) is not None
    yield "by-hand"
    for name in names:
        kube.ask("DELETE", f"{VOLUMES}/{name}")


def test_many_pods_and_one_fuse(kube: KubeCluster, owner: Owner, volumes: str) -> None:
    """50 at once, with a Secret, a Service and a claim each: 200 objects hang on one Job, and cost one request a renewal."""
    specs = [
        pod(
            kube,
            f"many-{number}",
            env={"A": "b"},
            port=80,
            service=True,
            mounts={"/data": Claim("1Gi", volumes)},
            lease=30,
            run_within=400,
            stop_grace=1,
        )
        for number in range(MANY)
    ]
    started = owner.start_all(specs)
    assert len(kube.objects("tether.dev/resource")) == 4 * MANY
    eventually(lambda: started[0].details["lease"] == "fuse", 200.0)
    (fuse,) = [each.partition("/")[2] for each in kube.objects() if each.startswith("jobs/tether-fuse-")]
    renewal = ("patch", "jobs", fuse)
    before = len(kube.requests())
    eventually(lambda: kube.requests(before).count(renewal) >= 4, 200.0)
    asked = kube.requests(before)
    # The watch of the pods begins anew now and then, after a list; nothing else is asked for.
    assert {each for each in asked if each != renewal} <= {("list", "pods", ""), ("watch", "pods", "")}
    assert {resource.state.value for resource in started} == {"ready"}
    # One node ends so many one after the other, and is waited for while it answers.
    owner.shutdown()
    assert {resource.state.value for resource in started} == {"gone"}
    assert kube.objects("tether.dev/resource") == []


MANY_OWNERS = """
import subprocess, sys
owners = [
    subprocess.Popen([sys.executable, "-c", sys.argv[1], f"owner-{number}", f"{sys.argv[2]}/{number}", sys.argv[3]])
    for number in range(int(sys.argv[4]))
]
owners[0].wait()
"""


def test_the_cluster_alone_ends_what_many_left(kube: KubeCluster, tmp_path: Path, strangers: list[str]) -> None:
    """Ten owners, their reapers and all beside them die at once: ten fuses blow; who has no mark of tether's stays."""
    spec = pod(kube, "alone", env={"A": "b"}, port=80, service=True, lease=30, stop_grace=1, run_within=400)
    script = OWNER + "signal.pause()"
    command = [sys.executable, "-c", MANY_OWNERS, script, str(tmp_path), pickle.dumps(spec).hex(), str(OWNERS)]
    apart = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "timeout",
        "-s",
        "KILL",
        "600",
    ]
    with subprocess.Popen([*apart, *command], stdout=subprocess.PIPE, text=True) as process:
        try:
            tags = [told(process)[1] for _ in range(OWNERS)]
            fuses = [each for each in kube.objects() if each.startswith("jobs/tether-fuse-")]
            assert len(fuses) == OWNERS
            assert len(kube.objects("tether.dev/resource")) == 3 * OWNERS
        finally:
            process.kill()
    eventually(lambda: not kube.objects("tether.dev/resource"), 30 + 120.0)
    eventually(lambda: not any(kube.containers(tag) for tag in tags))
    assert all(kube.exists(kind, "stranger") for kind in strangers)
    # The next owner puts on record what it finds gone.
    with Owner("next", state_dir=tmp_path / "0"):
        eventually(lambda: all(is_settled(tmp_path / "0", tag) for tag in tags))


def test_the_controllers_are_down_too(kube: KubeCluster, tmp_path: Path) -> None:
    """Its node ends it by max_lifetime; what else there is goes when they are back."""
    spec = pod(kube, "uncontrolled", env={"A": "b"}, lease=10, max_lifetime=40, stop_grace=1)
    with owner_apart(spec, tmp_path / "state") as process:
        _, tag = told(process)
        with kube.without("kcm"):
            process.kill()
            assert kube.containers(tag)
            eventually(lambda: not kube.containers(tag), 120.0)
            assert len(kube.objects("tether.dev/resource")) == 2
        eventually(lambda: not kube.objects(), 120.0)


def test_a_node_dies(kube: KubeCluster, owner: Owner) -> None:
    """Its whole machine, at once: LOST and never GONE, also when asked to end; started again, it says that the pod has ended."""
    with kube.second_node() as node:
        where = {"kubernetes.io/hostname": f"n{node}"}
        on_it = owner.start(pod(kube, "dying", lease=120, node_selector=where, stop_grace=1))
        beside = owner.start(pod(kube, "beside", lease=120, node_selector={"kubernetes.io/hostname": "n1"}))
        assert on_it.details["node"] == f"n{node}"
        kube.kill_node(node)
        eventually(lambda: on_it.state is State.LOST)
        assert f"node n{node} does not answer" in on_it.reason
        with pytest.raises(DriverUnavailable, match="node"):
            on_it.stop()
        assert on_it.state in (State.LOST, State.STOPPING)
        assert beside.state is State.READY
        kube.start_node(node)
        on_it.wait(120)
        assert on_it.state.is_final
        assert kube.containers(on_it.id, node) == []
        beside.stop()
        assert beside.state.value == "gone"


def swept(*argv: str) -> None:
    """A sweep in a process of its own, twice should something have been busy."""
    eventually(
        lambda: subprocess.run([sys.executable, "-m", "tether", "reap", *argv], check=False).returncode == 0, 120.0
    )


def is_settled(state: Path, tag: str) -> bool:
    """Whether nothing is on record as live."""
    ledger = Ledger(state)
    try:
        return all(row.state.is_final for row in ledger.resources(ended=True) if row.id == tag)
    finally:
        ledger.close()


@pytest.mark.parametrize("point", ["stop.asked", "stop.ended", "destroy.asked"])
def test_an_owner_killed_while_ending_it(kube: KubeCluster, private_state: Path, point: str) -> None:
    """With all that is beside it: a sweep leaves nothing but, where all had ended before, a fuse with nothing on it, which blows."""
    environ = {**os.environ, "TETHER_FAULTS": f"{point}=kill"}
    spec = pod(kube, "ending", env={"A": "b"}, lease=100, stop_grace=1)
    end = "resource.kill()" if point.startswith("destroy") else "resource.stop()"
    with owner_apart(spec, private_state, end, environ) as process:
        _, tag = told(process)
        process.wait(120)
    swept()
    assert is_settled(private_state, tag)
    assert kube.objects("tether.dev/resource") == []
    assert kube.containers(tag) == []


ADOPTING = """
import signal, sys
from tether import Owner
owner = Owner("keeper", state_dir=sys.argv[1])
owner.adopt("kept")
"""


@pytest.mark.parametrize("point", ["adopt.taken", "adopt.met"])
def test_an_owner_killed_while_adopting_it(kube: KubeCluster, private_state: Path, point: str) -> None:
    """It may be adopted by the next, and else a sweep of what was kept leaves nothing."""
    spec = pod(kube, "kept", on_death="keep", keep_for=3600, lease=100, stop_grace=1)
    with owner_apart(spec, private_state, name="keeper") as process:
        _, tag = told(process)
    environ = {**os.environ, "TETHER_FAULTS": f"{point}=kill"}
    command = [sys.executable, "-c", ADOPTING, str(private_state)]
    assert subprocess.run(command, env=environ, check=False, timeout=120).returncode == -signal.SIGKILL
    swept("--all")
    assert is_settled(private_state, tag)
    assert kube.objects("tether.dev/resource") == []
    assert kube.containers(tag) == []


@pytest.mark.parametrize("point", ["sweep.claimed", "sweep.settled"])
def test_a_sweep_that_was_killed(kube: KubeCluster, private_state: Path, point: str) -> None:
    """The next one goes on: nothing is left."""
    spec = pod(kube, "swept", env={"A": "b"}, service=True, port=80, lease=100, stop_grace=1)
    with owner_apart(spec, private_state) as process:
        _, tag = told(process)
    environ = {**os.environ, "TETHER_FAULTS": f"{point}=kill"}
    command = [sys.executable, "-m", "tether", "reap"]
    assert subprocess.run(command, env=environ, check=False, timeout=120).returncode == -signal.SIGKILL
    swept()
    assert is_settled(private_state, tag)
    assert kube.objects("tether.dev/resource") == []
    assert kube.containers(tag) == []
