"""What is said of pods without a cluster: specs, manifests, what an object means, and which cluster a kubeconfig leads to."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tether import Pod, PodRef, SpecError, StartError, State, http
from tether.drivers import Context
from tether.drivers.kubernetes import Claim, FromKey, KubernetesDriver, doubt, inside, manifest, parts, pods, where
from tether.drivers.kubernetes.client import POD, SECRET
from tether.errors import DriverUnavailable
from tether.model import Handle

NOW = 1_800_000_000.0
CONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: hidden-token}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: here}}]
current-context: x
"""


def test_a_command_in_a_pod_is_run_by_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the cluster of its record; variables, which it can't pass on, are refused."""
    (tmp_path / "kubectl").write_text("#!/bin/sh\n")
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "config").write_text(CONFIG)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    driver = KubernetesDriver(Context(tmp_path))
    handle = driver.plan(Pod("image", name="pod"), "tag")
    command = driver.inside(handle, ["ls", "-l"], None)
    assert command[0] == str(tmp_path / "kubectl")
    assert command[-3:] == ["--", "ls", "-l"]
    assert "-t" not in command
    at_terminal = driver.inside_terminal(handle, ["ls", "-l"])
    assert "-t" in at_terminal[: at_terminal.index("--")]
    assert [word for word in at_terminal if word != "-t"] == command
    with pytest.raises(SpecError, match="variables can't be passed"):
        driver.inside(handle, ["ls"], {"A": "b"})


