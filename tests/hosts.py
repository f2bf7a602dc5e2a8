"""Real other hosts: each an sshd in a network namespace of its own, with its own host key, and an ordinary user to log in as."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import support
from tether import RemoteProcess
from tether.linux import tree


def _take_place() -> tuple[int, int]:
    """Return the first place that no other run of the tests on this machine has, and what holds it for as long as this runs."""
    for place in range(10):
        fd = os.open(f"/tmp/tether-tests-{os.getuid()}-{place}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
        else:
            return place, fd
    message = "ten runs of the tests on one machine; each needs users and networks of its own"
    raise RuntimeError(message)


_PLACE, _HELD = _take_place()
USER = f"tether-far{_PLACE or ''}"
NET = f"10.{199 - _PLACE}"
"""The first half of each address."""

_LOSS = ["-A", "INPUT", "-m", "statistic", "--mode", "random", "--probability", "0.05", "-j", "DROP"]


def run(*argv: str | Path) -> str:
    """Run a command that must succeed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def why_not() -> str:
    """Return why no host can be made here; empty if one can."""
    if os.getuid() != 0:
        return "only root can make network namespaces and start sshd in them"
    for program in ("sshd", "ip", "tc", "useradd"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            return f"no {program} on this machine"
    return ""


@dataclass
class Net:
    """What all hosts of the tests share: the user, its key, and a folder."""

    folder: Path

    @property
    def key(self) -> Path:
        """The private key of the user."""
        return self.folder / "id"

    @property
    def home(self) -> Path:
        """The user's home there: all hosts of the tests have the same file system."""
        return self.folder / "home"

    @property
    def known_hosts(self) -> Path:
        """The host keys of all hosts."""
        return self.folder / "known_hosts"


@contextmanager
def made(folder: Path) -> Iterator[Net]:
    """Make the user; at the end it is gone."""
    net = Net(folder)
    folder.chmod(0o755)
    with suppress(KeyError):
        pwd.getpwnam(USER)
        run("userdel", USER)
    net.home.mkdir()
    # A password that nobody has, rather than a locked account, which sshd refuses.
    run("useradd", "--home-dir", net.home, "--no-create-home", "--shell", "/bin/sh", "--password", "*", USER)
    shutil.chown(net.home, USER)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", net.key)
    net.known_hosts.touch()
    Path("/run/sshd").mkdir(exist_ok=True)
    forget_user()
    try:
        yield net
    finally:
        subprocess.run(["pkill", "-KILL", "-u", USER], check=False)
        forget_user()
        run("userdel", USER)


def forget_user() -> None:
    """Remove what was kept for the user outside its home, where that could not be written; a later one may get its number."""
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):
        for kind in ("far", "guard"):
            shutil.rmtree(Path(folder) / f"tether-{kind}-{pwd.getpwnam(USER).pw_uid}", ignore_errors=True)


