"""Containers, at a real engine: what can go wrong at a start, what goes with them, and what is never touched."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine import IMAGE, Engine
from support import Runner, eventually
from tether import (
    Container,
    ContainerRef,
    HealthCheck,
    Mount,
    NotFound,
    Owner,
    Ready,
    SpecError,
    StartError,
    State,
    all_of,
    any_of,
    healthy,
    http,
    log,
    tcp,
)
from tether.ledger.store import Ledger
from tether.linux import proc, sockets

SERVE = ["httpd", "-f", "-p", "{port}", "-h", "/bin"]


@pytest.fixture(autouse=True)
def docker_host(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As most users have it: the engine is found by DOCKER_HOST."""
    monkeypatch.setenv("DOCKER_HOST", engine.url)


def test_a_server_with_everything(owner: Owner, engine: Engine, tmp_path: Path) -> None:
    """Port, url, environment, user, limits, mounts, network, labels, pids, usage, logs; nothing is left of it."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/file").write_text("from outside")
    said: list[str] = []
    web = owner.start(
        Container(
            IMAGE,
            ["sh", "-c", "echo $SECRET-$(cat /shared/file); id -u; exec httpd -f -p {port} -h /bin"],
            name="web",
            env={"SECRET": "xyzzy", "URL": "http://me:{port}"},
            user="1000:1000",
            workdir="/bin",
            mounts={"/shared": Mount(tmp_path / "shared", read_only=True), "/data": None},
            network="own",
            memory="64m",
            cpus=0.5,
            pids_limit=50,
            shm_size="8m",
            init=True,
            labels={"mine": "yes"},
            ready=http("/busybox"),
        ),
        on_progress=said.append,
    )
    assert {"creating the container", "starting it"} <= set(said)
    assert web.url is not None
    assert web.url.startswith("http://127.0.0.1:")
    shown = engine.client.containers.get(web.details["container_id"])
    assert shown.labels["mine"] == "yes"
    assert shown.labels["tether.resource"] == web.id
    assert shown.labels["tether.owner"] == owner.id
    settings = shown.attrs["HostConfig"]
    assert (settings["Memory"], settings["NanoCpus"], settings["PidsLimit"]) == (64 << 20, 500_000_000, 50)
    assert settings["ShmSize"] == 8 << 20
    assert "URL=http://me:8000" in shown.attrs["Config"]["Env"]
    assert web.logs().splitlines()[:2] == ["xyzzy-from outside", "1000"]
    # A server forks for each request, that of the probe too.
    eventually(lambda: len(web.pids()) == 2)
    assert all(proc.read_stat(pid) is not None for pid in web.pids())
    assert web.pid in owner.pids()
    usage = web.usage()
    assert usage.processes == 2
    assert usage.memory_bytes
    assert usage.cpu_s is not None
    ledger = (owner.state_dir / "ledger.db").read_bytes() + (owner.state_dir / "ledger.db-wal").read_bytes()
    assert b"xyzzy" not in ledger
    assert len(engine.labelled()) == 3
    web.stop(grace=2)
    assert web.state is State.GONE
    assert engine.labelled() == []
    assert "from outside" in web.logs()
    assert (tmp_path / "shared/file").exists()


def test_combined_probes(owner: Owner) -> None:
    """A health check beside a request; where an image has none, another probe may pass in its place, and none for all of them."""
    check = HealthCheck(["true"], interval=0.5)
    web = owner.start(Container(IMAGE, SERVE, health=check, ready=all_of(healthy(), http("/busybox")), stop_grace=0))
    assert web.state is State.READY
    talking = ["sh", "-c", "echo up; sleep 100"]
    assert owner.start(Container(IMAGE, talking, ready=any_of(healthy(), log("up")), stop_grace=0)).state is State.READY
    with pytest.raises(StartError, match="no health check"):
        owner.start(Container(IMAGE, talking, ready=all_of(log("up"), healthy())))


def test_a_server_that_drips_has_the_time_of_its_start(owner: Owner, engine: Engine) -> None:
    """A byte now and then prolongs nothing."""
    drip = "printf 'HTTP/1.1 200 OK\\r\\n'; while sleep 0.2; do printf X; done"
    serve = ["sh", "-c", f"while :; do ({drip}) | nc -l -p {{port}}; done"]
    with pytest.raises(
        StartError, match="not ready within 2 s: GET / on port .* does not answer: nothing whole within"
    ):
        owner.start(Container(IMAGE, serve, ready=http("/", timeout=2), stop_grace=0))
    assert engine.labelled() == []


def test_what_runs_in_it_by_exec_counts_too(owner: Owner, engine: Engine) -> None:
    """A process that was put into the container later is one of its pids, though no descendant of its first."""
    box = owner.start(Container(IMAGE, ["sleep", "100"]))
    made = engine.client.containers.get(box.details["container_id"])
    made.exec_run(["sleep", "99"], detach=True)
    eventually(lambda: len(box.pids()) == 2)


@pytest.mark.parametrize(
    ("probe", "network"),
    [
        (tcp(), "bridge"),
        (http("/busybox"), "host"),
        (tcp(), "host"),
        (log("listening"), "bridge"),
        (healthy(), "bridge"),
    ],
    ids=["tcp", "http-host", "tcp-host", "log", "health"],
)
def test_each_probe(owner: Owner, engine: Engine, probe: Ready, network: str) -> None:
    """The same probes as for processes, and the health check of the image."""
    image = IMAGE
    if probe.kind == "health":
        made = engine.client.containers.create(IMAGE, ["true"])
        made.commit("tether-test", "healthy", changes=['HEALTHCHECK --interval=1s CMD ["/bin/true"]'])
        made.remove()
        image = "tether-test:healthy"
    script = "echo listening; exec httpd -f -p {port} -h /bin"
    resource = owner.start(Container(image, ["sh", "-c", script], ready=probe, network=network))
    assert resource.state is State.READY
    assert resource.url is not None


def test_tcp_is_not_fooled_by_the_engines_proxy(owner: Owner) -> None:
    """The published port accepts connections before anybody in the container listens."""
    with pytest.raises(StartError, match=r"not ready within 1 s: no connection to"):
        owner.start(Container(IMAGE, ["sleep", "100"], port=8000, ready=tcp(timeout=1), stop_grace=0))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Container("no-such-image:1", name="bad", pull="never"), "there is no image no-such-image:1 .* pull='never'"),
        (
            Container("localhost:1/no-such-image:1", name="bad"),
            "its image localhost:1/no-such-image:1 can't be fetched",
        ),
        (Container(IMAGE, ["no-such-program"], name="bad"), "no-such-program"),
        (Container(IMAGE, ["true"], name="bad", network="no-such-network"), "no-such-network"),
        (Container(IMAGE, ["true"], name="bad", gpus="all"), "device driver"),
        (Container(IMAGE, ["true"], name="bad", mounts={"/x": "/no/such/folder"}), "no/such/folder"),
        (Container(IMAGE, ["sh", "-c", "echo why; exit 3"], name="bad", ready=log("never")), "exit code 3"),
    ],
    ids=["image", "registry", "program", "network", "gpu", "mount", "exit"],
)
def test_a_start_that_fails_is_one_clear_error(owner: Owner, engine: Engine, spec: Container, message: str) -> None:
    """And leaves nothing, neither at the engine nor on record."""
    with pytest.raises(StartError, match=f"(?s)cannot start bad.*{message}") as caught:
        owner.start(spec)
    assert engine.labelled() == []
    eventually(lambda: owner.resources == [])
    if "exit code" in message:
        assert caught.value.exit_code == 3
        assert "why" in caught.value.log_tail


def test_a_port_that_is_taken(owner: Owner, engine: Engine) -> None:
    """A fixed one can't be replaced by another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"(?s)cannot start bad.*{port}"):
            owner.start(Container(IMAGE, SERVE, name="bad", ports={80: port}))
    assert engine.labelled() == []


