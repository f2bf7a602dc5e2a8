"""What dead owners left in a cluster, of which no ledger knows any more: ended by its marks, and never what may live."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commandline import table, tether
from kube.cluster import IMAGE, KubeCluster
from kube.pods import documented_rules, eventually, owner_apart, pod, seen, told
from tether import Owner, State
from tether.drivers.kubernetes import orphans

pytestmark = pytest.mark.usefixtures("nothing_of_it_left")

PODS = "/api/v1/namespaces/default/pods"

LEAVING = """
import os, pickle, signal, sys
from tether import Owner
owner = Owner("leaving", state_dir=sys.argv[1])
for spec in pickle.loads(bytes.fromhex(sys.argv[2])):
    print(owner.start(spec).details["pod"], flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def kubeconfig(kube: KubeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """As most users have it: the cluster is found by KUBECONFIG."""
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))


@pytest.fixture
def left(kube: KubeCluster, tmp_path: Path) -> Iterator[list[str]]:
    """What an owner left: it died, and what watched over its estate finds no ledger; the fuses burn on. The names of its pods."""
    import pickle

    folder = tmp_path / "leaving"
    specs = [
        pod(kube, "one", env={"A": "b"}, service=True, port=80, lease=3600),
        pod(kube, "kept", on_death="keep", keep_for=3600, lease=3600),
    ]
    command = [sys.executable, "-c", LEAVING, str(folder), pickle.dumps(specs).hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        names = [process.stdout.readline().strip() for _ in specs]
        shutil.rmtree(folder)
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(60) == -signal.SIGKILL
    yield names
    for each in kube.objects():
        kind, _, name = each.partition("/")
        group = "apis/batch/v1" if kind == "jobs" else "api/v1"
        kube.ask("DELETE", f"/{group}/namespaces/default/{kind}/{name}?propagationPolicy=Background")


def test_what_a_dead_owner_left_is_ended(kube: KubeCluster, left: list[str]) -> None:
    """A dry run says so and changes nothing; then pods, Secret, Service and fuses go; what a living owner has stays, and a copy's."""
    copy = kube.ask("GET", f"{PODS}/{left[0]}")
    meta = {"name": "copied", "labels": copy["metadata"]["labels"], "annotations": copy["metadata"]["annotations"]}
    container = {"name": "m", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sleep", "100"]}
    body = json.dumps({"metadata": meta, "spec": {"containers": [container]}})
    with Owner("living") as owner:
        mine = owner.start(pod(kube, "mine", env={"A": "b"}, lease=120))
        # What a user cloned has the marks of the dead one, and a name of its own.
        assert kube.ask("POST", PODS, body) is not None
        # Not what proves a fuse, which comes and goes meanwhile.
        everything = set(kube.objects("tether.dev/resource"))
        would = table("reap", "--context", "--dry-run")
        assert set(kube.objects("tether.dev/resource")) == everything
        assert sorted(each["what"] for each in would) == ["left alone", "left alone", *["would end"] * 3]
        came = {each["name"]: each for each in table("reap", "--context", "x")}
        assert {came[name]["what"] for name in left} == {"ended"}
        assert all("its owner is dead, and its ledger has gone" in came[name]["detail"] for name in left)
        alone = [each["detail"] for each in came.values() if each["what"] == "left alone"]
        assert len(alone) == 2
        assert all("for its ledger to say" in each for each in alone)
        assert mine.state is State.READY
        assert seen(kube, mine)
        assert kube.exists("pods", "copied")
        kube.ask("DELETE", f"{PODS}/copied?gracePeriodSeconds=1")
    eventually(lambda: not kube.objects())
    assert "nothing of tether's in this cluster" in tether("reap", "--context")


def test_with_no_more_than_the_documented_role(
    kube: KubeCluster, left: list[str], as_account: Callable[[list[dict[str, Any]]], Path]
) -> None:
    """Its namespace is looked at. Without the right to see fuses, one that may have been adopted is left alone, and that is said."""
    less = [each for each in documented_rules() if "jobs" not in each["resources"]]
    config = str(as_account(less))
    came = {each.name: each for each in orphans.reap(kubeconfig=config, dry_run=True)}
    assert (came[left[0]].what, came[left[1]].what, came["jobs"].what) == ("would end", "left alone", "failed")
    assert "somebody has adopted it" in came[left[1]].detail
    came = {each.name: each for each in orphans.reap(kubeconfig=config)}
    assert came[left[0]].what == "ended"
    assert kube.exists("pods", left[1])


def test_one_that_was_adopted_is_its_new_owners(
    kube: KubeCluster, private_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pod names a dead owner, and its fuse the one who adopted it: without any ledger it is left alone."""
    spec = pod(kube, "kept", on_death="keep", keep_for=60, lease=60)
    with owner_apart(spec, private_state, name="keeper") as process:
        name, _ = told(process)
    monkeypatch.setattr("tether.ledger.orphans._LEDGER", "gone.db")
    # Who died in a pid namespace of its own may live, for all that can be seen from here.
    marks = kube.ask("GET", f"{PODS}/{name}")["metadata"]["annotations"]
    namespace: int = json.loads(marks["tether.dev/identity"])["namespace"]
    monkeypatch.setattr("tether.ledger.orphans._pid_namespace", lambda: namespace)
    (dead,) = (each for each in orphans.reap(dry_run=True) if each.name == name)
    assert dead.what == "would end"
    with Owner("keeper") as owner:
        kept = owner.adopt("kept")
        (came,) = (each for each in orphans.reap() if each.name == name)
        assert came.what == "left alone"
        assert f"pid {os.getpid()}, lives" in came.detail
        assert seen(kube, kept)
        kept.stop()


def test_what_the_command_line_refuses(kube: KubeCluster) -> None:
    """Options that would end what may live; two places at once; a context that is not there is said."""
    assert "--all and --force are not for them" in tether("reap", "--context", "--force", code=2)
    assert "one at a time" in tether("reap", "--context", "--engine", code=2)
    assert "no cluster can be found" in tether("reap", "--context", "nobody", code=1)
