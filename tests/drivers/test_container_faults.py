"""Containers when the engine is odd: no wrong victim, no end unheard, a refusal is not a loss, and nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import engine_proxy
from engine import IMAGE, Engine
from engine_proxy import Proxy
from support import Runner, eventually
from tether import Container, ContainerRef, DriverUnavailable, Owner, StartError, State, healthy, tcp
from tether.ledger.store import Ledger

SERVE = ["httpd", "-f", "-p", "{port}", "-h", "/bin"]


@pytest.fixture(autouse=True)
def docker_host(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As most users have it: the engine is found by DOCKER_HOST."""
    monkeypatch.setenv("DOCKER_HOST", engine.url)


@pytest.fixture
def proxy(engine: Engine, tmp_path: Path) -> Iterator[Proxy]:
    """A proxy in front of the engine."""
    with engine_proxy.in_front_of(engine.folder / "docker.sock", tmp_path / "proxy.sock") as made:
        yield made


@pytest.fixture
def owner(proxy: Proxy, private_state: Path) -> Iterator[Owner]:
    """An owner, shut down before the proxy is."""
    with Owner("test") as made:
        yield made
    assert proxy.url


def run(script: str, **more: Any) -> Container:
    """A container of a shell script."""
    return Container(IMAGE, ["sh", "-c", script], **{"stop_grace": 0, **more})


# -- no wrong victim -------------------------------------------------------------------------------------------------------