def test_an_engine_that_is_not_there(owner: Owner) -> None:
    """Says where it was looked for."""
    with pytest.raises(StartError, match=r"cannot start bad: container engine unix:///no/such.sock does not answer"):
        owner.start(Container(IMAGE, name="bad", engine="unix:///no/such.sock"))
    assert owner.resources == []
    (row,) = Ledger(owner.state_dir).resources(ended=True)
    assert row.state is State.FAILED


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": ""},
        {"image": "two words"},
        {"command": "echo hi"},
        {"command": ["a\0b"]},
        {"port": 0},
        {"ports": {80: 99999}},
        {"network": "none", "port": 80},
        {"network": "host", "ports": {80: None}},
        {"ready": tcp()},
        {"memory": "lots"},
        {"cpus": 0},
        {"gpus": "some"},
        {"mounts": {"relative": None}},
        {"mounts": {"/x": "a/relative/path"}},
        {"labels": {"tether.resource": "mine"}},
        {"pull": "perhaps"},
        {"env": {"A": "b\0c"}},
        {"stop_signal": 999},
        {"needs": "db"},
    ],
    ids=str,
)
def test_what_cant_be_right_is_refused(wrong: dict[str, object]) -> None:
    """Before anything is created."""
    with pytest.raises(SpecError):
        Container(**{"image": IMAGE, **wrong})  # type: ignore[arg-type]


