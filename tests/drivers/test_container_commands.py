"""Containers that commands make, docker run and podman run: real clients, a real engine, and a Podman without any service."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tether.subprocess
from engine import IMAGE, Engine, make_rootfs
from support import Runner, eventually
from tether import Owner, Process, State
from tether.drivers.container import words
from tether.ledger.store import Ledger

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="no docker(1)")

LABEL = "tether.client"


@pytest.fixture
def docker(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """As most users have it: the engine is found by DOCKER_HOST. Returns what builds a command line."""
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    return lambda *more: ["docker", "run", *more[:-1], IMAGE, *more[-1]]


def _made(engine: Engine, status: str | None = None) -> list[Any]:
    found = engine.client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
    return [each for each in found if status in (None, each.status)]


def _running(engine: Engine) -> Any:
    return eventually(lambda: _made(engine, "running"), 20)[0]


@pytest.fixture(autouse=True)
def no_container_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """What stays without --rm, as users expect, is removed here."""
    yield
    if "engine" in request.fixturenames:
        engine: Engine = request.getfixturevalue("engine")
        for each in engine.client.containers.list(all=True, ignore_removed=True):
            each.remove(force=True)


SLEEP = ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done"]
DEAF = ["sh", "-c", "trap '' TERM; sleep 110"]


@pytest.mark.slow
@pytest.mark.parametrize("rm", [("--rm",), ()])
def test_a_container_ends_with_its_command(
    owner: Owner, engine: Engine, docker: Callable[..., list[str]], rm: tuple[str, ...]
) -> None:
    """It has the label; stop() is polite; with --rm nothing is left, without it what has ended. Slow: a client and an engine."""
    made = owner.start(Process(docker(*rm, "-e", "A=b", SLEEP), name="web", stop_grace=20))
    container = _running(engine)
    held = owner.resource("web-container")
    assert container.labels[LABEL] == held.id
    assert eventually(lambda: held.info()["container_id"]) == container.id
    made.stop()
    assert made.exit_code == 7
    assert held.state is State.GONE
    assert [each.status for each in _made(engine)] == ([] if rm else ["exited"])


@pytest.mark.slow
@pytest.mark.parametrize("rm", [("--rm",), ()])
def test_a_deaf_one_ends_too(
    owner: Owner, engine: Engine, docker: Callable[..., list[str]], rm: tuple[str, ...]
) -> None:
    """Its client is killed after the grace, and the container with it. Slow: as above."""
    made = owner.start(Process(docker(*rm, DEAF), name="web", stop_grace=0.5))
    _running(engine)
    made.stop()
    assert owner.resources == []
    assert _made(engine, "running") == []
    assert len(_made(engine)) == (0 if rm else 1)


@pytest.mark.slow
def test_one_that_ends_by_itself(owner: Owner, engine: Engine, docker: Callable[..., list[str]]) -> None:
    """Its exit code and output come, and nothing is held any longer. Slow: as above."""
    made = owner.start(Process(docker("--rm", ["sh", "-c", "echo hello; exit 3"]), name="job"))
    assert made.wait(timeout=60) == 3
    assert made.logs() == "hello\n"
    eventually(lambda: owner.resources == [], 20)
    assert _made(engine) == []


@pytest.mark.slow
def test_what_its_client_leaves_running_ends(owner: Owner, engine: Engine, docker: Callable[..., list[str]]) -> None:
    """Somebody kills the client alone, which plain Docker survives. Slow: as above."""
    made = owner.start(Process(docker(DEAF), name="web", stop_grace=0.2))
    _running(engine)
    made.kill()
    eventually(lambda: _made(engine, "running") == [] and owner.resources == [], 20)


APP = """
import sys, time
from tether import Owner, Process
owner = Owner("app", state_dir=sys.argv[1])
owner.start(Process(["docker", "run", *sys.argv[2:]], name="web", stop_grace=0.2))
print("up", flush=True)
time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--rm",), ("--name", "mine"), ("--restart", "always")])
def test_a_killed_owner_leaves_nothing_running(
    runner: Runner, engine: Engine, docker: Callable[..., list[str]], private_state: Path, more: tuple[str, ...]
) -> None:
    """After kill -9 the guard has its estate settled, also where the engine starts anew what ends. Slow: as above, and a Python."""
    with runner.popen(APP, private_state, *docker(*more, DEAF)[2:], env={"DOCKER_HOST": engine.url}) as app:
        assert app.stdout is not None
        assert app.stdout.readline() == "up\n"
        _running(engine)
        app.kill()
    eventually(lambda: _made(engine, "running") == [], 30)
    ledger = Ledger(private_state)
    eventually(lambda: not ledger.resources(), 20)
    events = [event.detail for event in ledger.events() if event.name == "web-container" and event.what == "gone"]
    assert any("its owner died" in each for each in events), events


