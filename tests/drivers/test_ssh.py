"""Processes on other hosts: real sshd servers, each in a network namespace of its own; links are cut, delayed and made to lose packets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

import hosts
import support
from hosts import USER, HostOf, Net, kept_there, spec
from support import ESCAPE, Runner, eventually
from tether import (
    Busy,
    NotFound,
    Owner,
    PluginExecutionMode,
    RemoteProcess,
    Resource,
    SpecError,
    StartError,
    State,
    http,
    is_lifecycle_aware,
    log,
    tcp,
)
from tether.ledger.store import Ledger
from tether.plugins import RemotePlugin
from tether.protocol import get_total_estimated_cost, has_active_cloud_resources, is_cloud_aware


@pytest.fixture(autouse=True)
def nothing_left_there(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test leaves on the other host fails it."""
    yield
    if "host" in request.fixturenames:
        host: HostOf = request.getfixturevalue("host")
        host.heal()
        host.mend()
        eventually(lambda: not host.pids(), 20, what=f"{host.pids()} is left there")
        eventually(lambda: not kept_there(host.net), 20, what=f"{kept_there(host.net)} is left there")


def test_a_command_from_beginning_to_end(owner: Owner, host: HostOf) -> None:
    """Environment, working directory, umask, log, usage, exit code; nothing is left there."""
    script = 'echo "$SECRET-$(pwd)-$(umask)-$(id -un)"; echo oops >&2; read line || echo no input; sleep 0.5; exit 7'
    job = owner.start(spec(host, ["sh", "-c", script], env={"SECRET": "xyzzy"}, cwd="/tmp", umask=0o27, name="job"))
    assert job.details["far_pid"] in host.pids()
    assert job.usage().processes
    assert (job.pid, job.pids(), job.url) == (None, [], None)
    assert job.wait(timeout=20) == 7
    assert (job.state, job.reason) == (State.FAILED, "ended by itself, exit code 7")
    assert job.logs() == f"xyzzy-/tmp-0027-{USER}\noops\nno input\n"
    assert job.logs(tail=1) == "no input\n"
    ledger = (owner.state_dir / "ledger.db").read_bytes() + (owner.state_dir / "ledger.db-wal").read_bytes()
    assert b"xyzzy" not in ledger
    assert owner.start(spec(host, ["true"])).wait(timeout=10) == 0


_HEX = 'printf %s "$1$X" | od -An -tx1'


def test_any_bytes_can_be_an_argument_or_a_value(owner: Owner, host: HostOf) -> None:
    """As for a process of this machine: what is no text in UTF-8 arrives as it is."""
    job = owner.start(spec(host, ["sh", "-c", _HEX, "x", b"\xff'\xc3"], env={"X": b"\xfe"}))
    assert job.wait(timeout=20) == 0
    assert job.logs().split() == ["ff", "27", "c3", "fe"]


def test_a_server_is_reached_through_a_forwarded_port(owner: Owner, host: HostOf) -> None:
    """The url is local; the probe passes only for a member of the tree there."""
    web = owner.start(
        spec(
            host,
            ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "{port}"],
            ready=http("/"),
            cwd="/etc",
        )
    )
    assert web.url is not None
    assert b"passwd" in urlopen(web.url).read()
    web.kill()
    with socket.socket() as closed:
        assert closed.connect_ex(("127.0.0.1", int(web.url.rpartition(":")[2]))) != 0
    argv = ["/usr/bin/python3", "-u", "-m", "http.server", "8765"]
    other = owner.start(spec(host, argv, ready=log("."), name="other", listen=8765))
    with pytest.raises(StartError, match="held by a process outside its tree"):
        owner.start(spec(host, ["sleep", "50"], ready=tcp(timeout=1), listen=8765, stop_grace=0))
    other.kill()


