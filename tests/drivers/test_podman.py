"""Containers at a real Podman, over its Docker-compatible socket."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from engine import make_rootfs
from support import eventually
from tether import Container, Owner, State, tcp

IMAGE = "localhost/tether-test:latest"


@pytest.fixture(scope="module")
def podman() -> Iterator[str]:
    """A service of the tests' own; its address."""
    if os.getuid() != 0 or shutil.which("podman") is None or shutil.which("runc") is None:
        pytest.skip("only root can start Podman here, and podman and runc must be installed")
    # Podman wants a path of at most fifty characters.
    folder = Path(tempfile.mkdtemp(prefix="podman-"))
    command = ["podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run", "--storage-driver", "vfs"]
    command += ["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc"]
    make_rootfs(folder / "image.tar")
    subprocess.run([*command, "import", "--quiet", folder / "image.tar", IMAGE], check=True, stdout=subprocess.DEVNULL)
    url = f"unix://{folder}/podman.sock"
    # It gives containers its own limits, at most those of this machine.
    limits = ["prlimit", "--nofile=1024:1024", "--nproc=4096:4096"]
    with (folder / "log").open("wb") as log:
        service = subprocess.Popen(
            ["timeout", "110", *limits, *command, "system", "service", "--time", "0", url], stdout=log, stderr=log
        )
    try:
        eventually(lambda: Path(f"{folder}/podman.sock").exists(), 20, what=(folder / "log").read_text())
        yield url
    finally:
        service.terminate()
        service.wait()
        for line in Path("/proc/mounts").read_text().splitlines():
            if line.split()[1].startswith(f"{folder}/"):
                subprocess.run(["umount", "--lazy", line.split()[1]], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("network", ["host", "own"])
def test_a_server_and_a_job(owner: Owner, podman: str, network: str) -> None:
    """As at Docker: port, pids, exit code, log; network and volume go with the container."""
    serve = ["httpd", "-f", "-p", "{port}", "-h", "/bin"]
    web = owner.start(
        Container(IMAGE, serve, engine=podman, network=network, mounts={"/data": None}, ready=tcp(), stop_grace=1)
    )
    assert web.url is not None
    assert web.pid in web.pids()
    # A server forks for who only looks whether it listens.
    eventually(lambda: web.usage().processes == 1)
    job = owner.start(Container(IMAGE, ["sh", "-c", "echo hello; exit 3"], engine=podman, network="none", name="job"))
    assert job.wait(timeout=20) == 3
    assert job.logs() == "hello\n"
    web.stop()
    assert web.state is State.GONE
    client = docker.DockerClient(base_url=podman)
    assert client.containers.list(all=True) == []
    assert client.volumes.list() == []
    assert [network.name for network in client.networks.list() if str(network.name).startswith("tether")] == []
    client.close()


@pytest.mark.slow
def test_an_end_is_heard(owner: Owner, podman: str) -> None:
    """Podman 4.3 passes nothing on for the filter event=die: it is not asked for. Slow: ends one after the other, by events and looks."""
    job = owner.start(Container(IMAGE, ["sh", "-c", "sleep 3; exit 7"], engine=podman, network="none", name="job"))
    eventually(lambda: len(job.pids()) == 2)
    assert job.wait(timeout=20) == 7
    assert job.state is State.FAILED


def test_a_paused_one_is_stopped(owner: Owner, podman: str) -> None:
    """Podman refuses to stop it ("container state improper"): it is continued for that."""
    box = owner.start(Container(IMAGE, ["sleep", "100"], engine=podman, network="none", stop_grace=1))
    client = docker.DockerClient(base_url=podman)
    client.containers.get(box.details["container_id"]).pause()
    eventually(lambda: box.reason == "paused", 20)
    box.stop()
    assert box.state is State.GONE
    assert client.containers.list(all=True) == []
    client.close()
