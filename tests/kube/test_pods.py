"""What becomes of pods, in a real cluster."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from kube.cluster import IMAGE, KubeCluster
from kube.pods import LOOP, OWNER, SERVE, documented_rules, eventually, page, pod, seen, told
from tether import Owner, Pod, PodRef, StartError, State, healthy, http, tcp
from tether.drivers.kubernetes import Claim
from tether.drivers.kubernetes import watch as watching
from tether.errors import Gone

pytestmark = pytest.mark.usefixtures("nothing_of_it_left")


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
            Pod("nobody/has:1", kubeconfig=kube.kubeconfig, pull="never", ready=healthy(timeout=300)),
            on_progress=said.append,
        )
    with pytest.raises(StartError, match=r"no node takes it .*Insufficient memory"):
        owner.start(pod(kube, "big", memory="900Gi", run_within=4), on_progress=said.append)
    assert any("Insufficient memory" in line for line in said)
    eventually(lambda: not kube.objects("tether.dev/resource"))


def test_somebody_else_removes_it(kube: KubeCluster, owner: Owner) -> None:
    """Politely: it has failed, and its Secret goes too. By force, while it runs: LOST, until its node was heard of again."""
    polite = owner.start(pod(kube, "polite", env={"A": "b"}))
    forced = owner.start(pod(kube, "forced"))
    kube.ask("DELETE", f"/api/v1/namespaces/default/pods/{forced.details['pod']}?gracePeriodSeconds=0")
    kube.ask("DELETE", f"/api/v1/namespaces/default/pods/{polite.details['pod']}")
    eventually(lambda: forced.state is State.LOST)
    assert "by force" in forced.reason
    eventually(lambda: polite.state is State.FAILED)
    eventually(lambda: forced.state is State.FAILED)
    assert kube.containers(forced.id) == []
    assert kube.objects("tether.dev/resource") == []


@pytest.fixture
def strangers(kube: KubeCluster) -> Iterator[tuple[str, str]]:
    """The names of two pods that a test may make."""
    names = ("copied", "other")
    yield names
    for name in names:
        kube.ask("DELETE", f"/api/v1/namespaces/default/pods/{name}?gracePeriodSeconds=1")
    eventually(lambda: not any(kube.exists("pods", name) for name in names))


def test_a_copied_label_is_not_enough(kube: KubeCluster, owner: Owner, strangers: tuple[str, str]) -> None:
    """A pod of somebody else that carries the tag as a label, and one without, survive; a pod attached to is let go of."""
    mine = owner.start(pod(kube, "mine"))
    for name, labels in (("copied", {"tether.dev/resource": mine.id}), ("other", {})):
        container = {"name": "m", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", LOOP]}
        manifest = {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [container]}}
        assert kube.ask("POST", "/api/v1/namespaces/default/pods", json.dumps(manifest)) is not None
    others = "/api/v1/namespaces/default/pods/other"
    eventually(lambda: kube.ask("GET", others)["status"].get("phase") == "Running")
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


def test_adoption(kube: KubeCluster, private_state: Path) -> None:
    """The next owner takes the pod over, and its fuse under a newer fence; then it ends as any other."""
    spec = pod(kube, "kept", SERVE, on_death="keep", keep_for=300, lease=60, ready=tcp())
    command = [sys.executable, "-c", OWNER + "signal.pause()", "keeper", str(private_state), pickle.dumps(spec).hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        _, tag = told(process)
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


def test_the_documented_role_is_enough(kube: KubeCluster, as_account: Any, owner: Owner) -> None:
    """With no right more, in a cluster that enforces who may name owners: fuse, Secret, Service, port, log and end."""
    config = as_account(documented_rules())
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
    config = as_account([rule for rule in documented_rules() if "jobs" not in rule["resources"]])
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
        eventually(lambda: away.state is State.LOST)
        assert "does not answer" in away.reason
    eventually(lambda: away.state is State.READY)
    away.stop()


def test_the_api_server_dies_and_comes_back(kube: KubeCluster, owner: Owner) -> None:
    """What runs goes on; it ends meanwhile, and that is heard of afterwards, with its exit code."""
    short = owner.start(pod(kube, "short", "sleep 15; exit 3", lease=120))
    with kube.without("apiserver"):
        eventually(lambda: short.state is State.LOST)
        eventually(lambda: not kube.containers(short.id))
    assert short.wait(120) == 3
    assert short.state is State.FAILED


def test_a_node_is_cut_off(kube: KubeCluster, owner: Owner) -> None:
    """LOST meanwhile, never GONE; its own deadline ends it there without anybody; healed, it is confirmed."""
    cut = owner.start(pod(kube, "cut", lease=600, max_lifetime=90, stop_grace=1))
    with kube.node_cut():
        eventually(lambda: cut.state is State.LOST)
        assert "node n1 does not answer" in cut.reason
        assert kube.containers(cut.id)
        eventually(lambda: not kube.containers(cut.id))
        assert cut.state is State.LOST
    eventually(lambda: cut.state is State.FAILED)
    eventually(lambda: kube.ready_nodes() == ["n1"])


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
    there.wait(120)
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
    # Once more, should the answer have been lost: it knows itself.
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
    code = "".join(re.findall(r"^```python cluster\n(.*?)^```", page(), re.MULTILINE | re.DOTALL))
    environ = {**os.environ, "KUBECONFIG": str(kube.kubeconfig), "TETHER_STATE_DIR": str(tmp_path / "docs")}
    commands = [[sys.executable, "-c", code], [sys.executable, str(root / "examples/kubernetes.py"), IMAGE]]
    for command in commands:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    assert "after the end: gone" in done.stdout