@pytest.mark.slow
def test_a_committed_container_is_left_alone(owner: Owner, engine: Engine, docker: Callable[..., list[str]]) -> None:
    """A commit copies the labels: ten containers of that image outlive stop() and kill(). Slow: as above."""
    made = owner.start(Process(docker("--rm", SLEEP), name="web", stop_grace=20))
    container = _running(engine)
    container.commit("committed", "latest")
    mine = [engine.client.containers.run("committed", ["sleep", "100"], detach=True) for _ in range(10)]
    try:
        assert len(_made(engine, "running")) == 11
        made.restart()
        made.stop()
        assert {each.id for each in _made(engine)} == {each.id for each in mine}
        assert {each.status for each in _made(engine)} == {"running"}
    finally:
        for each in mine:
            each.remove(force=True)
        engine.client.images.remove("committed", force=True)


@pytest.mark.slow
def test_what_was_created_and_never_started_goes(
    owner: Owner, engine: Engine, docker: Callable[..., list[str]]
) -> None:
    """The engine refuses to start it: plain Docker leaves it behind. Slow: as above."""
    made = owner.start(Process(docker(["there-is-no-such-program"]), name="web"))
    assert made.wait(timeout=60) == 127
    eventually(lambda: owner.resources == [], 20)
    assert _made(engine) == []


@pytest.mark.slow
def test_a_restart_runs_one(owner: Owner, engine: Engine, docker: Callable[..., list[str]]) -> None:
    """Also of a deaf one, whose client was killed. Slow: as above."""
    made = owner.start(Process(docker("--rm", "--name", "one", DEAF), name="web", stop_grace=0.2))
    first = _running(engine).id
    made.restart()
    second = _running(engine).id
    assert first != second
    assert len(_made(engine)) == 1


@pytest.mark.slow
def test_the_context_in_use_at_the_start_counts(
    owner: Owner, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one is made the usual one meanwhile: the end is asked for where the container is. Slow: as above."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    subprocess.run(
        ["docker", "context", "create", "here", f"--docker=host={engine.url}"], check=True, capture_output=True
    )
    subprocess.run(["docker", "context", "use", "here"], check=True, capture_output=True)
    made = owner.start(Process(["docker", "container", "run", "--rm", IMAGE, *DEAF], name="web", stop_grace=0.2))
    _running(engine)
    subprocess.run(["docker", "context", "use", "default"], check=True, capture_output=True)
    made.stop()
    assert _made(engine) == []


@pytest.mark.slow
def test_an_engine_that_is_not_there(owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client says so, as ever; nothing ran, so nothing is looked for in vain at every sweep from then on. Slow: a client."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    made = owner.start(Process(["docker", "run", "--rm", IMAGE, "true"], name="job"))
    assert made.wait(timeout=60) not in (0, None)
    assert "nobody.sock" in made.logs()
    eventually(lambda: owner.resources == [], 20)


@pytest.mark.slow
def test_an_engine_that_went_away_is_said(
    runner: Runner, engine: Engine, docker: Callable[..., list[str]], private_state: Path
) -> None:
    """A container runs, and its engine can't be asked: it stays on record, and ends at the next sweep. Slow: as above."""
    link = private_state.parent / "engine.sock"
    link.symlink_to(engine.url.removeprefix("unix://"))
    with runner.popen(APP, private_state, *docker(DEAF)[2:], env={"DOCKER_HOST": f"unix://{link}"}) as app:
        assert app.stdout is not None
        assert app.stdout.readline() == "up\n"
        _running(engine)
        link.unlink()
        app.kill()
    ledger = Ledger(private_state)
    failed = eventually(
        lambda: [event.detail for event in ledger.events() if event.what == "cleanup failed"], 30, "said that it failed"
    )
    assert "can't be asked" in failed[0]
    assert _made(engine, "running") != []
    link.symlink_to(engine.url.removeprefix("unix://"))
    subprocess.run(
        [sys.executable, "-m", "tether", "reap"],
        env={**os.environ, "TETHER_STATE_DIR": str(private_state)},
        check=True,
        timeout=90,
    )
    assert _made(engine, "running") == []


@pytest.mark.slow
def test_tether_run_holds_it_too(engine: Engine, docker: Callable[..., list[str]], private_state: Path) -> None:
    """As MCP clients start servers in containers; this one's client is killed. Slow: as above."""
    words_ = [sys.executable, "-m", "tether", "run", "--without-parent", "--", *docker("--rm", "-i", DEAF)]
    app = subprocess.Popen(words_, stdin=subprocess.PIPE)
    try:
        _running(engine)
    finally:
        app.kill()
        app.communicate()
    eventually(lambda: _made(engine) == [], 30)


@pytest.mark.slow
def test_subprocess_holds_it_too(engine: Engine, docker: Callable[..., list[str]], private_state: Path) -> None:
    """One import changes, and the result is as before. Slow: as above."""
    said = tether.subprocess.run(docker("--rm", ["echo", "hello"]), capture_output=True, text=True, check=True)
    assert said.stdout == "hello\n"
    tether.subprocess.owner().shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "why"),
    [(("-d",), "goes on by itself"), (("--gpu-of-tomorrow", "all"), "--gpu-of-tomorrow is not known to tether")],
)
def test_what_is_not_held_is_said_and_left_as_it_is(
    owner: Owner,
    engine: Engine,
    docker: Callable[..., list[str]],
    caplog: pytest.LogCaptureFixture,
    more: tuple[str, ...],
    why: str,
) -> None:
    """Detached by its user's word, or with an option that is not understood: no word is added. Slow: as above."""
    with caplog.at_level(logging.WARNING, "tether"):
        made = owner.start(Process(docker(*more, ["sleep", "100"]), name="web"))
    made.wait(timeout=60)
    assert why in caplog.text
    assert _made(engine) == []
    assert len(engine.client.containers.list()) == (more == ("-d",))


