"""Hosts of every kind: with nothing on them, where nothing can be executed, with odd logins, few sessions, and slow links."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

import hosts
import support
from hosts import USER, HostOf, Net, kept_there, spec
from support import PROGRAMS, Runner, eventually
from tether import DeadlineExceeded, Owner, RemoteProcess, Resource, StartError, State, http, log
from tether.drivers.ssh import bring
from tether.guard import binary

_HEX = 'printf %s "$1$X" | od -An -tx1'


@pytest.fixture(autouse=True)
def nothing_left_there(net: Net) -> Iterator[None]:
    """Whatever a test leaves on another host fails it."""
    yield
    eventually(lambda: not kept_there(net), 20, what=f"{kept_there(net)} is left there")


# -- hosts with nothing ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def escapist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The escaping program, static."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler, which the escaping program needs")
    program = tmp_path_factory.mktemp("escape") / "escape"
    subprocess.run(["cc", "-O1", "-static", "-o", program, PROGRAMS / "escape.c"], check=True)
    return program


@contextmanager
def scratch(net: Net, number: int, settings: str = "") -> Iterator[tuple[HostOf, Path]]:
    """A host whose logins see a file system with nothing but busybox as its sh, /proc, and a home directory."""
    root = Path(tempfile.mkdtemp(prefix="tether-scratch-", dir="/var/lib"))
    try:
        root.chmod(0o755)
        for each in ("bin", "proc", "dev", "tmp"):
            (root / each).mkdir()
        (root / "tmp").chmod(0o1777)
        shutil.copy("/bin/busybox", root / "bin/sh")
        os.mknod(root / "dev/null", 0o666 | 0o020000, os.makedev(1, 3))
        (root / "dev/null").chmod(0o666)
        home = root / str(net.home).lstrip("/")
        home.mkdir(parents=True)
        shutil.chown(home, USER)
        hosts.run("mount", "-t", "proc", "proc", root / "proc")
        with hosts.running(net, number, f"ChrootDirectory {root}\n{settings}") as host:
            yield host, root
    finally:
        for each in ("proc", "tmp"):
            subprocess.run(["umount", "-l", root / each], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(root)


def _kept_in(root: Path) -> list[Path]:
    return [*root.glob("tmp/**/tether-far-*/*")]


KEEPER = """
import os, signal, sys, time
from pathlib import Path
from tether import Owner, RemoteProcess
address, key, known, state, seen, on_death = sys.argv[1:]
owner = Owner("keeper", state_dir=state)
owner.start(RemoteProcess(address, ["/escape", "/seen"], key=key, known_hosts=known, name="tree", lease=2, on_death=on_death, keep_for=60))
while not (Path(seen) / "all").exists():
    time.sleep(0.01)
print(owner.status()["reaper"], flush=True)
time.sleep(60)
"""


def _start_escape(
    runner: Runner, host: HostOf, root: Path, escapist: Path, state: Path, on_death: str
) -> tuple[int, Path]:
    """Have twelve escape under an owner that is killed then, and its reaper with it: the reaper's pid, and who lives."""
    shutil.copy(escapist, root / "escape")
    seen = root / "seen"
    seen.mkdir()
    shutil.chown(seen, USER)
    arguments = (f"{USER}@{host.address}", host.net.key, host.net.known_hosts, state, seen, on_death)
    with runner.popen(KEEPER, *arguments) as process:
        assert process.stdout is not None
        reaper = int(process.stdout.readline())
        assert len(support.survivors(seen)) == 12
        if on_death == "kill":
            host.cut()
            os.kill(reaper, signal.SIGKILL)
        process.kill()
    return reaper, seen


def test_a_host_with_nothing_holds_leases_adopts_and_ends(
    runner: Runner, net: Net, escapist: Path, private_state: Path
) -> None:
    """No Python, no tools, one shell: twelve escapees outlive their owner as long as they are kept, and then none."""
    with scratch(net, 7) as (host, root):
        _, seen = _start_escape(runner, host, root, escapist, private_state, "keep")
        time.sleep(3)
        assert len(support.survivors(seen)) == 12
        with Owner("keeper", state_dir=private_state) as owner:
            tree = owner.adopt("tree")
            assert (tree.usage().processes or 0) >= 12
            time.sleep(2.5)
            assert len(support.survivors(seen)) == 12
            tree.stop(grace=0.2)
            assert support.survivors(seen) == []
        eventually(lambda: not host.pids())
        assert _kept_in(root) == []


