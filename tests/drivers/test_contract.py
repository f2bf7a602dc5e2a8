"""Every driver passes the contract, each with its real service."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import pytest

import channel
from cloud.ec2 import KEYS, REGION, Ec2
from cloud.serverless import Serverless, packed
from engine import IMAGE, Engine
from hosts import USER, HostOf
from tether import (
    CloudContainer,
    CloudFunction,
    CondaEnv,
    Container,
    Machine,
    Network,
    PluginExecutionMode,
    Process,
    RemoteProcess,
    Service,
    http,
    log,
    tcp,
)
from tether.life import registry
from tether.linux import sockets
from tether.testing import DriverContract, MarksContract, OutageContract, SilenceContract

ROOT = Path(__file__).parents[2]


class TestProcess(DriverContract):
    """A process with a helper in a session of its own."""

    says = "up"
    within_s = 1.0

    def make_spec(self, name: str) -> Process:
        """A shell with a helper that left its session."""
        return Process(["sh", "-c", "setsid sleep 100 & echo up; exec sleep 100"], name=name, ready=log("up"))


class TestContainer(OutageContract, MarksContract, SilenceContract):
    """A container with a network and a volume of its own, at an engine that the tests started."""

    says = "serving"
    engine: ClassVar[Engine]

    @pytest.fixture(autouse=True)
    def _with_engine(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        type(self).engine = engine
        # What has only a tag is looked for at the engine in use.
        monkeypatch.setenv("DOCKER_HOST", engine.url)

    def make_spec(self, name: str) -> Container:
        """A web server that tells its port."""
        command = ["sh", "-c", "echo serving; exec httpd -f -p {port} -h /bin"]
        return Container(
            IMAGE,
            command,
            name=name,
            engine=self.engine.url,
            network="own",
            mounts={"/data": None},
            ready=tcp(),
            init=True,
        )

    def leftovers(self) -> list[str]:
        """What has a label, as the client of Docker's own library sees it."""
        return self.engine.labelled() if self.engine.process is not None else []

    @contextmanager
    def impostor(self, tag: str) -> Iterator[Callable[[], bool]]:
        """A container of the user's, of an image that was committed from the resource's."""
        labels = {"tether.resource": tag, "tether.owner": "anybody"}
        client = self.engine.client
        users = client.containers.run(
            IMAGE, ["sleep", "100"], detach=True, labels=labels, volumes=["/precious"], name="users-of-contract"
        )
        (mount,) = users.attrs["Mounts"]

        def is_there() -> bool:
            users.reload()
            return bool(users.status == "running" and client.volumes.get(mount["Name"]))

        try:
            yield is_there
        finally:
            users.remove(force=True, v=True)

    def silence(self) -> AbstractContextManager[None]:
        """Freeze the engine."""
        return self.engine.frozen()

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Stop the engine, and start it again."""
        self.engine.stop()
        try:
            yield
        finally:
            self.engine.start()


class TestNetwork(TestContainer):
    """A network that containers share."""

    says = None  # type: ignore[assignment]

    def make_spec(self, name: str) -> Network:  # type: ignore[override]
        """A network."""
        return Network(name, engine=self.engine.url)


class TestCondaEnv(DriverContract):
    """An environment that ends with its owner, from a channel that was made by hand."""

    address: ClassVar[str]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _with_channel(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.address = channel.make(tmp_path_factory.mktemp("channel"))

    def make_spec(self, name: str) -> CondaEnv:
        """An ephemeral environment."""
        return CondaEnv(["tool"], [self.address], name=name, ephemeral=True)


class TestCachedCondaEnv(TestCondaEnv):
    """An environment that stays for everybody who asks for the same; half-made ones do not."""

    stays = True

    def make_spec(self, name: str) -> CondaEnv:
        """An environment of the cache."""
        return CondaEnv(["tool"], [self.address], name=name)


class TestService(DriverContract):
    """A server that somebody else runs: the test itself."""

    stays = True
    port: ClassVar[int]

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _with_server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        cls.port = sockets.free_port()
        server = subprocess.Popen(
            ["timeout", "120", sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(cls.port)],
            cwd=tmp_path_factory.mktemp("served"),
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while not sockets.listening_inodes(cls.port):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield
        assert server.poll() is None, "the service was ended, which is nobody's of tether"
        server.kill()
        server.wait()

    def make_spec(self, name: str) -> Service:
        """The server."""
        return Service(f"http://127.0.0.1:{self.port}", name=name)


class TestRemoteProcess(OutageContract):
    """A process on another host, which is an sshd in a network namespace of its own; its helper left the session."""

    says = "up"
    host: ClassVar[HostOf]

    @pytest.fixture(autouse=True)
    def _with_host(self, host: HostOf) -> None:
        type(self).host = host

    def make_spec(self, name: str) -> RemoteProcess:
        """A shell with a helper."""
        return RemoteProcess(
            f"{USER}@{self.host.address}",
            ["sh", "-c", "setsid sleep 100 & echo up; exec sleep 100"],
            name=name,
            key=self.host.net.key,
            known_hosts=self.host.net.known_hosts,
            ready=log("up"),
            lease=6,
        )

    def leftovers(self) -> list[str]:
        """What runs in the namespace, and what is kept in the home directory there."""
        kept = self.host.net.home.glob(".local/state/tether-far-*/*")
        return [*map(str, self.host.pids()), *map(str, kept)]

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Cut the link, and heal it."""
        self.host.cut()
        try:
            yield
        finally:
            self.host.heal()