def test_no_program_is_said_as_ever(owner: Owner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As subprocess says it, with nothing left on record."""
    with pytest.raises(FileNotFoundError):
        owner.start(Process(["docker", "run", IMAGE], env={"PATH": str(tmp_path)}))
    assert owner.resources == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("docker run image", (1, 2, False, None)),
        ("docker --context x -H tcp://h -D container run --rm image -d", (6, 8, False, None)),
        ("docker run -itd image", (1, 2, True, None)),
        ("docker run -d=false --detach=true --detach=0 image", (1, 2, False, None)),
        ("docker run -p80:80 -ep=d --cidfile=f -- image", (1, 2, False, "f")),
        ("docker run -itp 80:80 --entrypoint -d image --cidfile x", (1, 2, False, None)),
        ("/usr/bin/podman --root /r --remote run --cidfile f image", (4, 5, False, "f")),
    ],
)
def test_a_command_line_is_read(line: str, expected: tuple[int, int, bool, str | None]) -> None:
    """Options of the program, of run, and those of the command in the container, which are none of ours."""
    argv = line.split()
    run = words.read(argv)
    assert isinstance(run, words.Run)
    assert (len(run.client), run.verb, run.detached, run.cidfile) == expected
    assert run.with_options(argv, ["--label", "x"]) == [*argv[: run.verb], "--label", "x", *argv[run.verb :]]


@pytest.mark.parametrize(
    "line", ["docker ps", "docker exec web run", "docker run", "docker run --help", "ls run", "docker create image"]
)
def test_others_are_none_of_ours(line: str) -> None:
    """They make no container that runs, or not with the command."""
    assert words.read(line.split()) is None


@pytest.mark.parametrize(
    "line", ["docker --new run image", "docker run -X image", "docker run -e", "podman --new=1 run image"]
)
def test_what_is_not_understood_is_said(line: str) -> None:
    """The word that is not known, by name."""
    assert isinstance(words.read(line.split()), str)


@pytest.fixture(scope="module")
def podman() -> Iterator[list[str]]:
    """A Podman without any service: its client runs containers by itself."""
    if os.getuid() != 0 or shutil.which("podman") is None or shutil.which("runc") is None:
        pytest.skip("only root can run Podman here, and podman and runc must be installed")
    # Podman wants a path of at most fifty characters.
    folder = Path(tempfile.mkdtemp(prefix="podman-"))
    command = ["podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run", "--storage-driver", "vfs"]
    command += ["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc"]
    make_rootfs(folder / "image.tar")
    subprocess.run(
        [*command, "import", "--quiet", folder / "image.tar", "localhost/tether-test:latest"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield command
    finally:
        subprocess.run([*command, "rm", "--all", "--force"], check=False, capture_output=True)
        for line in Path("/proc/mounts").read_text().splitlines():
            if line.split()[1].startswith(f"{folder}/"):
                subprocess.run(["umount", "--lazy", line.split()[1]], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("rm", [("--rm",), ()])
def test_a_podman_without_a_service(owner: Owner, podman: list[str], rm: tuple[str, ...]) -> None:
    """Its monitor is of the tree, and is killed with it: what podman then can't see end is removed. Slow: Podman, and its patience."""
    limits = ["--network", "none", "--ulimit", "nproc=4096:4096", "--ulimit", "nofile=1024:1024"]
    run = [*podman, "run", *rm, *limits, "localhost/tether-test:latest", *DEAF]
    made = owner.start(Process(run, name="web", stop_grace=0.3))
    held = owner.resource("web-container")
    asked = [*podman, "ps", "--all", "--filter", f"label={LABEL}={held.id}", "--format", "{{.Status}}"]

    def status() -> str:
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()

    eventually(lambda: status().startswith("Up"), 30, made.logs())
    made.stop()
    assert owner.resources == []
    assert not status().startswith("Up")


@pytest.mark.slow
def test_a_podman_without_a_service_that_ends_by_itself(owner: Owner, podman: list[str]) -> None:
    """Its exit code comes, and without --rm it stays. Slow: Podman."""
    limits = ["--network", "none", "--ulimit", "nproc=4096:4096", "--ulimit", "nofile=1024:1024"]
    made = owner.start(
        Process([*podman, "run", *limits, "localhost/tether-test:latest", "sh", "-c", "exit 7"], name="job")
    )
    held = owner.resource("job-container")
    assert made.wait(timeout=60) == 7
    eventually(lambda: held.state is State.GONE, 30)
    asked = [*podman, "ps", "--all", "--filter", f"label={LABEL}={held.id}", "--format", "{{.Status}}"]
    assert subprocess.run(asked, check=True, capture_output=True, text=True).stdout.startswith("Exited (7)")
