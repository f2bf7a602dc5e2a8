"""What users of containers need every day: where the engine is, volumes, ports, commands and files inside, shared networks."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import engine_proxy
from engine import IMAGE, Engine
from engine_proxy import Proxy
from hosts import USER, HostOf
from support import Runner, eventually
from tether import (
    Container,
    ContainerRef,
    DeadlineExceeded,
    Gone,
    HealthCheck,
    Mount,
    Network,
    NotFound,
    Owner,
    Process,
    SpecError,
    StartError,
    State,
    healthy,
    http,
    log,
    tcp,
)
from tether.drivers.container import address

SERVE = ["httpd", "-f", "-p", "{port}", "-h", "/bin"]


@pytest.fixture(autouse=True)
def docker_host(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As most users have it: the engine is found by DOCKER_HOST."""
    monkeypatch.setenv("DOCKER_HOST", engine.url)


# -- volumes ---------------------------------------------------------------------------------------------------------------


def test_a_volume_that_is_not_there_is_refused(owner: Owner, engine: Engine) -> None:
    """Nothing is made of it at the engine."""
    before = {str(each.name) for each in engine.client.volumes.list()}
    with pytest.raises(StartError, match=r"there is no volume no-such-volume .* create=True"):
        owner.start(Container(IMAGE, ["true"], mounts={"/data": "no-such-volume"}))
    assert {str(each.name) for each in engine.client.volumes.list()} == before
    assert engine.labelled() == []


def test_a_volume_is_made_and_goes_with_it(owner: Owner, engine: Engine) -> None:
    """With create=True; one that was there before stays."""
    theirs = engine.client.volumes.create("theirs-before")
    mounts = {"/new": Mount("made-with-it", create=True), "/old": Mount("theirs-before", create=True)}
    box = owner.start(Container(IMAGE, ["sleep", "100"], mounts=mounts, stop_grace=0))
    assert engine.client.volumes.get("made-with-it")
    box.stop()
    assert "made-with-it" not in {str(each.name) for each in engine.client.volumes.list()}
    assert engine.client.volumes.get("theirs-before")
    theirs.remove()


@pytest.mark.parametrize(
    "source", [Path("data"), Path("../data"), "./data", ".", "a b", Mount("/abs", create=True), Mount(create=True)]
)
def test_what_is_no_volume_is_refused(source: str | Path | Mount) -> None:
    """A relative path is a path."""
    with pytest.raises(SpecError):
        Container(IMAGE, mounts={"/data": source})


