"""What becomes of pods, in a real cluster."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

import support
from kube.cluster import IMAGE, KubeCluster
from tether import NotFound, Owner, Pod, PodRef, StartError, State, healthy, http, tcp
from tether.drivers.kubernetes import Claim
from tether.drivers.kubernetes import watch as watching
from tether.errors import Gone

LOOP = 'trap "echo bye; exit 0" TERM; echo up; while :; do sleep 0.1; done'
SERVE = f"mkdir -p /tmp/w; echo body > /tmp/w/index.html; httpd -p {{port}} -h /tmp/w; {LOOP}"


def pod(kube: KubeCluster, name: str, script: str = LOOP, **more: Any) -> Pod:
    """A shell script in a pod."""
    given = {"kubeconfig": kube.kubeconfig, "pull": "never", "lease": 20, **more}
    return Pod(IMAGE, ["sh", "-c", script], name=name, **given)


def seen(kube: KubeCluster, resource: Any) -> dict[str, Any]:
    """A resource's pod, as its administrator sees it; empty if there is none."""
    return kube.ask("GET", f"/api/v1/namespaces/default/pods/{resource.details['pod']}") or {}


@pytest.fixture(autouse=True)
def nothing_of_it_left(kube: KubeCluster) -> Iterator[None]:
    """In the end nothing carries a mark of tether, fuses included."""
    yield
    support.eventually(lambda: not kube.objects(), 40.0, f"left in the cluster: {kube.objects()}")


def test_a_server_and_where_its_secret_stands(kube: KubeCluster, owner: Owner, private_state: Path) -> None:
    """It answers at its url; the value of a variable is in its Secret and nowhere else; nothing stays, but its last words."""
    spec = pod(
        kube,
        "web",
        f'echo "token $TOKEN"; {SERVE}',
        env={"TOKEN": "swordfish"},
        service=True,
        ready=http("/index.html"),
    )
    web = owner.start(spec)
    with urlopen(f"{web.url}/index.html", timeout=10) as answer:
        assert answer.read() == b"body\n"
    assert "token swordfish" in web.logs()
    shown = json.dumps(seen(kube, web)) + json.dumps(web.info()) + json.dumps(owner.status())
    recorded = b"".join(
        path.read_bytes() for path in private_state.rglob("*") if path.is_file() and path.suffix != ".log"
    )
    assert "swordfish" not in shown
    assert b"swordfish" not in recorded
    assert kube.exists("services", web.details["service"].partition(".")[0])
    assert seen(kube, web)["metadata"]["ownerReferences"][0]["name"].startswith("tether-fuse-")
    web.stop()
    assert web.state is State.GONE
    assert web.logs().endswith("bye\n")
    assert kube.objects("tether.dev/resource") == []


def test_ends_by_itself(kube: KubeCluster, owner: Owner) -> None:
    """A command that ends with 0 is done, one that ends otherwise has failed, with its exit code; dollars reach it as they are."""
    good = owner.start(pod(kube, "good", "A='$(HOME)'; echo $$ is not 1$$; sleep 1"))
    bad = owner.start(pod(kube, "bad", "sleep 1; exit 7"))
    assert good.wait(30) == 0
    assert bad.wait(30) == 7
    assert (good.state, bad.state) == (State.GONE, State.FAILED)
    assert good.logs() == "1 is not 11\n"
    assert "7" in bad.reason
    assert kube.objects("tether.dev/resource") == []


def test_what_will_not_start_is_said_early(kube: KubeCluster, owner: Owner) -> None:
    """A missing image, and a pod that no node takes: why, long before any limit, and nothing stays."""
    said: list[str] = []
    with pytest.raises(StartError, match="ErrImageNeverPull"):
        owner.start(
            Pod("nobody/has:1", kubeconfig=kube.kubeconfig, pull="never", ready=healthy(timeout=100)),
            on_progress=said.append,
        )
    with pytest.raises(StartError, match=r"no node takes it .*Insufficient memory"):
        owner.start(pod(kube, "big", memory="900Gi", run_within=4), on_progress=said.append)
    assert any("Insufficient memory" in line for line in said)
    support.eventually(lambda: not kube.objects("tether.dev/resource"), 30.0)