@pytest.fixture
def other_key(tmp_path: Path) -> Path:
    """A key that is good for nothing."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    return tmp_path / "other"


def refused(owner: Owner, host: HostOf, made: RemoteProcess, message: str, kind: type[Exception] = StartError) -> None:
    """A start that fails with one clear error, and leaves nothing on either side."""
    with pytest.raises(kind, match=f"(?s){message}") as caught:
        owner.start(made)
    assert isinstance(caught.value, StartError)
    eventually(lambda: owner.resources == [])
    assert host.pids() == []


def test_an_unknown_or_other_host_key_is_refused(owner: Owner, host: HostOf, tmp_path: Path, other_key: Path) -> None:
    """Before anything is sent."""
    known = tmp_path / "known"
    known.touch()
    refused(owner, host, spec(host, ["sleep", "50"], name="bad", known_hosts=known), "cannot start bad.*host key")
    known.write_text(f"{host.address} {' '.join(Path(f'{other_key}.pub').read_text().split()[:2])}\n")
    refused(owner, host, spec(host, ["sleep", "50"], name="bad", known_hosts=known), "cannot start bad.*host key")


def test_a_wrong_user_and_a_refused_key(owner: Owner, host: HostOf, net: Net, other_key: Path) -> None:
    """Each says whose login was refused."""
    stranger = RemoteProcess(
        f"nobody-here@{host.address}", ["true"], name="bad", key=net.key, known_hosts=net.known_hosts
    )
    refused(owner, host, stranger, "cannot start bad.*refused the login of nobody-here")
    refused(
        owner, host, spec(host, ["true"], name="bad", key=other_key), f"cannot start bad.*refused the login of {USER}"
    )
    missing = spec(host, ["true"], name="bad", key="/no/such/key")
    refused(owner, host, missing, "cannot start bad.*/no/such/key")


@pytest.mark.parametrize("address", [f"{hosts.NET}.1.77", "no-such-host.invalid"], ids=["address", "name"])
def test_no_route(owner: Owner, host: HostOf, address: str) -> None:
    """Nobody has that address, or that name."""
    refused(
        owner,
        host,
        RemoteProcess(address, ["true"], name="bad", user=USER),
        f"cannot start bad.*{address}.*can't be reached",
    )


def test_a_missing_program_and_folder(owner: Owner, host: HostOf) -> None:
    """As subprocess says it."""
    refused(owner, host, spec(host, ["no-such-program"], name="bad"), "no-such-program", FileNotFoundError)
    refused(owner, host, spec(host, ["true"], name="bad", cwd="/no/such/folder"), "/no/such/folder", FileNotFoundError)
    refused(owner, host, spec(host, ["/etc/passwd"], name="bad"), "/etc/passwd", PermissionError)


def test_a_full_disk_there(owner: Owner, host: HostOf) -> None:
    """Where the log and the receipt would be."""
    folder = host.net.home / ".local/state"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.chown(host.net.home / ".local", USER)
    shutil.chown(folder, USER)
    host.within("mount", "-t", "tmpfs", "-o", "size=64k,mode=777", "tmpfs", folder)
    try:
        host.within("sh", "-c", f"dd if=/dev/zero of={folder}/full 2>/dev/null || true")
        refused(owner, host, spec(host, ["sleep", "50"], name="bad"), "cannot start bad.*No space left on device")
    finally:
        host.within("umount", "-l", folder)


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": ""},
        {"host": "-oProxyCommand=x"},
        {"host": "two words"},
        {"host": "ssh://host"},
        {"host": "a@host", "user": "b"},
        {"argv": []},
        {"argv": "sleep 5"},
        {"argv": ["a\0b"]},
        {"port": 0},
        {"listen": 70000},
        {"lease": 0.1},
        {"ready": http("/")},
        {"umask": -1},
        {"stop_signal": 0},
        {"env": {"A=B": "c"}},
    ],
    ids=str,
)
def test_what_cant_be_right_is_refused(wrong: dict[str, Any]) -> None:
    """Before anything is sent."""
    with pytest.raises(SpecError):
        RemoteProcess(**{"host": "host", "argv": ["true"], **wrong})


def test_an_unknown_host_key_can_be_accepted(owner: Owner, host: HostOf, tmp_path: Path) -> None:
    """If the user says so."""
    (tmp_path / "empty").touch()
    assert owner.start(spec(host, ["true"], known_hosts=tmp_path / "empty", verify_host=False)).wait(timeout=10) == 0


def test_ssh_config_agent_and_jump(
    owner: Owner, host: HostOf, net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alias of a config file; a key that only the agent has; a host behind another."""
    config = tmp_path / "config"
    config.write_text(
        f"Host there\n  HostName {host.address}\n  User {USER}\n  IdentityFile {net.key}\n  UserKnownHostsFile {net.known_hosts}\n"
    )
    assert owner.start(RemoteProcess("there", ["true"], config=config)).wait(timeout=10) == 0
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: (tmp_path / "agent").exists())
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        subprocess.run(["ssh-add", "-q", net.key], check=True)
        through = RemoteProcess(f"{USER}@{host.address}", ["true"], known_hosts=net.known_hosts)
        assert owner.start(through).wait(timeout=10) == 0
        with hosts.running(net, 2) as second:
            # It sees the first host only by the jump: here, both are reached anyway, so the connection's origin is the proof.
            jumped = RemoteProcess(
                f"{USER}@{second.address}",
                ["sh", "-c", "echo $SSH_CONNECTION"],
                known_hosts=net.known_hosts,
                jump=f"{USER}@{host.address}",
                config=_jump_config(tmp_path, net),
            )
            subprocess.run(
                ["ip", "netns", "exec", host.name, "ip", "route", "replace", "default", "via", f"{hosts.NET}.1.1"],
                check=True,
            )
            forwarding = Path("/proc/sys/net/ipv4/ip_forward")
            before = forwarding.read_text()
            forwarding.write_text("1")
            subprocess.run(["iptables", "-I", "FORWARD", "-j", "ACCEPT"], check=False)
            subprocess.run(
                ["ip", "-n", second.name, "route", "replace", "default", "via", f"{hosts.NET}.2.1"], check=True
            )
            try:
                job = owner.start(jumped)
                assert job.wait(timeout=10) == 0
                assert job.logs().startswith(host.address)
            finally:
                forwarding.write_text(before)
                subprocess.run(["iptables", "-D", "FORWARD", "-j", "ACCEPT"], check=False)
    finally:
        agent.kill()
        agent.wait()


