"""Fixtures of all tests. Whatever a test leaves running fails it."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cloud.ec2
import cloud.serverless
import engine as engines
import hosts
import support
import tether
from engine import Engine
from tether import Owner
from tether.linux import members, proc, signals, tree


def pytest_configure() -> None:
    """Begin with the signals as a terminal's shell gives them: all that tests start inherits what is ignored.

    A shell without job control ignores Ctrl-C in what it starts in the background; nohup(1) ignores SIGHUP.
    """
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process behind, and end that."""
    before, marks = set(tree.descendants(os.getpid())), os.environ.get(members.OWNER)
    yield
    assert os.environ.get(members.OWNER) == marks, "an owner was not shut down"
    if "real_services" in request.fixturenames:
        return

    def left() -> list[int]:
        # An engine or sshd that a test stopped and started again is the fixture's.
        names = [name for name in ("engine", "host", "ec2", "serverless") if name in request.fixturenames]
        running = [process for name in names if (process := request.getfixturevalue(name).process) is not None]
        expected = {pid for process in running for pid in (process.pid, *tree.descendants(process.pid))}
        return [pid for pid in tree.descendants(os.getpid()) if pid not in before | expected]

    try:
        support.eventually(lambda: not left(), 8.0)
    except AssertionError:
        names = []
        for pid in left():
            stat = proc.read_stat(pid)
            if stat is not None:
                names.append(f"{pid} {stat.name!r}")
                signals.send(pid, stat.start, signal.SIGKILL)
        pytest.fail(f"left running: {', '.join(names)}")


@pytest.fixture(autouse=True)
def private_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a state directory of its own."""
    folder = tmp_path / "state"
    monkeypatch.setenv("TETHER_STATE_DIR", str(folder))
    return folder


@pytest.fixture
def owner(private_state: Path) -> Iterator[Owner]:
    """An owner, shut down at the end."""
    with Owner("test") as made:
        yield made


@pytest.fixture
def make_owner(private_state: Path) -> Iterator[Callable[..., Owner]]:
    """Make owners that are shut down at the end."""
    made: list[Owner] = []

    def make(name: str = "test", **more: object) -> Owner:
        made.append(Owner(name, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.shutdown(grace=0.5)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine of the tests' own."""
    missing = engines.why_not()
    if missing:
        pytest.skip(missing)
    with tempfile.TemporaryDirectory(prefix="tether-docker-") as folder, engines.running(Path(folder)) as started:
        yield started


@pytest.fixture(scope="session")
def net() -> Iterator[hosts.Net]:
    """An ordinary user for other hosts."""
    missing = hosts.why_not()
    if missing:
        pytest.skip(missing)
    with tempfile.TemporaryDirectory(prefix="tether-net-") as folder, hosts.made(Path(folder)) as made:
        yield made


@pytest.fixture(scope="session")
def host(net: hosts.Net) -> Iterator[hosts.HostOf]:
    """Another host, with Python."""
    with hosts.running(net, 1) as started:
        yield started


@pytest.fixture(scope="session")
def ec2() -> Iterator[cloud.ec2.Ec2]:
    """A stand-in for EC2 with real machines."""
    missing = cloud.ec2.why_not()
    if missing:
        pytest.skip(missing)
    with tempfile.TemporaryDirectory(prefix="tether-ec2-") as folder, cloud.ec2.running(Path(folder)) as started:
        yield started


@pytest.fixture(scope="session")
def serverless() -> Iterator[cloud.serverless.Serverless]:
    """A stand-in for ECS and Lambda with real processes."""
    with cloud.serverless.running() as started:
        yield started


@pytest.fixture(scope="session")
def user_runner() -> Iterator[support.Runner]:
    """Run Python as an ordinary user."""
    if os.getuid() != 0:
        pytest.skip("only root can run a test as another user")
    if not Path("/usr/bin/python3").exists():
        pytest.skip("no /usr/bin/python3 that every user can run")
    with tempfile.TemporaryDirectory(prefix="tether-user-") as folder:
        Path(folder).chmod(0o755)
        yield support.ordinary_user(Path(folder))


@pytest.fixture
def runner(tmp_path: Path) -> support.Runner:
    """Run Python as the user of the tests."""
    return support.this_user(tmp_path)


@pytest.fixture(params=["root", "user"])
def each_runner(request: pytest.FixtureRequest, tmp_path: Path) -> support.Runner:
    """Run Python as the user of the tests, and as an ordinary one."""
    if request.param == "root":
        return support.this_user(tmp_path)
    runner: support.Runner = request.getfixturevalue("user_runner")
    return runner


def _built(kind: str) -> str:
    found = Path(tether.__file__).parent / "guard/bin" / kind / "tether-guard"
    if not found.exists():
        pytest.skip(f"the guard was not built for tests: make guard ({found})")
    return str(found)


@pytest.fixture(scope="session")
def faulty() -> str:
    """The guard built with fault points."""
    return _built("faults")


@pytest.fixture(scope="session")
def sanitized() -> str:
    """The guard built with the address and undefined behaviour sanitizers."""
    return _built("sanitized")