def test_somebody_else_removes_it(kube: KubeCluster, owner: Owner) -> None:
    """Politely: it has failed, and its Secret goes too. By force, while it runs: LOST, until its node was heard of again."""
    polite = owner.start(pod(kube, "polite", env={"A": "b"}))
    forced = owner.start(pod(kube, "forced"))
    kube.ask("DELETE", f"/api/v1/namespaces/default/pods/{forced.details['pod']}?gracePeriodSeconds=0")
    kube.ask("DELETE", f"/api/v1/namespaces/default/pods/{polite.details['pod']}")
    support.eventually(lambda: forced.state is State.LOST, 10.0)
    assert "by force" in forced.reason
    support.eventually(lambda: polite.state is State.FAILED, 30.0)
    support.eventually(lambda: forced.state is State.FAILED, 45.0)
    assert kube.containers(forced.id) == []
    assert kube.objects("tether.dev/resource") == []


@pytest.fixture
def strangers(kube: KubeCluster) -> Iterator[tuple[str, str]]:
    """The names of two pods that a test may make."""
    names = ("copied", "other")
    yield names
    for name in names:
        kube.ask("DELETE", f"/api/v1/namespaces/default/pods/{name}?gracePeriodSeconds=1")
    support.eventually(lambda: not any(kube.exists("pods", name) for name in names), 30.0)


def test_a_copied_label_is_not_enough(kube: KubeCluster, owner: Owner, strangers: tuple[str, str]) -> None:
    """A pod of somebody else that carries the tag as a label, and one without, survive; a pod attached to is let go of."""
    mine = owner.start(pod(kube, "mine"))
    for name, labels in (("copied", {"tether.dev/resource": mine.id}), ("other", {})):
        container = {"name": "m", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", LOOP]}
        manifest = {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [container]}}
        assert kube.ask("POST", "/api/v1/namespaces/default/pods", json.dumps(manifest)) is not None
    others = "/api/v1/namespaces/default/pods/other"
    support.eventually(lambda: kube.ask("GET", others)["status"].get("phase") == "Running", 20.0)
    other = owner.start(PodRef("other", kubeconfig=kube.kubeconfig))
    assert other.state is State.READY
    assert "up" in other.logs()
    mine.kill()
    other.stop()
    assert mine.state is State.GONE
    assert kube.exists("pods", "copied")
    assert kube.exists("pods", "other")
    with pytest.raises(StartError, match="no pod of that name"):
        owner.start(PodRef("nobody", kubeconfig=kube.kubeconfig))


def test_a_claim_of_its_own(kube: KubeCluster, owner: Owner, tmp_path: Path) -> None:
    """It is bound, mounted, and removed with the pod."""
    volume = {
        "metadata": {"name": "volume"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/tmp"},
            "storageClassName": "by-hand",
        },
    }
    assert kube.ask("POST", "/api/v1/persistentvolumes", json.dumps(volume)) is not None
    with owner.start(
        pod(kube, "data", f"echo x > /data/tether-test; {LOOP}", mounts={"/data": Claim("1Gi", "by-hand")})
    ) as data:
        assert any(each.startswith("persistentvolumeclaims/") for each in kube.objects())
    assert data.state is State.GONE
    assert kube.objects("tether.dev/resource") == []
    kube.ask("DELETE", "/api/v1/persistentvolumes/volume")