# -- where the engine is ---------------------------------------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder as DOCKER_CERT_PATH has it, and the engine's own pair beside it."""
    folder = tmp_path / "certificates"
    folder.mkdir()

    def openssl(*argv: str) -> None:
        subprocess.run(["openssl", *argv], cwd=folder, check=True, capture_output=True)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl("req", "-x509", *new, "-subj", "/CN=authority", "-keyout", "ca-key.pem", "-out", "ca.pem")
    for name in ("server", ""):
        stem = f"{name}-" if name else ""
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
        openssl(
            "req", *new, "-subj", f"/CN={name or 'client'}", "-keyout", f"{stem}key.pem", "-out", f"{stem}request.pem"
        )
        openssl(
            *("x509", "-req", "-in", f"{stem}request.pem", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial"),
            *("-days", "2", "-extfile", "names", "-out", f"{stem}cert.pem"),
        )
    return folder


@pytest.fixture
def tls_proxy(engine: Engine, certificates: Path, tmp_path: Path) -> Iterator[Proxy]:
    """An engine that speaks TLS, and with known clients only."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "server-cert.pem", certificates / "server-key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with engine_proxy.in_front_of(engine.folder / "docker.sock", tmp_path / "unused", context) as made:
        yield made


def test_an_engine_that_speaks_tls(
    tls_proxy: Proxy,
    certificates: Path,
    make_owner: Callable[..., Owner],
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By DOCKER_TLS_VERIFY and DOCKER_CERT_PATH; where the certificates are is on record, no key is."""
    owner = make_owner()
    monkeypatch.setenv("DOCKER_HOST", tls_proxy.url)
    with pytest.raises(StartError):
        owner.start(Container(IMAGE, ["true"], name="plain"))
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
    job = owner.start(Container(IMAGE, ["sh", "-c", "sleep 0.5; exit 7"], name="job"))
    box = owner.start(Container(IMAGE, ["sleep", "100"], name="box", stop_grace=0))
    assert job.wait(timeout=20) == 7
    for variable in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_HOST"):
        monkeypatch.delenv(variable)
    box.stop()
    assert box.state is State.GONE
    assert engine.labelled() == []


def test_the_docker_context_in_use(
    owner: Owner, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docker(1) has it: DOCKER_HOST comes first, then DOCKER_CONTEXT, then the context in use."""
    folder = tmp_path / "docker-config"
    for name, host in (("mine", engine.url), ("other", "unix:///other.sock")):
        meta = folder / "contexts/meta" / hashlib.sha256(name.encode()).hexdigest()
        meta.mkdir(parents=True)
        (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host}}}))
    (folder / "config.json").write_text(json.dumps({"currentContext": "mine"}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    assert address.find(None).url == engine.url
    monkeypatch.delenv("DOCKER_HOST")
    assert owner.start(Container(IMAGE, ["true"])).details["engine"] == engine.url
    monkeypatch.setenv("DOCKER_CONTEXT", "other")
    assert address.find(None).url == "unix:///other.sock"
    monkeypatch.setenv("DOCKER_CONTEXT", "missing")
    with pytest.raises(StartError, match="docker context in use, 'missing', can't be read"):
        owner.start(Container(IMAGE, ["true"]))


@pytest.mark.slow
def test_an_engine_behind_ssh(
    engine: Engine,
    host: HostOf,
    make_owner: Callable[..., Owner],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through ssh(1), as for docker -H ssh://; no ssh of ours stays. Slow: a real sshd, a login for each connection."""
    if shutil.which("docker") is None:
        pytest.skip("no docker command for the other side")
    # What an administrator there would have set up: the engine's socket is the user's, and the command knows it.
    socket = engine.folder / "docker.sock"
    engine.folder.chmod(0o755)
    socket.chmod(0o666)
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(
        "#!/usr/bin/env python3\n"
        "import os, sys\n"
        f"ours = ['-i', {str(host.net.key)!r}, '-o', 'UserKnownHostsFile={host.net.known_hosts}', '-F', '/dev/null']\n"
        "end = sys.argv.index('--')\n"
        f"there = ['env', 'DOCKER_HOST={engine.url}', *sys.argv[end + 2:]]\n"
        "os.execv('/usr/bin/ssh', ['ssh', *ours, *sys.argv[1:end + 2], *there])\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    owner = make_owner()
    where = f"ssh://{USER}@{host.address}"
    job = owner.start(Container(IMAGE, ["sh", "-c", "echo far; sleep 1; exit 7"], name="job", engine=where))
    assert job.wait(timeout=30) == 7
    assert job.logs() == "far\n"
    owner.shutdown()
    assert engine.labelled() == []
    with pytest.raises(StartError):
        make_owner("other").start(Container(IMAGE, ["true"], engine="ssh://-oProxyCommand=true"))


# -- ports -------------------------------------------------------------------------------------------------------------------


def test_which_port_it_became_is_said(owner: Owner) -> None:
    """Of ports that were left to the engine."""
    web = owner.start(Container(IMAGE, ["httpd", "-f", "-p", "9000", "-h", "/bin"], ports={9000: None}))
    port = web.details["ports"][9000]
    eventually(lambda: _answers(port))


def _answers(port: int) -> bool:
    from urllib.error import URLError
    from urllib.request import urlopen

    try:
        with urlopen(f"http://127.0.0.1:{port}/busybox", timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def test_the_port_of_a_container_in_the_machines_network(owner: Owner) -> None:
    """port= is that port there, and not another one."""
    from tether.linux import sockets

    port = sockets.free_port()
    web = owner.start(Container(IMAGE, SERVE, network="host", port=port, ready=tcp()))
    assert web.url == f"http://127.0.0.1:{port}"


def test_a_container_of_others_is_followed(owner: Owner, engine: Engine) -> None:
    """Through a restart, which changes its port, and through being made anew under the same name."""

    def make() -> Any:
        return engine.client.containers.run(
            IMAGE,
            ["httpd", "-f", "-p", "80", "-h", "/bin"],
            detach=True,
            name="followed",
            init=True,
            ports={"80": ("127.0.0.1", 0)},
        )

    theirs = make()
    try:
        ref = owner.start(ContainerRef("followed", port=80, ready=http("/busybox")))
        engine.client.containers.get("followed").restart(timeout=1)

        def is_right() -> bool:
            shown = engine.client.containers.get("followed")
            (binding,) = shown.ports["80/tcp"] or [{"HostPort": "none"}]
            return ref.state is State.READY and ref.url == f"http://127.0.0.1:{binding['HostPort']}"

        eventually(is_right, 15)
        first = ref.details["container_id"]
        engine.client.containers.get("followed").remove(force=True)
        eventually(lambda: ref.state is State.LOST, 15)
        theirs = make()
        eventually(is_right, 15)
        assert ref.details["container_id"] != first
        assert ref.pids()
    finally:
        theirs.remove(force=True)


KEEPING = """
import sys
from tether import Owner, Container
owner = Owner("keeper", state_dir=sys.argv[1])
box = owner.start(Container(sys.argv[2], ["sleep", "100"], name="box", on_death="keep", stop_grace=0))
print(box.details["container_id"])
owner.shutdown()
"""


def test_a_kept_one_of_another_image_is_started_anew(runner: Runner, engine: Engine, private_state: Path) -> None:
    """The spec is equal, but the image's name means another image by now."""

    def keep() -> str:
        with runner.popen(KEEPING, private_state, "moving:latest") as process:
            return process.communicate(timeout=60)[0]

    engine.client.images.get(IMAGE).tag("moving", "latest")
    first = keep()
    assert first
    assert keep() == first
    made = engine.client.containers.create(IMAGE, ["true"])
    made.commit("moving", "latest")
    made.remove()
    assert keep() != first
    with Owner("keeper") as owner:
        owner.adopt("box").kill()
    assert engine.labelled() == []


# -- inside --------------------------------------------------------------------------------------------------------------------


def test_commands_and_files_inside(owner: Owner, tmp_path: Path) -> None:
    """Executed with input, environment, folder and user; copied in before the start and after it, and out."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/inner").write_text("inner")
    files: dict[str, bytes | Path] = {"/etc/app/conf": b"from bytes\n", "/srv/data": tmp_path / "folder"}
    box = owner.start(Container(IMAGE, ["sh", "-c", "cat /etc/app/conf; exec sleep 100"], files=files, stop_grace=0))
    eventually(lambda: "from bytes" in box.logs())
    done = box.exec(
        ["sh", "-c", "cat; echo $A; pwd; echo bad >&2; exit 3"], input="sent\n", env={"A": "b"}, workdir="/bin"
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "sent\nb\n/bin\n", "bad\n")
    assert box.exec(["id", "-u"], user="1000").stdout == "1000\n"
    large = "x" * 300_000
    assert box.exec(["cat"], input=large).stdout == large
    with pytest.raises(subprocess.CalledProcessError):
        box.exec(["sh", "-c", "exit 2"], check=True)
    with pytest.raises(DeadlineExceeded):
        box.exec(["sleep", "50"], timeout=0.5)
    box.copy_in(b"later", "/srv/later")
    assert box.exec(["cat", "/srv/later", "/srv/data/inner"]).stdout == "laterinner"
    box.copy_out("/srv", tmp_path / "out")
    assert (tmp_path / "out/data/inner").read_text() == "inner"
    box.copy_out("/etc/app/conf", tmp_path / "conf")
    assert (tmp_path / "conf").read_text() == "from bytes\n"
    with pytest.raises(NotFound):
        box.copy_out("/no/such", tmp_path / "nothing")
    box.stop()
    with pytest.raises(Gone):
        box.exec(["true"])
    with pytest.raises(SpecError):
        owner.start(Process(["sleep", "100"])).exec(["true"])


def test_standard_input_and_output_are_attached(owner: Owner) -> None:
    """A server that speaks over its standard streams; its error output is in its log, apart."""
    script = "echo hello; echo oops >&2; while read line; do echo got $line; done; exit 5"
    server = owner.start(Container(IMAGE, ["sh", "-c", script], stdin="pipe"))
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == b"hello\n"
    server.stdin.write(b"one\n")
    assert server.stdout.readline() == b"got one\n"
    server.stdin.close()
    assert server.stdout.read() == b""
    assert server.wait(timeout=20) == 5
    assert server.logs(stream="stderr") == "oops\n"
    assert server.logs(stream="stdout") == "hello\ngot one\n"


def test_standard_output_and_error_apart(owner: Owner) -> None:
    """While it runs, and after its end."""
    box = owner.start(Container(IMAGE, ["sh", "-c", "echo out; echo err >&2; exec sleep 100"], stop_grace=0))
    eventually(lambda: len(box.logs().splitlines()) == 2)
    for _ in range(2):
        assert box.logs(stream="stdout") == "out\n"
        assert box.logs(stream="stderr") == "err\n"
        box.stop()
    with pytest.raises(SpecError):
        owner.start(Process(["sleep", "100"])).logs(stream="stdout")


def test_a_health_check_of_ones_own(owner: Owner) -> None:
    """Instead of the image's."""
    check = HealthCheck(["sh", "-c", "test -e /tmp/up"], interval=0.2)
    script = "mkdir -p /tmp; sleep 1; echo > /tmp/up; exec sleep 100"
    began = time.monotonic()
    box = owner.start(
        Container(IMAGE, ["sh", "-c", script], health=check, ready=healthy(timeout=30), tmpfs={"/tmp": "size=1m"})
    )
    assert box.state is State.READY
    assert time.monotonic() - began > 0.9
    assert "size=1024k" in box.exec(["cat", "/proc/mounts"]).stdout


def test_the_engines_own_options(owner: Owner, engine: Engine) -> None:
    """By the names of its API, beside what the spec says; labels of ours stay."""
    options = {
        "Hostname": "chosen",
        "HostConfig": {"CapDrop": ["ALL"]},
        "Labels": {"tether.resource": "x", "more": "y"},
    }
    box = owner.start(Container(IMAGE, ["sleep", "100"], memory="64m", options=options, stop_grace=0))
    shown = engine.client.containers.get(box.details["container_id"])
    assert shown.attrs["Config"]["Hostname"] == "chosen"
    assert shown.attrs["HostConfig"]["CapDrop"] == ["ALL"]
    assert shown.attrs["HostConfig"]["Memory"] == 64 << 20
    assert shown.labels["tether.resource"] == box.id
    assert shown.labels["more"] == "y"


def test_a_network_shared_by_several(make_owner: Callable[..., Owner], engine: Engine) -> None:
    """They find each other by their aliases; it goes after them."""
    owner = make_owner()
    net = owner.start(Network("back"))
    owner.start(Container(IMAGE, ["httpd", "-f", "-p", "80", "-h", "/bin"], network=net, aliases=["db"], init=True))
    script = "until nc db 80 </dev/null; do sleep 0.1; done; echo reached; exec sleep 100"
    app = owner.start(Container(IMAGE, ["sh", "-c", script], name="app", network=net, ready=log("reached", timeout=30)))
    assert app.state is State.READY
    owner.shutdown(grace=0)
    assert net.state is State.GONE
    assert engine.labelled() == []


def test_aliases_need_a_network_that_has_names() -> None:
    """The engine's own have none."""
    with pytest.raises(SpecError):
        Container(IMAGE, aliases=["db"])
    with pytest.raises(SpecError):
        Container(IMAGE, network=object())


# -- an app that is in a container itself ------------------------------------------------------------------------------------------


BESIDE = """
import sys
from tether import Owner, Container, StartError, http
owner = Owner("beside", state_dir=sys.argv[1])
serve = ["httpd", "-f", "-p", "{port}", "-h", "/bin"]
try:
    web = owner.start(Container(sys.argv[2], serve, network=sys.argv[3], init=True, ready=http("/busybox", timeout=20)))
    print("ready", web.url)
except StartError as error:
    print(error)
quiet = owner.start(Container(sys.argv[2], serve, network=sys.argv[3], name="quiet", init=True))
print("unreachable" in quiet.details)
owner.shutdown(grace=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_an_app_in_a_container_beside_its_engine(
    runner: Runner, engine: Engine, private_state: Path, tmp_path: Path, *, shared: bool
) -> None:
    """In one network with it, the container's own address is used; else it is said what can't be reached. Slow: three containers."""
    network = engine.client.networks.create("shared-with-app")
    app = engine.client.containers.run(
        IMAGE, ["sleep", "100"], detach=True, network="shared-with-app" if shared else "none", init=True
    )
    try:
        app.reload()
        # The app's own container, as far as an app can see it: network, host name, and the file that engines make.
        inside = f'mount -t tmpfs tmpfs /run && touch /run/.containerenv && hostname {str(app.id)[:12]} && exec "$@"'
        enter = ["nsenter", "-t", str(app.attrs["State"]["Pid"]), "-n", "unshare", "-m", "-u", "sh", "-c", inside, "sh"]
        command = [*enter, *runner.command, "-c", BESIDE, str(private_state), IMAGE, "shared-with-app"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        if shared:
            assert re.match(r"ready http://(172|192\.168|10)\.", done.stdout), done.stdout
            assert done.stdout.endswith("False\n")
        else:
            assert "this app runs in a container itself" in done.stdout, done.stdout
            assert "--network host" in done.stdout
            assert done.stdout.endswith("True\n")
        assert engine.labelled() == []
    finally:
        app.remove(force=True)
        network.remove()