def _jump_config(folder: Path, net: Net) -> Path:
    config = folder / "jump"
    config.write_text(f"Host *\n  UserKnownHostsFile {net.known_hosts}\n")
    return config


def test_stop_is_polite_and_kill_is_not(owner: Owner, host: HostOf) -> None:
    """The whole tree ends, with helpers that left the session; a swallowed signal is sent again, and the grace is kept."""
    polite = ["sh", "-c", "trap 'echo bye; exit 0' TERM; setsid sleep 90 & echo up; while :; do sleep 0.05; done"]
    first = owner.start(spec(host, polite, ready=log("up")))
    first.stop(grace=5)
    assert (first.state, first.exit_code) == (State.GONE, 0)
    assert "bye" in first.logs()
    stubborn = owner.start(
        spec(host, ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"], ready=log("up"))
    )
    stubborn.stop(grace=0.3)
    assert (stubborn.state, stubborn.exit_code) == (State.GONE, -9)
    third = owner.start(spec(host, polite, ready=log("up")))
    third.kill()
    third.kill()
    assert third.exit_code == -9
    assert host.pids() == []


ESCAPING = """
import os, sys, time
from pathlib import Path
from tether import Owner, RemoteProcess
address, key, known, script, folder, state, lease = sys.argv[1:]
owner = Owner("far", state_dir=state)
job = owner.start(RemoteProcess(address, ["/usr/bin/python3", script, folder], key=key, known_hosts=known, name="escape", lease=float(lease)))
deadline = time.monotonic() + 60
while not (Path(folder) / "all").exists() and time.monotonic() < deadline:
    time.sleep(0.01)
print(owner.status()["reaper"], job.id, flush=True)
time.sleep(100)
"""


@pytest.fixture
def escaping(runner: Runner, host: HostOf, net: Net, private_state: Path) -> Iterator[Callable[..., Any]]:
    """Start an owner with ten escaping descendants there: its process, the reaper's pid, and the folder that tells who lives."""
    started: list[subprocess.Popen[str]] = []

    def start(lease: float = 60.0) -> tuple[subprocess.Popen[str], int, Path]:
        folder = net.folder / f"escape-{len(os.listdir(net.folder))}"
        folder.mkdir()
        shutil.chown(folder, USER)
        script = net.folder / "escape.py"
        shutil.copy(ESCAPE, script)
        process = runner.popen(
            ESCAPING, f"{USER}@{host.address}", net.key, net.known_hosts, script, folder, private_state, str(lease)
        )
        started.append(process)
        assert process.stdout is not None
        reaper = int(process.stdout.readline().split()[0])
        assert len(support.survivors(folder)) >= 10
        return process, reaper, folder

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_owner_is_killed(escaping: Callable[..., Any], private_state: Path) -> None:
    """Ten escaping descendants there are gone within two seconds, and it is on record."""
    process, _, folder = escaping()
    process.kill()
    eventually(lambda: not support.survivors(folder), 2.0)
    eventually(lambda: not Ledger(private_state).resources())


def test_the_link_is_cut_for_longer_than_the_lease(escaping: Callable[..., Any], host: HostOf) -> None:
    """Gone there within the lease and two seconds, without any help from here."""
    process, reaper, folder = escaping(lease=2.0)
    host.cut()
    for pid in (reaper, process.pid):
        os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: not support.survivors(folder), 2.0 + 2.0)
    finally:
        for pid in (reaper, process.pid):
            os.kill(pid, signal.SIGCONT)
        host.heal()