class TestMachine(OutageContract):
    """A real machine with a key pair and a firewall rule of its own, at a stand-in for EC2 whose lists are late."""

    says = "serving"
    within_s = 20.0
    ec2: ClassVar[Ec2]

    @pytest.fixture(autouse=True)
    def _with_ec2(self, ec2: Ec2, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        type(self).ec2 = ec2
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        ec2.tell(late=0.4)
        yield
        ec2.tell(late=0, faults=[])

    def make_spec(self, name: str) -> Machine:
        """A machine that says something on its console."""
        return Machine(
            region=REGION,
            endpoint=self.ec2.url,
            image=self.ec2.image,
            name=name,
            user_data="#!/bin/sh\necho serving\nexec sleep 100\n",
            open_ports=[22],
            lease=60,
            listing_lag=1.5,
        )

    def leftovers(self) -> list[str]:
        """What AWS's own client sees, and the machines that run."""
        return self.ec2.leftovers() if not self.ec2.is_down else []

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Have every request's connection broken."""
        self.ec2.go_down()
        try:
            yield
        finally:
            self.ec2.come_back()


class TestCloudContainer(OutageContract):
    """A task of ECS with a role, a log group and a definition of its own, at a stand-in whose lists are late."""

    says = "serving"
    within_s = 20.0
    aws: ClassVar[Serverless]

    @pytest.fixture(autouse=True)
    def _with_aws(self, serverless: Serverless, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        type(self).aws = serverless
        for name, value in KEYS.items():
            monkeypatch.setenv(name, value)
        serverless.tell(late=0.4)
        yield
        serverless.tell(late=0, faults=[])

    def make_spec(self, name: str) -> CloudContainer:
        """One that says something."""
        command = ["sh", "-c", "echo serving; exec sleep 90"]
        where = {"region": REGION, "endpoint": self.aws.url, "listing_lag": 1.5, "stop_grace": 1.0}
        return CloudContainer("busybox", command, name=name, ready=log("serving"), **where)  # type: ignore[arg-type]

    def leftovers(self) -> list[str]:
        """What AWS's own client sees, and the processes that run."""
        return self.aws.leftovers() if not self.aws.is_down else []

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Have every request's connection broken."""
        self.aws.go_down()
        try:
            yield
        finally:
            self.aws.come_back()


class TestCloudFunction(TestCloudContainer):
    """A function of Lambda with a role, a log group and an address of its own, which answers."""

    says = "called at"

    def make_spec(self, name: str) -> CloudFunction:  # type: ignore[override]
        """One that says where it was called."""
        where = {"region": REGION, "endpoint": self.aws.url, "listing_lag": 1.5}
        return CloudFunction(packed(), url="public", name=name, ready=http("/"), **where)  # type: ignore[arg-type]


def test_every_kind_has_a_contract() -> None:
    """No driver is left out; a plugin's processes are no resources that can be started."""
    # Pods pass it in tests/kube, where there is a cluster.
    tested = {"process", "container", "network", "conda", "service", "ssh", "kubernetes", "machine"}
    tested |= {"cloud_container", "cloud_function"}
    # What docker run makes is held beside its process, and never started by itself: tests/drivers/test_container_commands.py.
    assert tested | {"plugin", "client"} == {entry.name for entry in metadata.entry_points(group=registry.GROUP)}


def test_every_mode_has_a_driver() -> None:
    """All twelve of the protocol; the table of the documentation says which."""
    found = {mode: {kind for kind in registry.BUILT_IN if mode in registry.driver_class(kind).modes} for mode in PluginExecutionMode}  # fmt: skip
    assert all(found.values()), found
    rows = re.findall(r"^\| `([A-Z_]+)` \| .* \| (.*) \|$", (ROOT / "docs/drivers.md").read_text(), re.MULTILINE)
    assert {PluginExecutionMode[name]: set(re.findall(r"`(\w+)`", kinds)) for name, kinds in rows} == found