COMMITTED = """
import os, signal, sys
from tether import Owner, Container
owner = Owner("committed", state_dir=sys.argv[1])
for number in range(5):
    owner.start(Container(sys.argv[2], ["sleep", "100"], name=f"c{number}", mounts={"/data": None}, stop_grace=0))
print(*[each.details["container_id"] for each in owner.resources], flush=True)
sys.stdin.readline()
if sys.argv[3] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
owner.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_users_container_of_a_committed_image_survives(
    runner: Runner, engine: Engine, private_state: Path, end: str
) -> None:
    """``docker commit`` copies the labels: the user's container and its volume stay, at a stop, a crash and a sweep. Slow: an engine."""
    users = []
    with runner.popen(COMMITTED, private_state, IMAGE, end, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number, container in enumerate(process.stdout.readline().split()):
            engine.client.containers.get(container).commit("snapshot", f"v{number}")
            users.append(
                engine.client.containers.run(
                    f"snapshot:v{number}", ["sleep", "100"], detach=True, name=f"users-{number}", volumes=["/precious"]
                )
            )
            assert users[-1].labels["tether.resource"]
        process.stdin.write("\n")
        process.stdin.close()
        process.wait(60)
    try:
        eventually(lambda: len(engine.labelled()) == len(users), 30, what="only the users' are left")
        subprocess.run([sys.executable, "-m", "tether", "reap", "--all"], check=True, timeout=100, capture_output=True)
        for user in users:
            user.reload()
            assert user.status == "running"
            (mount,) = user.attrs["Mounts"]
            assert engine.client.volumes.get(mount["Name"])
        assert Ledger(private_state).resources() == []
    finally:
        for user in users:
            user.remove(force=True, v=True)


def test_pids_are_this_machines_and_the_containers(owner: Owner, proxy: Proxy) -> None:
    """What the engine numbers is not believed: a process counts by its cgroup, also where no engine answers."""
    box = owner.start(run("sleep 100 & sleep 100 & wait", engine=proxy.url))
    eventually(lambda: len(box.pids()) == 3)
    asked = len(proxy.seen)
    for pid in box.pids():
        assert box.details["container_id"] in Path(f"/proc/{pid}/cgroup").read_text()
    assert not any("/top" in each for each in proxy.seen[asked:])
    assert box.pid == box.pids()[0]
    assert b"sh" in Path(f"/proc/{box.pid}/cmdline").read_bytes()


# -- no end unheard ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_silent_event_stream_is_noticed(owner: Owner, proxy: Proxy) -> None:
    """Nothing comes any more and nothing is closed: the end is seen all the same, within 30 s. Slow: that is the pace of looks."""
    job = owner.start(run("sleep 1; exit 7", name="job", engine=proxy.url))
    web = owner.start(run("sleep 100", name="web", engine=proxy.url))
    proxy.silence_events()
    began = time.monotonic()
    assert job.wait(timeout=30) == 7
    assert job.state is State.FAILED
    assert time.monotonic() - began < 30
    assert web.state is State.READY


def test_an_engine_whose_events_may_not_be_heard(owner: Owner, proxy: Proxy) -> None:
    """A proxy refuses them: it is looked at instead."""
    proxy.on("/events", status=403, times=-1)
    job = owner.start(run("sleep 0.5; exit 7", engine=proxy.url))
    assert job.wait(timeout=15) == 7


def test_one_error_while_reconnecting_leaves_no_other_lost(owner: Owner, proxy: Proxy) -> None:
    """The trouble of one look is that look's: after a cut all are seen again."""
    boxes = [owner.start(run("sleep 100", name=f"box{n}", engine=proxy.url)) for n in range(3)]
    proxy.on(r"GET .*/containers/", status=500, times=2)
    proxy.cut()
    eventually(lambda: sum("/events" in each for each in proxy.seen) >= 2)
    eventually(lambda: all(each.state is State.READY for each in boxes), 15)
    engine_says = [each.details["container_id"] for each in boxes]
    assert len(set(engine_says)) == 3


def test_a_slow_removal_holds_up_no_other_end(owner: Owner, proxy: Proxy) -> None:
    """Nothing slow is done by who hears the events."""
    slow = owner.start(run("sleep 0.5; exit 0", name="slow", engine=proxy.url))
    quick = owner.start(run("sleep 1.0; exit 0", name="quick", engine=proxy.url))
    proxy.on(f"DELETE .*/containers/{slow.details['container_id']}", delay_s=8)
    began = time.monotonic()
    assert quick.wait(timeout=20) == 0
    assert time.monotonic() - began < 6
    assert slow.wait(timeout=20) == 0


# -- refused is not unreachable ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exit_code", [0, 3])
def test_a_volume_in_use_is_said_and_hangs_nobody(owner: Owner, engine: Engine, exit_code: int) -> None:
    """wait() returns the code, state and reason say what is left, and it goes as soon as it can."""
    job = owner.start(run(f"sleep 1; exit {exit_code}", mounts={"/data": None}))
    (volume,) = [str(each.name) for each in engine.client.volumes.list(filters={"label": "tether.resource"})]
    side = engine.client.containers.run(IMAGE, ["sleep", "100"], detach=True, volumes=[f"{volume}:/x"])
    try:
        assert job.wait(timeout=20) == exit_code
        assert job.state is State.STOPPING
        assert volume[:20] in job.reason
        assert "in use" in job.reason
    finally:
        side.remove(force=True)
    eventually(lambda: job.state.is_final, 40)
    assert job.state is (State.FAILED if exit_code else State.GONE)
    assert engine.labelled() == []


@pytest.mark.parametrize("status", [409, 500])
@pytest.mark.parametrize("exit_code", [0, 3])
def test_a_removal_that_is_refused_for_a_moment(owner: Owner, proxy: Proxy, status: int, exit_code: int) -> None:
    """It is asked for again, and the end comes."""
    proxy.on("DELETE .*/containers/", status=status, times=5)
    job = owner.start(run(f"sleep 0.3; exit {exit_code}", engine=proxy.url))
    assert job.wait(timeout=20) == exit_code
    eventually(lambda: job.state is (State.FAILED if exit_code else State.GONE), 20)


def test_a_proxy_that_lets_only_containers_pass(owner: Owner, proxy: Proxy, engine: Engine) -> None:
    """Networks and volumes are asked for only where some were made."""
    proxy.on("/(networks|volumes|info|version)", status=403, times=-1)
    box = owner.start(run("exec httpd -f -p {port} -h /bin", engine=proxy.url, ready=tcp()))
    box.stop()
    assert box.state is State.GONE
    assert engine.labelled() == []


def test_a_stop_that_is_refused_goes_on_to_destroy(owner: Owner, proxy: Proxy) -> None:
    """By force, then."""
    box = owner.start(run("sleep 100", engine=proxy.url))
    proxy.on("POST .*/stop", status=500, times=-1)
    box.stop()
    assert box.state is State.GONE


@pytest.mark.parametrize("pattern", [r"GET .*/containers/json", r"GET .*/networks", r"GET .*/volumes"])
@pytest.mark.parametrize("status", [404, 500])
def test_one_failed_look_in_an_end_ends_nothing_else(
    owner: Owner, proxy: Proxy, engine: Engine, pattern: str, status: int
) -> None:
    """Everything goes all the same."""
    box = owner.start(run("sleep 100", engine=proxy.url, network="own", mounts={"/data": None}))
    proxy.on(pattern, status=status)
    box.kill()
    assert box.state is State.GONE
    assert engine.labelled() == []


@pytest.mark.parametrize("drop", [True, False], ids=["dropped", "refused"])
def test_one_failed_look_ends_no_sound_start(owner: Owner, proxy: Proxy, *, drop: bool) -> None:
    """It is asked again how the container is."""
    rule = proxy.on(r"GET .*/containers/[^/]*/json", status=500, drop=drop)
    box = owner.start(run("exec httpd -f -p {port} -h /bin", engine=proxy.url, ready=tcp()))
    assert rule.hits == 1
    assert box.state is State.READY


@pytest.mark.parametrize("command", ["stop", "kill"])
def test_what_was_stopped_from_outside_is_gone_with_who_asked(owner: Owner, command: str) -> None:
    """Not failed, "ended by itself, 137"."""
    box = owner.start(run("sleep 100", name="box"))
    subprocess.run([sys.executable, "-m", "tether", command, "box"], check=True, capture_output=True, timeout=60)
    box.wait(timeout=10)
    assert box.state is State.GONE
    assert f"tether {command}" in box.reason


def test_a_paused_container_says_so(owner: Owner, engine: Engine) -> None:
    """In its reason; it is stopped all the same."""
    box = owner.start(run("sleep 100"))
    container = engine.client.containers.get(box.details["container_id"])
    container.pause()
    eventually(lambda: box.reason == "paused")
    assert box.info()["state"] == "ready"
    container.unpause()
    eventually(lambda: box.reason == "")
    container.pause()
    box.stop()
    assert box.state is State.GONE


def test_healthy_without_a_health_check_is_refused_at_once(owner: Owner, engine: Engine) -> None:
    """Of an image, and of a container that is there."""
    began = time.monotonic()
    with pytest.raises(StartError, match=r"image .* has no health check"):
        owner.start(Container(IMAGE, SERVE, ready=healthy(timeout=30)))
    theirs = engine.client.containers.run(IMAGE, ["sleep", "100"], detach=True, name="theirs-unchecked")
    try:
        with pytest.raises(StartError, match="container theirs-unchecked has no health check"):
            owner.start(ContainerRef("theirs-unchecked", ready=healthy(timeout=30)))
    finally:
        theirs.remove(force=True)
    assert time.monotonic() - began < 15
    assert engine.labelled() == []


# -- after shutdown ------------------------------------------------------------------------------------------------------------


def test_owners_one_after_the_other_leave_threads_and_descriptors_as_they_were(
    proxy: Proxy, make_owner: Callable[..., Owner]
) -> None:
    """Fifteen of them: nothing of a driver goes on after shutdown()."""

    def live_and_end() -> None:
        owner = make_owner("short")
        owner.start(run("sleep 100", engine=proxy.url))
        owner.shutdown()

    def count() -> tuple[int, int]:
        mine = [each for each in threading.enumerate() if each.name.startswith("tether")]
        return len(mine), len([fd for fd in os.listdir("/proc/self/fd") if fd])

    live_and_end()
    time.sleep(0.2)
    before = count()
    for _ in range(15):
        live_and_end()
    eventually(lambda: count()[0] <= before[0] and count()[1] <= before[1], 10, what=f"{before} before, {count()} now")


def test_the_owner_before_does_not_remove_what_was_kept(make_owner: Callable[..., Owner], engine: Engine) -> None:
    """After shutdown() what happens to a kept container is the next owner's concern alone."""
    first = make_owner("keeper")
    box = first.start(run("sleep 100", name="box", on_death="keep"))
    container = engine.client.containers.get(box.details["container_id"])
    first.shutdown()
    second = make_owner("keeper")
    kept = second.adopt("box")
    container.kill()
    kept.wait(timeout=10)
    assert (kept.state, kept.exit_code) == (State.FAILED, 137)
    assert engine.labelled() == []


# -- a frozen engine -------------------------------------------------------------------------------------------------------------


def test_status_with_a_frozen_engine(owner: Owner, proxy: Proxy) -> None:
    """One look at each engine, at most two seconds; what is not known is said as unknown, with its age."""
    boxes = [owner.start(run("sleep 100", name=f"box{n}", engine=proxy.url)) for n in range(3)]
    assert "unknown" not in owner.status()["resources"][0]
    proxy.freeze()
    began = time.monotonic()
    status = owner.status()
    assert time.monotonic() - began < 3
    for shown in status["resources"]:
        assert "last seen" in shown["unknown"]
        assert shown["seen_s"] > 0
        assert shown["pids"]
    proxy.thaw()
    eventually(lambda: all(each.state is State.READY for each in boxes), 20)
    assert "unknown" not in owner.status()["resources"][0]


@pytest.mark.slow
def test_a_frozen_engine_is_lost_and_found(owner: Owner, proxy: Proxy) -> None:
    """Without any event, and without any question of ours. Slow: that is the pace of looks."""
    box = owner.start(run("sleep 100", engine=proxy.url))
    proxy.freeze()
    eventually(lambda: box.state is State.LOST, 30)
    assert "does not answer within" in box.reason
    with pytest.raises(DriverUnavailable):
        box.usage()
    proxy.thaw()
    eventually(lambda: box.state is State.READY, 20)


# -- whatever happens to a call ------------------------------------------------------------------------------------------------


def live_and_end(owner: Owner, proxy: Proxy) -> str:
    """Start a server with everything, end it, and say what came of it."""
    spec = run("exec httpd -f -p {port} -h /bin", engine=proxy.url, ready=tcp(), network="own", mounts={"/data": None})
    try:
        resource = owner.start(spec)
    except StartError as error:
        return str(error)
    try:
        resource.stop()
    except DriverUnavailable:
        resource.wait(timeout=30)
    return resource.state.value


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 404}, {"drop": True}], ids=["500", "404", "drop"])
def test_a_fault_in_any_call_leaves_nothing_and_hangs_nobody(
    owner: Owner, proxy: Proxy, engine: Engine, fault: dict[str, Any]
) -> None:
    """Each request of a whole life fails once, in its turn. Slow: as many lives as there are requests in one."""
    asked = len(proxy.seen)
    assert live_and_end(owner, proxy) == "gone"
    lines = [line for line in proxy.seen[asked:] if "/events" not in line]
    for number in range(len(lines)):
        proxy.on("^(?!.*/events)", skips=number, **fault)
        began = time.monotonic()
        said = live_and_end(owner, proxy)
        proxy.forget_rules()
        assert time.monotonic() - began < 40, (lines[number], said)
        eventually(lambda: engine.labelled() == [], 35, what=f"{lines[number]} {fault}: {said}")
    eventually(lambda: owner.resources == [], 40)


@pytest.mark.slow
def test_fifty_at_once(owner: Owner, engine: Engine) -> None:
    """Started side by side, each heard to end with its own code. Slow: fifty containers."""
    with ThreadPoolExecutor(10) as pool:
        jobs = list(pool.map(lambda n: owner.start(run(f"exit {n}", name=f"job{n}")), range(50)))
    assert [job.wait(timeout=60) for job in jobs] == list(range(50))
    eventually(lambda: engine.labelled() == [], 30)