def test_owner_reaper_and_link_are_lost_together(
    escaping: Callable[..., Any], host: HostOf, private_state: Path
) -> None:
    """The lease ends it there; the sweep puts it on record when the link is back."""
    process, reaper, folder = escaping(lease=2.0)
    host.cut()
    os.kill(reaper, signal.SIGKILL)
    process.kill()
    eventually(lambda: not support.survivors(folder), 4.0)
    run = [sys.executable, "-m", "tether", "reap"]
    assert subprocess.run(run, capture_output=True, check=False, timeout=60).returncode == 1
    (row,) = Ledger(private_state).resources()
    assert "can't be reached" in row.reason
    host.heal()
    assert subprocess.run(run, capture_output=True, check=False, timeout=60).returncode == 0
    assert Ledger(private_state).resources() == []


def test_the_link_is_cut_for_less_than_the_lease(owner: Owner, host: HostOf) -> None:
    """LOST meanwhile, then READY: the same process, nothing lost of its output, its exit code to come."""
    script = "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i + 1)); sleep 0.1; done; exit 9"
    job = owner.start(spec(host, ["sh", "-c", script], lease=9))
    pid = job.details["far_pid"]
    host.cut()
    eventually(lambda: job.state is State.LOST, 12)
    assert pid in host.pids()
    host.heal()
    eventually(lambda: job.state is not State.LOST, 12)
    assert job.wait(timeout=20) == 9
    assert job.logs() == "".join(f"line {number}\n" for number in range(60))


def test_it_ends_while_the_link_is_cut(owner: Owner, host: HostOf) -> None:
    """Its exit code and output are there when the link is back."""
    job = owner.start(spec(host, ["sh", "-c", "sleep 3; echo last words; exit 3"], lease=9))
    host.cut()
    eventually(lambda: job.state is State.LOST, 12)
    eventually(lambda: not host.pids())
    host.heal()
    assert job.wait(timeout=20) == 3
    assert job.logs() == "last words\n"


def test_sshd_is_restarted(owner: Owner, host: HostOf) -> None:
    """All connections die; what runs there goes on, and is found again, with its forwarded port."""
    argv = ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "{port}"]
    web = owner.start(spec(host, argv, ready=http("/"), lease=9))
    pid, url = web.details["far_pid"], web.url
    host.end_serving()
    eventually(lambda: web.state is State.LOST, 12)
    host.serve()
    eventually(lambda: web.state is State.READY, 15)
    assert (web.details["far_pid"], web.url) == (pid, url)
    assert url is not None
    eventually(lambda: _answers(url))
    web.kill()


def _answers(url: str) -> bool:
    try:
        with urlopen(url) as answer:
            return int(answer.status) == 200
    except OSError:
        return False


def test_a_bad_link(owner: Owner, host: HostOf) -> None:
    """With delay and loss it is slower, and nothing else."""
    host.worsen()
    job = owner.start(spec(host, ["sh", "-c", "seq 1 9000; exit 2"], lease=10))
    assert job.wait(timeout=60) == 2
    assert len(job.logs().splitlines()) == 9000


def test_the_shim_there_is_killed(owner: Owner, host: HostOf) -> None:
    """What carries the tag is ended there, and it has FAILED."""
    job = owner.start(spec(host, ["sh", "-c", "sleep 90 & echo up; exec sleep 90"], ready=log("up")))
    handle = job._managed.handle
    assert handle is not None
    os.kill(handle.data["shim"][0], signal.SIGKILL)
    job.wait(timeout=10)
    assert job.state is State.FAILED
    assert "shim there was killed" in job.reason


KEEPING = """
import os, signal, sys
from tether import Owner, RemoteProcess, http
address, key, known, state, end = sys.argv[1:]
owner = Owner("keeper", state_dir=state)
job = owner.start(RemoteProcess(address, ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "{port}"], key=key,
    known_hosts=known, name="web", ready=http("/"), lease=2, on_death="keep", keep_for=30))
print(job.details["far_pid"], flush=True)
os.kill(os.getpid(), signal.SIGKILL) if end == "kill" else owner.shutdown()
"""