def test_ends_by_itself(owner: Owner, engine: Engine) -> None:
    """A job is GONE with 0 and FAILED otherwise; a server is FAILED. The exit code and the log stay, all else goes."""
    good = owner.start(Container(IMAGE, ["sh", "-c", "echo done"], name="good", mounts={"/data": None}))
    assert good.wait(timeout=20) == 0
    assert (good.state, good.logs()) == (State.GONE, "done\n")
    bad = owner.start(Container(IMAGE, ["sh", "-c", "exit 4"], name="bad", network="own"))
    assert bad.wait(timeout=20) == 4
    assert bad.state is State.FAILED
    server = owner.start(Container(IMAGE, SERVE, name="server", ready=tcp(), init=True))
    engine.client.containers.get(server.details["container_id"]).stop(timeout=2)
    server.wait(timeout=20)
    assert server.state is State.FAILED
    removed = owner.start(Container(IMAGE, ["sleep", "100"], name="removed", mounts={"/data": None}))
    engine.client.containers.get(removed.details["container_id"]).remove(force=True)
    removed.wait(timeout=20)
    assert removed.state is State.FAILED
    assert engine.labelled() == []


def test_stopped_by_the_command_line(owner: Owner, engine: Engine) -> None:
    """From outside; the owner hears of it."""
    box = owner.start(Container(IMAGE, ["sh", "-c", "echo hello; exec sleep 100"], name="box", init=True))
    eventually(lambda: "hello" in box.logs())
    run = [sys.executable, "-m", "tether"]
    assert subprocess.run([*run, "logs", "box"], capture_output=True, text=True, check=True).stdout == "hello\n"
    assert "sleep 100" in subprocess.run([*run, "tree"], capture_output=True, text=True, check=True).stdout
    subprocess.run([*run, "stop", "--grace", "2", "box"], check=True, capture_output=True)
    box.wait(timeout=10)
    assert engine.labelled() == []


def test_restart_is_another_container(owner: Owner) -> None:
    """Under the same name and id."""
    box = owner.start(Container(IMAGE, SERVE, name="box", ready=tcp(), init=True))
    before = box.details["container_id"]
    box.restart()
    assert box.state is State.READY
    assert box.details["container_id"] != before


def test_what_was_there_before_is_never_ended(owner: Owner, engine: Engine) -> None:
    """A ContainerRef is LOST when its container ends, READY when it is started again, and left alone by us."""
    theirs = engine.client.containers.run(
        IMAGE,
        ["httpd", "-f", "-p", "80", "-h", "/bin"],
        detach=True,
        name="theirs",
        init=True,
        ports={"80": ("127.0.0.1", 0)},
    )
    try:
        ref = owner.start(ContainerRef("theirs", port=80, ready=http("/busybox")))
        assert ref.url is not None
        assert ref.pids()
        theirs.stop(timeout=1)
        eventually(lambda: ref.state is State.LOST)
        theirs.start()
        eventually(lambda: ref.state is State.READY)
        ref.kill()
        assert ref.state is State.GONE
        theirs.reload()
        assert theirs.status == "running"
        with pytest.raises(StartError, match="no container of that name"):
            owner.start(ContainerRef("nobodys"))
        with pytest.raises(StartError, match="does not publish its port 81"):
            owner.start(ContainerRef("theirs", port=81))
    finally:
        theirs.remove(force=True)


STARTING = """
import os, sys, time
from tether import Owner, Container
owner = Owner("starting", state_dir=sys.argv[1])
print("begun", flush=True)
while True:
    owner.start(Container(sys.argv[2], ["sleep", "100"], network="own", mounts={"/data": None}))
"""


@pytest.mark.slow
def test_ten_owners_killed_while_starting_leave_nothing(runner: Runner, engine: Engine, private_state: Path) -> None:
    """At random times; then one sweep. What has no label of ours is left alone. Slow: a real engine."""
    other = engine.client.containers.run(IMAGE, ["sleep", "100"], detach=True, name="other")
    volume = engine.client.volumes.create("others-volume")
    network = engine.client.networks.create("others-network")
    clock = random.Random(4)
    owners = [runner.popen(STARTING, private_state, IMAGE) for _ in range(10)]
    for process in owners:
        assert process.stdout is not None
        process.stdout.readline()
    for process in owners:
        time.sleep(clock.uniform(0.0, 0.4))
        process.kill()
    for process in owners:
        process.communicate()
    try:
        subprocess.run([sys.executable, "-m", "tether", "reap"], check=True, timeout=100, capture_output=True)
        assert engine.labelled() == []
        other.reload()
        assert other.status == "running"
        assert engine.client.volumes.get("others-volume")
        assert engine.client.networks.get("others-network")
        assert Ledger(private_state).resources() == []
    finally:
        other.remove(force=True)
        volume.remove()
        network.remove()