def test_many_hang_on_one_fuse(kube: KubeCluster, owner: Owner) -> None:
    """Started side by side they have one Job between them, which is renewed, and gone with the owner."""
    import threading

    threads = [
        threading.Thread(target=owner.start, args=(pod(kube, f"many-{number}", lease=6),)) for number in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(owner.resources) == 6
    fuses = [each for each in kube.objects() if each.startswith("jobs/tether-fuse-")]
    assert len(fuses) == 1
    time.sleep(9.0)  # half as long again as the lease
    assert all(resource.state is State.READY for resource in owner.resources)
    assert [each for each in kube.objects() if each.startswith("jobs/tether-fuse-")] == fuses
    # By now the proof is through, and is said.
    support.eventually(lambda: owner.resources[0].details["lease"] == "fuse", 40.0)
    owner.shutdown()
    assert kube.objects("tether.dev/resource") == []


ALONE = """
import pickle, signal, sys
from tether import Owner
owner = Owner("alone", state_dir=sys.argv[1])
resource = owner.start(pickle.loads(bytes.fromhex(sys.argv[2])))
print(resource.details["pod"], resource.id, flush=True)
signal.pause()
"""


def test_the_cluster_alone_ends_it(kube: KubeCluster, tmp_path: Path) -> None:
    """Owner, reaper and everything beside them die at once, with their whole pid namespace: the fuse blows, and all is collected."""
    import pickle

    spec = pod(kube, "alone", SERVE, env={"A": "b"}, service=True, lease=6, stop_grace=1)
    command = [sys.executable, "-c", ALONE, str(tmp_path / "state"), pickle.dumps(spec).hex()]
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        name, tag = process.stdout.readline().split()
        assert len(kube.objects("tether.dev/resource")) == 3
        process.kill()
        begun = time.monotonic()
    support.eventually(lambda: not kube.objects("tether.dev/resource"), 6 + 20.0)
    took = time.monotonic() - begun
    assert took > 2.0, "something other than the fuse ended it"
    support.eventually(lambda: not kube.containers(name), 5.0)
    # What is created late, in the name of an owner that has gone, goes at once.
    with Owner("next", state_dir=tmp_path / "state") as owner:
        support.eventually(lambda: _is_settled(tmp_path / "state", tag), 20.0)
        with pytest.raises(NotFound):
            owner.adopt("alone")


def _is_settled(state: Path, tag: str) -> bool:
    from tether.ledger.store import Ledger

    ledger = Ledger(state)
    try:
        return all(row.state.is_final for row in ledger.resources(ended=True) if row.id == tag)
    finally:
        ledger.close()


KEEPING = ALONE.replace('"alone"', '"keeper"')


def test_adoption(kube: KubeCluster, private_state: Path) -> None:
    """The next owner takes the pod over, and its fuse under a newer fence; then it ends as any other."""
    import pickle

    spec = pod(kube, "kept", SERVE, on_death="keep", keep_for=60, lease=6, ready=tcp())
    command = [sys.executable, "-c", KEEPING, str(private_state), pickle.dumps(spec).hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        _, tag = process.stdout.readline().split()
        process.send_signal(signal.SIGKILL)
    with Owner("keeper") as owner:
        kept = owner.adopt("kept")
        assert (kept.id, kept.state) == (tag, State.READY)
        with urlopen(f"{kept.url}/index.html", timeout=10) as answer:
            assert answer.read() == b"body\n"
        fuse = kube.ask("GET", f"/apis/batch/v1/namespaces/default/jobs/tether-fuse-{tag}")
        assert fuse["metadata"]["annotations"]["tether.dev/fence"] == "2"
        kept.stop()
        assert kept.state is State.GONE
    assert kube.objects() == []


def _rules() -> list[dict[str, Any]]:
    """The rules that the documentation gives."""
    page = (Path(__file__).parents[2] / "docs/kubernetes.md").read_text()
    block = re.search(r"^```yaml role\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert block is not None
    import yaml  # type: ignore[import-untyped]

    return list(yaml.safe_load(block.group(1))["rules"])


@pytest.fixture
def as_account(kube: KubeCluster) -> Iterator[Any]:
    """Give the account `tether` some rules, and return its kubeconfig."""
    base = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"

    def give(rules: list[dict[str, Any]]) -> Path:
        role = {"metadata": {"name": "tether"}, "rules": rules}
        assert kube.ask("POST", f"{base}/roles", json.dumps(role)) is not None
        binding = {
            "metadata": {"name": "tether"},
            "subjects": [{"kind": "User", "name": "tether", "apiGroup": "rbac.authorization.k8s.io"}],
            "roleRef": {"kind": "Role", "name": "tether", "apiGroup": "rbac.authorization.k8s.io"},
        }
        assert kube.ask("POST", f"{base}/rolebindings", json.dumps(binding)) is not None
        time.sleep(0.5)  # the authorizer reads it from a cache
        return kube.kubeconfig.with_name("tether.conf")

    yield give
    kube.ask("DELETE", f"{base}/rolebindings/tether")
    kube.ask("DELETE", f"{base}/roles/tether")


def test_the_documented_role_is_enough(kube: KubeCluster, as_account: Any, owner: Owner) -> None:
    """With no right more, in a cluster that enforces who may name owners: fuse, Secret, Service, port, log and end."""
    config = as_account(_rules())
    spec = pod(kube, "least", SERVE, env={"A": "b"}, service=True, ready=http("/index.html"), kubeconfig=config)
    least = owner.start(spec)
    assert "up" in least.logs()
    assert not least.details["fuse"].startswith("none")
    least.stop()
    assert least.state is State.GONE


def test_without_the_right_to_a_fuse_it_says_so(
    kube: KubeCluster, as_account: Any, owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    """Degraded aloud: in the log, in progress, and in status(); it starts and ends all the same."""
    config = as_account([rule for rule in _rules() if "jobs" not in rule["resources"]])
    said: list[str] = []
    with caplog.at_level(logging.WARNING, "tether"):
        bare = owner.start(pod(kube, "bare", kubeconfig=config), on_progress=said.append)
    assert any(line.startswith("no fuse") for line in said)
    assert "max_lifetime only" in caplog.text
    (shown,) = owner.status()["resources"]
    assert shown["lease"] == "deadline of the pod"
    assert "forbidden" in shown["fuse"]
    bare.stop()
    assert bare.state is State.GONE


def test_the_connection_is_half_open(kube: KubeCluster, owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing gets through and nobody says so: LOST within the limits of the watch, and READY again when it is healed."""
    monkeypatch.setattr(watching, "_WATCH_S", 2)
    away = owner.start(pod(kube, "away", lease=60))
    with kube.cut():
        support.eventually(lambda: away.state is State.LOST, 30.0)
        assert "does not answer" in away.reason
    support.eventually(lambda: away.state is State.READY, 40.0)
    away.stop()


def test_the_api_server_dies_and_comes_back(kube: KubeCluster, owner: Owner) -> None:
    """What runs goes on; it ends meanwhile, and that is heard of afterwards, with its exit code."""
    short = owner.start(pod(kube, "short", "sleep 6; exit 3", lease=60))
    with kube.without("apiserver"):
        support.eventually(lambda: short.state is State.LOST, 20.0)
        support.eventually(lambda: not kube.containers(short.id), 20.0)
    assert short.wait(60) == 3
    assert short.state is State.FAILED


def test_a_node_is_cut_off(kube: KubeCluster, owner: Owner) -> None:
    """LOST meanwhile, never GONE; its own deadline ends it there without anybody; healed, it is confirmed."""
    cut = owner.start(pod(kube, "cut", lease=60, max_lifetime=22, stop_grace=1))
    with kube.node_cut():
        support.eventually(lambda: cut.state is State.LOST, 30.0)
        assert "node n1 does not answer" in cut.reason
        assert kube.containers(cut.id)
        support.eventually(lambda: not kube.containers(cut.id), 40.0)
        assert cut.state is State.LOST
    support.eventually(lambda: cut.state is State.FAILED, 60.0)
    support.eventually(lambda: kube.ready_nodes() == ["n1"], 30.0)


def test_a_kubeconfig_that_leads_elsewhere_proves_nothing(kube: KubeCluster, owner: Owner, tmp_path: Path) -> None:
    """A context that was pointed at another cluster: what is not there is not called gone; pointed back, it ends."""
    config = tmp_path / "config"
    text = kube.kubeconfig.read_text()
    config.write_text(text)
    there = owner.start(pod(kube, "there", kubeconfig=config))
    config.write_text(text.replace("10.77.0.10", "10.77.0.11"))
    with pytest.raises(Exception, match="leads to"):
        there.stop()
    assert not there.state.is_final
    config.write_text(text)
    there.wait(30)
    assert there.state is State.GONE


def test_a_second_adoption_is_refused(kube: KubeCluster, private_state: Path) -> None:
    """A fence is only ever raised: who comes with an old one is told that somebody was faster, or that it has blown."""
    from tether.drivers.kubernetes import fuse, where
    from tether.drivers.kubernetes.client import connect
    from tether.errors import Busy

    cluster = connect(where.find(str(kube.kubeconfig), None, None))
    first = fuse.Fuse(cluster, "tether-fuse-race", "a", 30)
    first.light()
    second = fuse.Fuse(cluster, "tether-fuse-race", "b", 30, fence=2)
    second.take_over()
    with pytest.raises(Busy):
        fuse.Fuse(cluster, "tether-fuse-race", "c", 30, fence=2).take_over()
    with pytest.raises(Gone, match="another owner"):
        first.renew()
    second.remove()
    with pytest.raises(Gone):
        fuse.Fuse(cluster, "tether-fuse-race", "d", 30, fence=3).take_over()


def test_the_example_and_the_documentation_run(kube: KubeCluster, tmp_path: Path) -> None:
    """As they are printed, in Pythons of their own."""
    root = Path(__file__).parents[2]
    page = (root / "docs/kubernetes.md").read_text()
    code = "".join(re.findall(r"^```python cluster\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    environ = {**os.environ, "KUBECONFIG": str(kube.kubeconfig), "TETHER_STATE_DIR": str(tmp_path / "docs")}
    commands = [[sys.executable, "-c", code], [sys.executable, str(root / "examples/kubernetes.py"), IMAGE]]
    for command in commands:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr
    assert "after the end: gone" in done.stdout