@pytest.mark.parametrize("end", ["kill", "shutdown"])
def test_kept_and_adopted(
    runner: Runner, host: HostOf, net: Net, private_state: Path, tmp_path: Path, end: str
) -> None:
    """By the next owner, with a copy of the ledger as on another machine; the lease goes on with it."""
    with runner.popen(KEEPING, f"{USER}@{host.address}", net.key, net.known_hosts, private_state, end) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.wait(20)
    time.sleep(2.5)
    assert pid in host.pids()
    copy = tmp_path / "another-machine"
    shutil.copytree(private_state, copy)
    with Owner("keeper", state_dir=copy) as owner:
        web = owner.adopt("web")
        assert (web.details["far_pid"], web.state) == (pid, State.READY)
        assert web.url is not None
        eventually(lambda: _answers(str(web.url)))
        time.sleep(3)
        assert pid in host.pids()
        web.stop(grace=2)
        with pytest.raises(NotFound):
            owner.adopt("other")
    subprocess.run([sys.executable, "-m", "tether", "reap", "--all"], check=True, timeout=60, capture_output=True)
    assert Ledger(private_state).resources() == []


def test_kept_no_longer_than_was_said(owner: Owner, host: HostOf) -> None:
    """The shim there sees to it."""
    job = owner.start(spec(host, ["sleep", "90"], name="job", lease=1, on_death="keep", keep_for=1))
    pid = job.details["far_pid"]
    owner.shutdown()
    assert pid in host.pids()
    eventually(lambda: not host.pids(), 4)
    subprocess.run([sys.executable, "-m", "tether", "reap"], check=True, timeout=60, capture_output=True)


