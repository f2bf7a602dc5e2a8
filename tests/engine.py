"""A real Docker engine, started for the tests, with an image that was made without a registry."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException

import support

IMAGE = "tether-test:latest"
LABEL = "tether.resource"


@dataclass
class Engine:
    """An engine of the tests' own: its socket and data in a temporary folder, its process ended with the tests."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{self.folder}/docker.sock"

    @cached_property
    def client(self) -> docker.DockerClient:
        """A client of Docker's own library."""
        return docker.DockerClient(base_url=self.url, version="1.41")

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "dockerd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *support.SERVICE,
                    *("dockerd", "--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec")),
                    *("-H", self.url, "--pidfile", str(self.folder / "docker.pid")),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
                # Started again in the middle of a test it would carry the tag of the test's owner, and be ended with that.
                env={name: value for name, value in os.environ.items() if not name.startswith("TETHER_")},
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.client.ping()
                return
            except (DockerException, RequestException):
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.process.terminate()
                    raise AssertionError((self.folder / "dockerd.log").read_text()[-3000:]) from None
                time.sleep(0.1)

    def stop(self) -> None:
        """Stop it; its containers end with it."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
            self.process = None
            self.client.close()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop it by a signal: it takes connections, and answers nothing."""
        pid = int((self.folder / "docker.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def labelled(self) -> list[str]:
        """Return the names of all containers, networks and volumes with a tether label."""
        client = self.client
        found = [
            str(each.name) for each in client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
        ]
        found += [str(each.name) for each in client.networks.list(filters={"label": LABEL})]
        return found + [str(each.name) for each in client.volumes.list(filters={"label": LABEL})]


def why_not() -> str:
    """Return why no engine can be started here; empty if one can."""
    if os.getuid() != 0:
        return "only root can start a Docker engine"
    for program in ("dockerd", "busybox"):
        if shutil.which(program) is None:
            return f"no {program} on this machine"
    return ""


def make_rootfs(path: Path) -> None:
    """Make an archive of a root file system with nothing but busybox."""
    with tarfile.open(path, "w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for name in ("sh", "sleep", "httpd", "nc", "cat", "echo", "ps", "env", "kill", "true", "id"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)


@contextmanager
def running(folder: Path) -> Iterator[Engine]:
    """Start an engine with an image of busybox; at the end nothing of it is left."""
    engine = Engine(folder)
    try:
        engine.start()
        rootfs = folder / "image.tar"
        make_rootfs(rootfs)
        api = engine.client.api
        api.import_image_from_file(str(rootfs), repository="tether-test", tag="latest")
        yield engine
    finally:
        if engine.process is None:
            engine.start()
        for container in engine.client.containers.list(all=True):
            container.remove(force=True)
        engine.stop()
        for line in Path("/proc/mounts").read_text().splitlines():
            if line.split()[1].startswith(f"{folder}/"):
                subprocess.run(["umount", "--lazy", line.split()[1]], check=False)