@pytest.mark.parametrize("shell", ["sh", "busybox"])
def test_what_exec_knows_nothing_of_travels_as_input(shell: str, tmp_path: Path) -> None:
    """Variables, an input that ends though nobody can say so, a directory: as a shell has it; none of it on a command line."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    env = {"A": 'it\'s $HOME; "so"\n two\n', "B": ""}
    script = 'printf "%s|%s|%s|" "$A" "$B" "$PWD"; cat; exit 3'
    words, given = inside._wrapped(["sh", "-c", script], env, str(tmp_path), b"x" * 100_000)
    assert "HOME; " not in " ".join(words)
    start = [shell, *words[:1]] if shell == "busybox" else words[:1]
    with subprocess.Popen([*start, *words[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # Left open, as a server leaves it that can't be told of its end.
        process.stdin.write(given)
        process.stdin.flush()
        said = process.stdout.read()
        assert process.wait(30) == 3
    assert said == f"{env['A']}||{tmp_path}|".encode() + b"x" * 100_000
    assert inside._wrapped(["ls", "-l"], {}, None, b"") == (["ls", "-l"], b"")


@pytest.mark.parametrize(
    ("path", "parts"), [("a", ("/", "a")), ("/a/b/", ("/a", "b")), ("/a/../b//c", ("/b", "c")), ("/-x", ("/", "-x"))]
)
def test_paths_in_a_pod(path: str, parts: tuple[str, str]) -> None:
    """From the root; the root itself is refused."""
    assert inside._split(path) == parts
    with pytest.raises(SpecError, match="root of a pod"):
        inside._split("/a/..")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"status": "Success"}, 0),
        ({"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}}, 7),
        ([], None),
    ],
)
def test_how_a_command_ended(said: Any, code: int | None) -> None:
    """What is not understood is not known; what never ran is an error."""
    assert inside._exit_code(json.dumps(said).encode(), "p") == code
    with pytest.raises(DriverUnavailable, match="nothing could be executed in pod p: no such file"):
        inside._exit_code(b'{"status": "Failure", "message": "no such file"}', "p")


def made(spec: Pod, **more: Any) -> dict[str, dict[str, Any]]:
    """What a cluster would be asked for, the last of each kind."""
    marks = manifest.Marks("0123456789abcdef", "owner", manifest.name_of(spec, "0123456789abcdef"), **more)
    return dict(manifest.objects(spec, marks))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"command": "sleep 1"}, "list of arguments"),
        ({"env": {"A=B": "x"}}, "variable"),
        ({"env": {"A": 5}}, "must be text"),
        ({"ports": [70000]}, "no port"),
        ({"ready": http("/")}, "needs a port"),
        ({"service": True}, "needs a port"),
        ({"reach": "dns", "port": 80}, "service=True"),
        ({"mounts": {"data": None}}, "absolute paths"),
        ({"mounts": {"/data": "No Claim"}}, "no name of a volume claim"),
        ({"mounts": {"/data": Claim("much")}}, "no quantity"),
        ({"memory": "2 GB"}, "no quantity"),
        ({"lease": 1}, "renewed three times"),
        ({"max_lifetime": 0}, "1 or more"),
        ({"namespace": "Not_One"}, "can't be a name"),
        ({"labels": {"tether.dev/resource": "x"}}, "tether's own"),
        ({"raw": {"spec": {"restartPolicy": "Always"}}}, "restartPolicy"),
        ({"raw": {"metadata": {"ownerReferences": []}}}, "ownerReferences"),
        ({"raw": {"metadata": {"annotations": {"tether.dev/fence": "9"}}}}, "tether's own"),
        ({"raw": {"kind": "Job"}}, "fragment"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_can_not_be_right_is_refused(wrong: dict[str, Any], said: str) -> None:
    """Before anything is created, and values of variables are not shown."""
    with pytest.raises(SpecError, match=said) as refused:
        Pod("image", **{"command": ["x"], **wrong})
    assert "secret" not in str(refused.value)


def test_values_stand_in_the_secret_alone() -> None:
    """The pod refers to them; what is in the cluster already is referred to where it stands."""
    spec = Pod(
        "image", ["x"], env={"TOKEN": "hush {port}", "NAME": FromKey("key", secret="theirs"), "GONE": None}, port=99
    )
    wanted = made(spec)
    assert wanted[SECRET]["stringData"] == {"TOKEN": "hush 99"}
    assert "hush" not in json.dumps(wanted[POD]) + json.dumps(spec.record()) + repr(spec)
    variables = {
        each["name"]: each["valueFrom"]["secretKeyRef"] for each in wanted[POD]["spec"]["containers"][0]["env"]
    }
    assert variables == {
        "TOKEN": {"name": wanted[SECRET]["metadata"]["name"], "key": "TOKEN"},
        "NAME": {"name": "theirs", "key": "key"},
    }


def test_everything_has_mark_and_fuse_and_a_limit() -> None:
    """Whatever is made names the fuse and carries the tag; the pod has its own deadline, no account and no second try."""
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": "fuse", "uid": "1"}
    wanted = made(
        Pod(
            "r.example:5000/team/My_Image:1",
            ["x"],
            env={"A": "b"},
            port=80,
            service=True,
            mounts={"/d": Claim("1Gi")},
            max_lifetime=9.5,
        ),
        references=(reference,),
    )
    assert set(wanted) == {"secrets", "persistentvolumeclaims", "services", "pods"}
    for item in wanted.values():
        assert item["metadata"]["ownerReferences"] == [reference]
        assert item["metadata"]["labels"]["tether.dev/resource"] == "0123456789abcdef"
        assert parts.is_ours({"metadata": {**item["metadata"], "uid": "2"}}, "0123456789abcdef")
        assert len(item["metadata"]["name"]) <= 63
    inside = wanted["pods"]["spec"]
    assert (inside["restartPolicy"], inside["activeDeadlineSeconds"], inside["automountServiceAccountToken"]) == (
        "Never",
        10,
        False,
    )
    assert wanted["pods"]["metadata"]["name"] == "tether-my-image-0123456789abcdef"


def test_words_reach_the_command_as_they_are() -> None:
    """A kubelet takes $(X) for a variable, and two dollars for one."""
    (container,) = made(Pod("image", ["sh", "-c", "echo $$ $(date) {port} {{port}}"]))[POD]["spec"]["containers"]
    assert container["args"][-1] == "echo $$$$ $$(date) 8000 {port}"


def test_a_fragment_is_merged_in() -> None:
    """Mappings key by key, named things by name, everything else replaces; the marks stay."""
    raw = {
        "metadata": {"labels": {"app": "x"}},
        "spec": {
            "hostNetwork": True,
            "containers": [{"name": "main", "tty": True}, {"name": "beside", "image": "other"}],
            "tolerations": [{"key": "b"}],
        },
    }
    wanted = made(Pod("image", ["x"], tolerations=[{"key": "a"}], raw=raw))[POD]
    main, beside = wanted["spec"]["containers"]
    assert (main["image"], main["tty"], beside["image"]) == ("image", True, "other")
    assert wanted["spec"]["tolerations"] == [{"key": "b"}]
    assert set(wanted["metadata"]["labels"]) >= {"app", "tether.dev/resource", "tether.dev/owner"}


@pytest.mark.parametrize("name", ["copied", "tether-x-fedcba9876543210"])
def test_a_label_alone_is_no_proof(name: str) -> None:
    """A template or a backup copies labels: the name must be of our own making, too."""
    item = {"metadata": {"name": name, "uid": "1", "labels": {"tether.dev/resource": "0123456789abcdef"}}}
    assert not parts.is_ours(item, "0123456789abcdef")


def pod(status: dict[str, Any], **meta: Any) -> dict[str, Any]:
    """A pod's object as an API server shows it."""
    return {
        "metadata": {"name": "p", "uid": "1", **meta},
        "spec": {"nodeName": "n1", "activeDeadlineSeconds": 100, "containers": [{"name": "main"}]},
        "status": status,
    }