def connections(host: HostOf) -> set[str]:
    """The connections to its sshd, by the other end."""
    command = ["ip", "netns", "exec", host.name, "ss", "-Htn", "state", "established", "sport = 22"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {line.split()[-1] for line in shown.splitlines()}


def test_many_share_one_connection(owner: Owner, host: HostOf, net: Net) -> None:
    """A hundred on one host; a dead host holds up nobody, in starting and in ending."""
    before = connections(host)

    def start(number: int) -> Resource:
        return owner.start(spec(host, ["sleep", "90"], name=f"job-{number}", lease=10))

    def fail(number: int) -> str:
        try:
            owner.start(RemoteProcess(f"{hosts.NET}.1.78", ["true"], user=USER, name=f"dead-{number}"))
        except StartError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(40) as pool:
        dead = [pool.submit(fail, number) for number in range(5)]
        jobs = list(pool.map(start, range(100)))
        assert len(host.pids()) >= 100
        # One of an earlier test may not have heard yet that its end was cut off.
        assert len(connections(host) - before) == 1
        assert all("can't be reached" in each.result() for each in dead)
    owner.shutdown(grace=2)
    assert all(job.state is State.GONE for job in jobs)


def test_the_command_line(owner: Owner, host: HostOf, tmp_path: Path) -> None:
    """ps, logs, stop and doctor know it."""
    job = owner.start(spec(host, ["sh", "-c", "echo hello; exec sleep 90"], name="job", ready=log("hello")))
    run = [sys.executable, "-m", "tether"]

    def say(*argv: str) -> str:
        return subprocess.run([*run, *argv], capture_output=True, text=True, check=True, timeout=60).stdout

    (row,) = json.loads(say("ps", "--json"))
    assert (row["kind"], row["state"], row["ssh_host"]) == ("ssh", "ready", host.address)
    assert say("logs", "job") == "hello\n"
    assert say("stop", "job", "--grace", "2") == "job: gone\n"
    job.wait(timeout=10)
    assert job.state is not State.READY
    home = tmp_path / "home/.ssh"
    home.mkdir(parents=True)
    (home / "config").write_text(
        f"Host there\n  HostName {host.address}\n  User {USER}\n  IdentityFile {host.net.key}\n  UserKnownHostsFile {host.net.known_hosts}\n"
    )
    environ = {**os.environ, "HOME": str(tmp_path / "home")}
    seen = subprocess.run([*run, "doctor", "there", "--json"], capture_output=True, text=True, check=True, env=environ)
    found = {each["what"]: each for each in json.loads(seen.stdout)}
    assert found["connection"]["good"]
    assert found["shim there"]["found"].startswith("tether-guard")
    wrong = subprocess.run([*run, "doctor", f"nobody@{hosts.NET}.1.77"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "can't be reached" in wrong.stdout


def test_forgetting_a_host_that_is_gone(runner: Runner, net: Net, private_state: Path) -> None:
    """It stays on record with its last error; giving it up says what is given up. What can be reached is not given up."""
    run = [sys.executable, "-m", "tether"]
    with hosts.running(net, 3) as gone:
        code = (
            "import sys; from tether import Owner, RemoteProcess\n"
            "o = Owner('app', state_dir=sys.argv[1])\n"
            "o.start(RemoteProcess(sys.argv[2], ['sleep', '60'], key=sys.argv[3], known_hosts=sys.argv[4], name='far', lease=60))\n"
            "print('up', flush=True); import time; time.sleep(60)"
        )
        with runner.popen(code, private_state, f"{USER}@{gone.address}", net.key, net.known_hosts) as process:
            assert process.stdout is not None
            process.stdout.readline()
            refused = subprocess.run([*run, "forget", "far"], capture_output=True, text=True, check=False)
            assert refused.returncode == 1
            assert "has a living owner" in refused.stderr
            gone.cut()
            process.kill()
    assert subprocess.run([*run, "reap"], capture_output=True, check=False, timeout=60).returncode == 1
    (row,) = Ledger(private_state).resources()
    assert "can't be reached" in row.reason
    said = subprocess.run([*run, "forget", row.id], capture_output=True, text=True, check=True, timeout=60).stdout
    assert gone.address in said
    assert "nobody ends it" in said
    (row,) = Ledger(private_state).resources(ended=True)
    assert row.state is State.FAILED
    # What the tests share one file system for, another host would have taken along.
    for path in kept_there(net):
        shutil.rmtree(path)


def test_the_plugin(owner: Owner, host: HostOf) -> None:
    """Lifecycle-aware and cloud-aware."""
    plugin = RemotePlugin(spec(host, ["sleep", "90"], name="far"), cost_per_hour=2.0)
    owner.register(plugin)
    assert is_lifecycle_aware(plugin)
    assert is_cloud_aware(plugin)
    assert plugin.get_execution_mode() is PluginExecutionMode.REMOTE_SSH
    assert plugin.get_remote_resource_info() is None
    assert plugin.check_remote_resource_status() == "not_provisioned"
    with pytest.raises(SpecError, match="hostname: a RemoteProcess has no such field"):
        plugin.provision_remote_resource(hostname="elsewhere")
    info = plugin.provision_remote_resource(lease=5.0)
    assert plugin.provision_remote_resource(lease=5.0).instance_id == info.instance_id
    with pytest.raises(Busy, match="with other settings"):
        plugin.provision_remote_resource(lease=6.0)
    assert (info.ssh_host, info.ssh_port, info.status) == (host.address, 22, "running")
    assert has_active_cloud_resources(plugin)
    assert get_total_estimated_cost([plugin], 3.0) == 6.0
    assert plugin.get_managed_resources()["ssh_host"] == host.address
    assert plugin.get_child_pids() == []
    assert plugin.terminate_remote_resource()
    assert plugin.terminate_remote_resource()
    assert plugin.check_remote_resource_status() == "terminated"
    plugin.provision_remote_resource(argv=["sh", "-c", "sleep 0.5; exit 3"])
    assert plugin.last is not None
    plugin.last.wait(20)
    assert (plugin.get_remote_resource_info(), plugin.check_remote_resource_status()) == (None, "failed")
    # While it is being created there is nothing but the settings to tell.
    plugin.last._managed.handle, plugin.last._managed.life = None, type(plugin.last._managed.life)()
    begun = plugin.get_remote_resource_info()
    assert begun is not None
    assert (begun.ssh_host, begun.ssh_port, begun.status) == (host.address, 22, "provisioning")
    plugin.last._managed.life = type(plugin.last._managed.life)(state=State.GONE)


def test_stopped_while_it_is_lost(owner: Owner, host: HostOf) -> None:
    """Said, kept on record, and done when the link is back."""
    job = owner.start(spec(host, ["sleep", "90"], lease=6))
    host.cut()
    errors: list[BaseException] = []

    def stop() -> None:
        try:
            job.stop(grace=1)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=stop)
    thread.start()
    thread.join(40)
    assert "does not answer" in str(errors[0]) or "can't be reached" in str(errors[0])
    assert not job.state.is_final
    host.heal()
    job.wait(timeout=40)
    assert job.state is State.GONE