def test_a_host_with_nothing_ends_by_the_lease(runner: Runner, net: Net, escapist: Path, private_state: Path) -> None:
    """Owner, reaper and link are lost together."""
    with scratch(net, 7) as (host, root):
        _, seen = _start_escape(runner, host, root, escapist, private_state, "kill")
        eventually(lambda: not support.survivors(seen), 4.0)
        host.heal()
        # The neighbour is found again a moment after the link is up.
        reap = [sys.executable, "-m", "tether", "reap"]
        eventually(lambda: subprocess.run(reap, capture_output=True, check=False, timeout=60).returncode == 0, 20)
        assert _kept_in(root) == []


def test_a_shell_with_hardly_a_tool(owner: Owner, net: Net) -> None:
    """Without head, cat, uname and id the shell itself writes down what is sent."""
    with scratch(net, 7) as (host, root):
        (root / "bin/sh").rename(root / "bin/busybox")
        for name in ("mkdir", "chmod", "mv", "rm"):
            (root / "bin" / name).symlink_to("busybox")
        shutil.copy("/bin/dash", root / "bin/sh")
        linked = subprocess.run(["ldd", "/bin/dash"], capture_output=True, text=True, check=True).stdout.split()
        for each in [word for word in linked if word.startswith("/")]:
            (root / each[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(each, root / each[1:])
        job = owner.start(spec(host, ["sh", "-c", "echo here; exit 4"], connect_timeout=60))
        assert job.wait(timeout=20) == 4
        assert job.logs() == "here\n"


def test_nothing_can_be_executed_there(owner: Owner, net: Net) -> None:
    """Where all that can be written is mounted with noexec: said as that, with what was tried."""
    with scratch(net, 7) as (host, root):
        hosts.run("mount", "-t", "tmpfs", "-o", "noexec,mode=1777", "tmpfs", root / "tmp")
        home = root / str(net.home).lstrip("/")
        home.mkdir(parents=True)
        shutil.chown(home, USER)
        host.end_serving()
        host.serve()
        with pytest.raises(StartError, match=r"nothing can be executed there.*Permission denied.*noexec"):
            owner.start(spec(host, ["true"]))


def test_a_machine_that_no_program_is_for(
    owner: Owner, host: HostOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said with its type, before anything is sent."""
    monkeypatch.setattr(binary, "_FOLDER", tmp_path)
    with pytest.raises(StartError, match=f"no tether-guard for '{os.uname().machine}'"):
        owner.start(spec(host, ["true"]))


def test_a_program_there_that_is_damaged_is_sent_again(owner: Owner, host: HostOf) -> None:
    """It is kept between logins, and checked at each."""
    hosts.forget_user()
    assert owner.start(spec(host, ["true"])).wait(timeout=10) == 0
    owner.shutdown()
    (kept,) = host.net.home.glob(".local/state/tether-guard-*/*")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:5000])
    with Owner("other") as other:
        assert other.start(spec(host, ["true"])).wait(timeout=10) == 0
    assert kept.read_bytes() == whole


# -- logins ------------------------------------------------------------------------------------------------------------

LOGINS = {
    "greets": 'echo Welcome; echo "{}"; eval "$SSH_ORIGINAL_COMMAND"',
    "greets without a newline": 'printf Welcome; eval "$SSH_ORIGINAL_COMMAND"',
    "says what it executes": 'echo "$SSH_ORIGINAL_COMMAND"; eval "$SSH_ORIGINAL_COMMAND"',
    "says goodbye": 'sh -c "$SSH_ORIGINAL_COMMAND"; echo bye',
    "talks meanwhile": '(sleep 0.3; echo one; sleep 0.3; printf two) & eval "$SSH_ORIGINAL_COMMAND"',
    "says much": 'seq 100000; eval "$SSH_ORIGINAL_COMMAND"',
    "has no path": 'export PATH=/nowhere; eval "$SSH_ORIGINAL_COMMAND"',
    "is on a terminal": 'stty 2>/dev/null && echo "a terminal"; eval "$SSH_ORIGINAL_COMMAND"',
}


@pytest.mark.parametrize("login", LOGINS)
def test_logins(owner: Owner, net: Net, login: str) -> None:
    """What a login says before, meanwhile and after is passed over."""
    with hosts.running(net, 6, f"ForceCommand {LOGINS[login]}\n") as host:
        job = owner.start(spec(host, ["/bin/sh", "-c", "/bin/sleep 1; echo done; exit 3"]))
        assert job.wait(timeout=10) == 3
        assert job.logs() == "done\n"


@pytest.mark.parametrize("shell", ["csh", "tcsh", "fish", "bash", "dash"])
def test_shells(owner: Owner, host: HostOf, shell: str) -> None:
    """Whatever the login shell is."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"no {shell} here")
    hosts.run("usermod", "--shell", path, USER)
    try:
        job = owner.start(
            spec(host, ["sh", "-c", _HEX, "x", b"\xff'\xc3"], env={"X": b"\xfe", "Y": "it's; $HOME `id`"})
        )
        assert job.wait(timeout=20) == 0
        assert job.logs().split() == ["ff", "27", "c3", "fe"]
    finally:
        hosts.run("usermod", "--shell", "/bin/sh", USER)


def test_a_slow_login(owner: Owner, net: Net) -> None:
    """How long it may take can be said; one that takes longer is said to."""
    with hosts.running(net, 6, 'ForceCommand sleep 1.5; eval "$SSH_ORIGINAL_COMMAND"\n') as host:
        assert owner.start(spec(host, ["true"], connect_timeout=10)).wait(timeout=10) == 0
        with pytest.raises(StartError, match="said nothing for 1 s.*connect_timeout"):
            owner.start(spec(host, ["true"], connect_timeout=1))


def test_a_login_without_a_shell(owner: Owner, net: Net) -> None:
    """Said with what it says itself."""
    with hosts.running(net, 6, "ForceCommand echo This account is locked >&2\n") as host:
        with pytest.raises(StartError, match="no POSIX sh answers there: This account is locked"):
            owner.start(spec(host, ["true"]))
        eventually(lambda: owner.resources == [])


def test_a_home_that_is_not_there(owner: Owner, net: Net) -> None:
    """Commands begin in / then, and files are kept in /tmp."""
    hosts.run("usermod", "--home", "/no/such/home", USER)
    try:
        with hosts.running(net, 6) as host:
            job = owner.start(spec(host, ["pwd"]))
            assert job.wait(timeout=10) == 0
            assert job.logs() == "/\n"
    finally:
        hosts.run("usermod", "--home", net.home, USER)
        for each in Path("/tmp").glob("tether-*-[0-9]*"):
            if each.owner() == USER:
                shutil.rmtree(each)


def test_a_banner_that_is_no_text(owner: Owner, net: Net, tmp_path: Path) -> None:
    """It is shown to nobody, and harms nothing."""
    (tmp_path / "banner").write_bytes(b"\xff\xfe authorised only\n" * 100)
    with hosts.running(net, 6, f"Banner {tmp_path}/banner\n") as host:
        assert owner.start(spec(host, ["true"])).wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("lines", "works"),
    [
        ("UserKnownHostsFile /no/such/file {known}", True),
        ("UserKnownHostsFile {known}\n IdentityFile /no/such/key", True),
        ("UserKnownHostsFile {empty}", False),
        ("UserKnownHostsFile {empty}\n StrictHostKeyChecking no", True),
        ("UserKnownHostsFile {empty}\n StrictHostKeyChecking accept-new", True),
        ("UserKnownHostsFile {other}\n StrictHostKeyChecking accept-new", False),
        ("UserKnownHostsFile {known}\n RequestTTY force", True),
        ("UserKnownHostsFile {garbage}", True),
        ("GlobalKnownHostsFile {known}\n UserKnownHostsFile {empty}", True),
    ],
)
def test_ssh_config(owner: Owner, host: HostOf, tmp_path: Path, lines: str, works: bool) -> None:
    """Files that are missing among several, and which host keys are believed, as ssh(1) has it."""
    known = host.net.known_hosts.read_text()
    line = next(each for each in known.splitlines() if each.startswith(f"{host.address} "))
    made = subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True)
    assert made.returncode == 0
    other = f"{host.address} {' '.join((tmp_path / 'k.pub').read_text().split()[:2])}\n"
    files = {"known": known, "empty": "", "other": other, "garbage": f"no line\nnone\n{line}\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    said = lines.format(**{name: tmp_path / name for name in files})
    config = tmp_path / "config"
    config.write_text(f"Host there\n HostName {host.address}\n User {USER}\n IdentityFile {host.net.key}\n {said}\n")
    start = RemoteProcess("there", ["true"], config=config)
    if works:
        assert owner.start(start).wait(timeout=10) == 0
    else:
        with pytest.raises(StartError, match="host key"):
            owner.start(start)
    if "accept-new" in lines and works:
        assert (tmp_path / "empty").read_text().split()[:3] == line.split()[:3]


# -- sessions, ports, links --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2])
def test_few_sessions(owner: Owner, net: Net, most: int) -> None:
    """One session of ours is enough for all: twenty starts at once, a port, fifteen ends at once, and the rest."""
    with hosts.running(net, 8, f"MaxSessions {most}\n") as host, ThreadPoolExecutor(20) as pool:
        before = [owner.start(spec(host, ["sleep", "90"], name=f"first-{number}")) for number in range(2)]

        def start(number: int) -> Resource:
            return owner.start(spec(host, ["sleep", "90"], name=f"job-{number}", lease=10))

        jobs = list(pool.map(start, range(20)))
        argv = ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "{port}"]
        web = owner.start(spec(host, argv, ready=http("/"), cwd="/etc"))
        assert b"passwd" in urlopen(str(web.url)).read()
        list(pool.map(lambda job: job.stop(grace=2), jobs[:15]))
        assert {job.state for job in jobs[:15]} == {State.GONE}
        assert {job.state for job in [*before, *jobs[15:], web]} == {State.READY}
        owner.shutdown(grace=2)
        assert host.pids() == []


@pytest.mark.parametrize("setting", ["AllowTcpForwarding no", "DisableForwarding yes", "PermitOpen none"])
def test_a_refused_forward_is_named(owner: Owner, net: Net, setting: str) -> None:
    """At the start, before anything runs there; what needs no port runs."""
    with hosts.running(net, 6, f"{setting}\n") as host:
        assert owner.start(spec(host, ["true"])).wait(timeout=10) == 0
        argv = ["/usr/bin/python3", "-m", "http.server", "{port}"]
        with pytest.raises(StartError, match="refuses to forward ports.*AllowTcpForwarding"):
            owner.start(spec(host, argv, ready=http("/")))
        assert host.pids() == []


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::"])
def test_a_server_on_any_loopback_address(owner: Owner, host: HostOf, address: str) -> None:
    """By whichever it listens on there."""
    argv = ["/usr/bin/python3", "-m", "http.server", "--bind", address, "{port}"]
    web = owner.start(spec(host, argv, ready=http("/"), cwd="/etc"))
    assert b"passwd" in urlopen(str(web.url)).read()
    web.kill()


@contextmanager
def narrow(host: HostOf, rate: str) -> Iterator[None]:
    """A slow link, both ways."""
    ends = [(host.outside, []), (host.inside, ["ip", "netns", "exec", host.name])]
    for device, inside in ends:
        hosts.run(
            *inside,
            "tc",
            "qdisc",
            "add",
            "dev",
            device,
            "root",
            "tbf",
            "rate",
            rate,
            "burst",
            "16kb",
            "latency",
            "400ms",
        )
    try:
        yield
    finally:
        for device, inside in ends:
            subprocess.run([*inside, "tc", "qdisc", "del", "dev", device, "root"], check=False)


@pytest.mark.slow("three megabytes over a megabit a second")
def test_a_long_log_over_a_slow_link(owner: Owner, host: HostOf) -> None:
    """It takes its time, and costs no lease; meanwhile an end takes no longer than on any link, and is on record at once."""
    lost: list[str] = []
    owner.telemetry.subscribe(lambda note: lost.append(note.detail) if "lost" in note.what else None)
    other = owner.start(spec(host, ["sleep", "90"], name="other", lease=4))
    short = owner.start(spec(host, ["sleep", "90"], name="short", lease=4))
    big = owner.start(
        spec(
            host,
            ["sh", "-c", "head -c 3000000 /dev/urandom; echo; echo up; exec sleep 90"],
            name="big",
            ready=log("up"),
            lease=4,
        )
    )
    with narrow(host, "1mbit"), ThreadPoolExecutor(1) as pool:
        reading = pool.submit(big.logs)
        time.sleep(1)
        began = time.monotonic()
        short.stop(grace=2)
        assert time.monotonic() - began < 5
        assert reading.result(timeout=90).endswith("up\n")
        assert (big.state, other.state) == (State.READY, State.READY)
        began = time.monotonic()
        big.kill()
        assert big.state is State.GONE
        assert time.monotonic() - began < 6
    assert lost == []
    owner.shutdown()


def test_its_host_was_rebooted(owner: Owner, host: HostOf) -> None:
    """What is said of it there is of an earlier boot."""
    job = owner.start(spec(host, ["sleep", "90"], name="job", lease=20))
    handle = job._managed.handle
    assert handle is not None
    host.cut()
    eventually(lambda: job.state is State.LOST, 20)
    for which in ("shim", "main"):
        os.kill(handle.data[which][0], signal.SIGKILL)
    (who,) = host.net.home.glob(".local/state/tether-far-*/*/who")
    who.write_text(who.read_text().replace(handle.data["boot"], "another-boot"))
    host.heal()
    job.wait(timeout=30)
    assert (job.state, "rebooted" in job.reason) == (State.FAILED, True), job.reason


SETUID = """
#include <signal.h>
#include <unistd.h>
int main(void) { signal(SIGTERM, SIG_IGN); if (setuid(0) < 0) return 1; write(1, "root\\n", 5); sleep(60); }
"""


def _ticks(pid: int) -> int:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_member_that_became_root(owner: Owner, host: HostOf) -> None:
    """An honest "stuck", with the pid, whose it is, and where; it ends when it does, and is then seen to."""
    source = host.net.folder / "root.c"
    source.write_text(SETUID)
    program = host.net.folder / "root"
    subprocess.run(["cc", "-o", program, source], check=True)
    program.chmod(0o4755)
    job = owner.start(spec(host, [program], name="job", ready=log("root")))
    pid, handle = job.details["far_pid"], job._managed.handle
    assert handle is not None
    with pytest.raises(DeadlineExceeded, match=rf"pid {pid} belongs to another user.*{host.address}"):
        job.stop(grace=0.3)
    assert not job.state.is_final
    assert "belongs to another user" in job.reason
    shim = handle.data["shim"][0]
    before = _ticks(shim)
    time.sleep(1)
    assert _ticks(shim) - before <= 5, "it is busy waiting"
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    job.wait(timeout=30)
    assert job.state is State.GONE


def test_how_it_is_held_is_said(owner: Owner, net: Net) -> None:
    """In info(), status() and ps; a host without child subreapers is said to be weaker, by doctor too."""
    with hosts.running(net, 6) as host:
        job = owner.start(spec(host, ["sleep", "60"]))
        assert job.info()["held_by"].startswith("shim: the whole tree")
        job.kill()
    with hosts.running(net, 9, "SetEnv TETHER_TIER=portable\n") as host:
        job = owner.start(spec(host, ["sh", "-c", "setsid sleep 60 & echo up; sleep 60"], ready=log("up")))
        (told,) = owner.status()["resources"]
        listed = subprocess.run(
            [sys.executable, "-m", "tether", "ps", "--json"], capture_output=True, check=True
        ).stdout
        for each in (job.info(), told, *json.loads(listed)):
            assert each["held_by"].startswith("portable: its kernel has no child subreapers")
        job.kill()
        eventually(lambda: not host.pids())


def test_the_script_is_one_line() -> None:
    """It is read by the shell's own read."""
    assert bring._script("mark").count("\n") == 1