def running(**conditions: str) -> dict[str, Any]:
    """The status of one that runs."""
    said = {"Ready": "True", "ContainersReady": "True", **conditions}
    return {
        "phase": "Running",
        "conditions": [{"type": kind, "status": value} for kind, value in said.items()],
        "containerStatuses": [{"name": "main", "state": {"running": {}}}],
    }


def waiting(reason: str, message: str) -> dict[str, Any]:
    """The status of one that does not start."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": "main", "state": state}]}


def ended(code: int, reason: str) -> dict[str, Any]:
    """The status of one that has ended."""
    state = {"terminated": {"exitCode": code, "reason": reason}}
    return {"phase": "Failed", "containerStatuses": [{"name": "main", "state": state}]}


LATE = "2027-01-15T07:59:00Z"  # a minute before NOW


@pytest.mark.parametrize(
    ("status", "meta", "state", "reason"),
    [
        (running(), {}, State.READY, ""),
        (running(Ready="False", ContainersReady="False"), {}, State.READY, ""),
        (running(Ready="False"), {}, State.LOST, "node n1 does not answer"),
        ({**running(), "phase": "Unknown"}, {}, State.LOST, "node n1 does not answer"),
        (running(), {"deletionTimestamp": "2027-01-15T08:00:05Z"}, State.STOPPING, "on its way out"),
        (running(), {"deletionTimestamp": LATE}, State.LOST, "60 s after it should have"),
        (waiting("ContainerCreating", ""), {}, State.STARTING, "node n1 is creating it"),
        (waiting("ImagePullBackOff", "Back-off"), {}, State.STARTING, "ImagePullBackOff: Back-off"),
        (ended(137, "OOMKilled"), {}, State.STOPPING, "OOMKilled"),
        ({"phase": "Failed", "reason": "DeadlineExceeded"}, {}, State.STOPPING, "max_lifetime"),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "disk"},
            {"deletionTimestamp": LATE},
            State.STOPPING,
            "evicted",
        ),
    ],
)
def test_what_an_object_means(status: dict[str, Any], meta: dict[str, Any], state: State, reason: str) -> None:
    """What is not known is LOST, and never taken for an end; an end has its reason."""
    judged = pods.judge(pod(status, **meta), None, NOW)
    assert judged.state is state
    assert reason in judged.reason
    assert judged.has_ended == (state is State.STOPPING and status["phase"] == "Failed")


@pytest.mark.parametrize(
    ("status", "hopeless"),
    [
        (waiting("ErrImageNeverPull", ""), True),
        (waiting("ErrImagePull", "manifest unknown"), True),
        (waiting("ErrImagePull", "i/o timeout"), False),
        (waiting("ImagePullBackOff", "Back-off pulling image"), False),
    ],
)
def test_what_never_will_start(status: dict[str, Any], hopeless: bool) -> None:
    """A registry that does not answer may answer yet; one that says no has said so."""
    assert pods.judge(pod(status), None, NOW).is_hopeless is hopeless


class _Asked:
    """Stands for a cluster of which only its clock and its nodes are asked."""

    def __init__(self, heard: str | None, ready: str = "True") -> None:
        self.time, self._heard, self._ready = NOW, heard, ready

    def now(self) -> float:
        return self.time

    def ask(self, method: str, path: str) -> dict[str, Any]:
        condition = {"type": "Ready", "status": self._ready, "lastHeartbeatTime": self._heard}
        return {"status": {"conditions": [condition]}}


def test_a_doubt_stays_until_the_node_was_heard_of() -> None:
    """Removed by force while it ran: only a later word of its node, or its own deadline, settles that."""
    silent: Any = _Asked("2027-01-15T08:00:05Z")
    found = doubt.about(silent, pod(running()), seen_to_end=True)
    assert found is not None
    assert "by force" in found.remains(silent)
    later: Any = _Asked("2027-01-15T08:00:15Z")
    assert found.remains(later) == ""
    silent.time += 1000
    assert found.remains(silent) == ""
    assert doubt.about(later, pod(ended(0, "Completed")), seen_to_end=True) is None


def test_a_gap_is_no_doubt_unless_the_node_is_silent() -> None:
    """A machine that slept finds its pod collected by the fuse: that is an end, if the node is well."""
    well: Any = _Asked("2027-01-15T08:00:00Z")
    assert doubt.about(well, pod(running()), seen_to_end=False) is None
    ill: Any = _Asked("2027-01-15T08:00:00Z", ready="Unknown")
    assert doubt.about(ill, pod(running()), seen_to_end=False) is not None


def test_which_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The given file, else KUBECONFIG; no token is on record, and another server by now is refused."""
    config = tmp_path / "config"
    config.write_text(CONFIG)
    monkeypatch.setenv("KUBECONFIG", str(config))
    found = where.find(None, None, None)
    assert (found.context, found.namespace, found.server) == ("x", "here", "https://127.0.0.1:1")
    assert "hidden-token" not in repr(found)
    assert where.Where.recorded(json.loads(json.dumps(found.record()))) == found
    with pytest.raises(DriverUnavailable, match="no cluster can be found"):
        where.find(None, "other", None)
    config.write_text(CONFIG.replace("127.0.0.1", "127.0.0.2"))
    with pytest.raises(DriverUnavailable, match=r"leads to https://127.0.0.2:1 by now"):
        where.config_of(found)
    config.write_text("token: [hidden-token")
    with pytest.raises(DriverUnavailable, match="no kubeconfig that can be read") as refused:
        where.find(None, None, None)
    assert "hidden-token" not in str(refused.value)


def test_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear error before anything is created; doctor finds fault, and raises nothing."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    driver = KubernetesDriver(Context(tmp_path))
    with pytest.raises(StartError, match="cannot start web: no cluster can be found"):
        driver.plan(Pod("image", name="web"), "tag")
    assert not driver.diagnose().good
    config = tmp_path / "config"
    config.write_text(CONFIG)
    plan = driver.plan(PodRef("theirs", kubeconfig=config), "tag")
    assert json.loads(json.dumps(dict(plan.data))) == dict(plan.data)
    with pytest.raises(DriverUnavailable, match="does not answer"):
        driver.inspect(Handle(plan.kind, "tag", {**plan.data, "uid": "1"}))
    driver.close()