class HostOf:
    """One host.

    Args:
        net: what it shares with the others.
        number: from 1 on.
        settings: more lines of its sshd_config.
    """

    def __init__(self, net: Net, number: int, settings: str = "") -> None:
        self.net = net
        self.name = f"tether-{_PLACE}-{number}"
        self.address = f"{NET}.{number}.2"
        self.outside, self.inside = f"tt{_PLACE}-{number}o", f"tt{_PLACE}-{number}i"
        self._number = number
        self._settings = settings
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the namespace, and start sshd in it."""
        inside, outside, net = self.inside, self.outside, f"{NET}.{self._number}"
        subprocess.run(["ip", "netns", "del", self.name], check=False, stderr=subprocess.DEVNULL)
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", self.name)
        run("ip", "addr", "add", f"{net}.1/24", "dev", outside)
        run("ip", "link", "set", outside, "up")
        # What is cut must not leave this machine by the default route.
        subprocess.run(["ip", "route", "add", "unreachable", f"{net}.0/24", "metric", "9999"], check=False)
        for command in (f"addr add {self.address}/24 dev {inside}", f"link set {inside} up", "link set lo up"):
            run("ip", "-n", self.name, *command.split())
        folder = self.net.folder / self.name
        if not folder.exists():
            folder.mkdir()
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host_key")
            public = (folder / "host_key.pub").read_text().split()[:2]
            with self.net.known_hosts.open("a") as file:
                file.write(f"{self.address} {' '.join(public)}\n")
        (folder / "config").write_text(
            f"HostKey {folder}/host_key\nAuthorizedKeysFile {self.net.key}.pub\nPidFile {folder}/pid\nUsePAM no\nStrictModes no\n"
            f"ListenAddress {self.address}:22\nMaxStartups 500\nMaxSessions 200\n" + self._settings
        )
        self.serve()

    def serve(self) -> None:
        """Start sshd."""
        sshd = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin") or "sshd"
        log = (self.net.folder / self.name / "log").open("ab")
        self.process = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                self.name,
                *support.SERVICE,
                sshd,
                "-D",
                "-e",
                "-f",
                self.net.folder / self.name / "config",
            ],
            stderr=log,
            env={name: value for name, value in os.environ.items() if not name.startswith("TETHER_")},
        )
        log.close()
        deadline = time.monotonic() + 10
        while (
            subprocess.run(
                ["ip", "netns", "exec", self.name, "ss", "-Hltn", "sport = 22"], capture_output=True, check=False
            ).stdout
            == b""
        ):
            assert time.monotonic() < deadline, (self.net.folder / self.name / "log").read_text()
            time.sleep(0.02)

    def cut(self) -> None:
        """Take the link down: nothing arrives any more, and nobody is told."""
        run("ip", "-n", self.name, "link", "set", self.inside, "down")

    def heal(self) -> None:
        """Put the link up again."""
        run("ip", "-n", self.name, "link", "set", self.inside, "up")

    def worsen(self) -> None:
        """Make packets late and lose some, by tc's netem; on a kernel without it, by a slow link and a filter that drops."""
        device = ["dev", self.outside, "root"]
        late = ["tc", "qdisc", "add", *device, "netem", "delay", "80ms", "20ms", "loss", "5%"]
        if subprocess.run(late, check=False, capture_output=True).returncode == 0:
            return
        run("tc", "qdisc", "add", *device, "handle", "1:", "htb", "default", "1")
        run(
            "tc",
            "class",
            "add",
            "dev",
            self.outside,
            "parent",
            "1:",
            "classid",
            "1:1",
            "htb",
            "rate",
            "400kbit",
        )
        run("ip", "netns", "exec", self.name, "iptables", *_LOSS)

    def mend(self) -> None:
        """Undo that."""
        device = ["dev", self.outside, "root"]
        subprocess.run(["tc", "qdisc", "del", *device], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(
            ["ip", "netns", "exec", self.name, "iptables", "-F", "INPUT"], check=False, stderr=subprocess.DEVNULL
        )

    def within(self, *argv: str | Path) -> None:
        """Run a command as root there, seeing what logins see of the file system."""
        assert self.process is not None
        (pid,) = [
            each for each in tree.descendants(self.process.pid) if b"sshd" in Path(f"/proc/{each}/cmdline").read_bytes()
        ][:1]
        run("nsenter", "--mount", "--target", str(pid), *argv)

    def end_serving(self) -> None:
        """End sshd and all its connections; what runs there goes on."""
        if self.process is not None:
            subprocess.run(["pkill", "-KILL", "-f", f"{self.net.folder / self.name}/config"], check=False)
            self.process.kill()
            self.process.wait()
            self.process = None
        pids = run("ip", "netns", "pids", self.name).split()
        for pid in pids:
            with suppress(OSError):
                if b"sshd" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(int(pid), 9)

    def pids(self) -> list[int]:
        """Return what runs there, apart from sshd and what it waits for."""
        found = []
        for pid in map(int, run("ip", "netns", "pids", self.name).split()):
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if words and b"sshd" not in words and b"tether-far" not in words:
                    found.append(pid)
        return found

    def remove(self) -> None:
        """End all that is there, and the namespace."""
        for pid in run("ip", "netns", "pids", self.name).split():
            with suppress(OSError):
                os.kill(int(pid), 9)
        if self.process is not None:
            self.process.wait(10)
        subprocess.run(["ip", "netns", "del", self.name], check=False)
        subprocess.run(["ip", "link", "del", self.outside], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(
            ["ip", "route", "del", "unreachable", f"{NET}.{self._number}.0/24"], check=False, stderr=subprocess.DEVNULL
        )


@contextmanager
def running(net: Net, number: int, settings: str = "") -> Iterator[HostOf]:
    """Make a host; at the end nothing of it is left."""
    host = HostOf(net, number, settings)
    try:
        host.start()
        yield host
    finally:
        host.remove()


def spec(host: HostOf, argv: list[Any], **more: Any) -> RemoteProcess:
    """A command on a host of the tests."""
    more = {"key": host.net.key, "known_hosts": host.net.known_hosts, "lease": 4.0, **more}
    return RemoteProcess(f"{USER}@{host.address}", argv, **more)


def kept_there(net: Net) -> list[str]:
    """What is kept of commands in the home directory there."""
    return [str(path) for path in net.home.glob(".local/state/tether-far-*/*")]