KEEPING = """
import os, signal, sys
from tether import Owner, Container
owner = Owner("keeper", state_dir=sys.argv[1])
box = owner.start(Container(sys.argv[2], ["sleep", "100"], name="box", on_death="keep", keep_for=float(sys.argv[3])))
print(box.details["container_id"], flush=True)
if sys.argv[4] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
owner.shutdown()
"""


@pytest.mark.parametrize("end", ["kill", "shutdown"])
def test_kept_and_adopted(runner: Runner, engine: Engine, private_state: Path, end: str) -> None:
    """The next owner of the name gets the same container."""
    with runner.popen(KEEPING, private_state, IMAGE, "600", end) as process:
        assert process.stdout is not None
        container = process.stdout.readline().strip()
    with Owner("keeper") as owner:
        box = owner.adopt("box")
        assert box.details["container_id"] == container
        assert box.state is State.READY
        with pytest.raises(NotFound):
            owner.adopt("box-of-nobody")
        box.kill()
    assert engine.labelled() == []


@pytest.mark.parametrize("end", ["kill", "shutdown"])
def test_kept_no_longer_than_was_said(runner: Runner, engine: Engine, private_state: Path, end: str) -> None:
    """The reaper of the dead owner sees to it."""
    with runner.popen(KEEPING, private_state, IMAGE, "1.5", end) as process:
        process.communicate()
    assert len(engine.labelled()) == 1
    eventually(lambda: engine.labelled() == [], 15)
    eventually(lambda: Ledger(private_state).resources() == [])


def test_engine_restarted_under_a_running_one(owner: Owner, engine: Engine) -> None:
    """Lost with the engine, which ends it; that is heard when the engine is back, and what is left of it goes."""
    box = owner.start(Container(IMAGE, ["sleep", "100"], network="own", init=True))
    engine.stop()
    try:
        eventually(lambda: box.state is State.LOST)
        assert box.pids() == []
    finally:
        engine.start()
    box.wait(timeout=30)
    assert box.state is State.FAILED
    assert engine.labelled() == []


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Debian's real registry, on a loopback port."""
    port = sockets.free_port()
    config = folder / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/registry}}}}\n"
        f"http: {{addr: 127.0.0.1:{port}}}\n"
    )
    server = subprocess.Popen(
        ["timeout", "100", "docker-registry", "serve", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: sockets.listening_inodes(port))
        yield f"localhost:{port}"
    finally:
        server.terminate()
        server.wait()


def test_an_image_is_fetched_with_progress(owner: Owner, engine: Engine, tmp_path: Path) -> None:
    """From a real registry; "missing" fetches it once, "always" each time, and one that is not there is said."""
    with registry(tmp_path) as address:
        name = f"{address}/test/box:1"
        engine.client.images.get(IMAGE).tag(name)
        engine.client.images.push(name)
        engine.client.images.remove(name)
        said: list[str] = []
        owner.start(Container(name, ["sleep", "100"]), on_progress=said.append)
        assert f"fetched {name}" in said
        said.clear()
        owner.start(Container(name, ["sleep", "100"]), on_progress=said.append)
        assert f"fetched {name}" not in said
        owner.start(Container(name, ["sleep", "100"], pull="always"), on_progress=said.append)
        assert f"fetched {name}" in said
        with pytest.raises(StartError, match="can't be fetched"):
            owner.start(Container(f"{address}/test/nothing:1", name="bad"))


def test_without_the_extra(runner: Runner) -> None:
    """Importing tether works, and a Container says what to install."""
    code = (
        "import sys\n"
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        "absent = {'docker', 'rattler', 'asyncssh'}\n"
        "importlib.util.find_spec = lambda name, package=None: None if name in absent else found(name, package)\n"
        "import tether\n"
        "for make in (lambda: tether.Container('x'), lambda: tether.CondaEnv(['x'])):\n"
        "    try: make()\n"
        "    except tether.DriverUnavailable as error: print(error)\n"
    )
    with runner.popen(code) as process:
        said = process.communicate()[0].splitlines()
    assert "pip install 'tether[docker]'" in said[0]
    assert "pip install 'tether[conda]'" in said[1]


def test_no_stray_signal(owner: Owner) -> None:
    """The pids of a container are shown, and never signalled by tether: its engine ends it."""
    box = owner.start(Container(IMAGE, ["sleep", "100"]))
    pid = box.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    box.wait(timeout=10)
    assert (box.state, box.exit_code) == (State.FAILED, 137)
