"""Nothing escapes: programs that try to outlive their owner in every way we could think of.

As root and as an ordinary user, with cgroup and without, held by shims and in the portable path; ended in order, by force, and
by killing owner, shim and reaper in every combination.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import support
from support import Runner, escaping, eventually
from tether import Owner
from tether.linux import proc, tree

KINDS = 13
TIERS = ["cgroup", "shim", "portable"]


def _environ(tier: str) -> dict[str, str]:
    return {"TETHER_TIER": tier}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("end", ["stop", "kill", "shutdown"])
def test_an_orderly_end_leaves_nothing(runner: Runner, tier: str, end: str) -> None:
    """When stop(), kill() or shutdown() returns, the whole tree has ended."""
    with escaping(runner, env=_environ(tier)) as run:
        assert len(run.survivors()) == KINDS
        assert run.tier == tier
        run.order(end)
        assert run.survivors() == []


@pytest.mark.parametrize(
    "victims",
    [("owner",), ("owner", "reaper"), ("owner", "shim"), ("shim",), ("shim", "reaper")],
    ids=lambda victims: "+".join(victims),
)
@pytest.mark.parametrize("tier", TIERS)
def test_kill_9_of_the_guards_leaves_nothing(runner: Runner, tier: str, victims: tuple[str, ...]) -> None:
    """Whoever of owner, shim and reaper is killed, one of the others ends the tree."""
    with escaping(runner, env=_environ(tier)) as run:
        assert len(run.survivors()) == KINDS
        run.signal(signal.SIGKILL, *victims)
        eventually(lambda: run.survivors() == [], 10.0, "the tree ends")


@pytest.mark.parametrize("victims", [("owner",), ("owner", "shim")], ids=lambda victims: "+".join(victims))
def test_as_an_ordinary_user_too(user_runner: Runner, victims: tuple[str, ...]) -> None:
    """Without root and without a cgroup nothing is weaker."""
    with escaping(user_runner) as run:
        assert run.tier == "shim"
        assert len(run.survivors()) == KINDS
        run.signal(signal.SIGKILL, *victims)
        eventually(lambda: run.survivors() == [], 1.0 if victims == ("owner",) else 10.0, "the tree ends")


@pytest.mark.parametrize("stopped", [("shim",), ("reaper",), ("shim", "reaper")], ids=lambda who: "+".join(who))
@pytest.mark.parametrize("tier", TIERS)
def test_guards_that_were_stopped_are_woken(runner: Runner, tier: str, stopped: tuple[str, ...]) -> None:
    """SIGSTOP of shim and reaper before the owner is killed saves nothing, and leaves no stopped guard either."""
    with escaping(runner, env=_environ(tier)) as run:
        starts = run.starts()
        run.signal(signal.SIGSTOP, *stopped)
        run.signal(signal.SIGKILL, "owner")
        eventually(lambda: run.survivors() == [], 10.0, "the tree ends")
        for who in ("shim", "reaper"):
            eventually(lambda who=who: not support.is_alive(run.pids[who], starts[who]), 10.0, f"the {who} ends")  # type: ignore[misc]


def test_a_stopped_shim_is_woken_when_the_reaper_is_killed(runner: Runner) -> None:
    """The kernel continues a stopped process group that becomes an orphan."""
    with escaping(runner, env=_environ("shim")) as run:
        run.signal(signal.SIGSTOP, "shim")
        # It stops when it runs next; only what is stopped by then is woken.
        eventually(lambda: (stat := proc.read_stat(run.pids["shim"])) is not None and stat.state == "T")
        run.signal(signal.SIGKILL, "owner", "reaper")
        eventually(lambda: run.survivors() == [], 10.0, "the tree ends")


@pytest.mark.parametrize("kind", ["other_user", "leave_cgroup"])
def test_what_only_root_can_try(runner: Runner, kind: str) -> None:
    """A member that becomes another user, or moves out of its cgroup, is a member."""
    if os.getuid() != 0:
        pytest.skip("only root can try this")
    with escaping(runner, [kind]) as run:
        assert run.survivors() == [kind]
        run.signal(signal.SIGKILL, "owner")
        eventually(lambda: run.survivors() == [], 5.0, "it ends")


JOINER = """
import ctypes, fcntl, os, sys, time
lock = os.open(sys.argv[2] + "/joined.lock", os.O_CREAT | os.O_RDWR)
if ctypes.CDLL(None).setns(os.open(f"/proc/{sys.argv[1]}/ns/pid", os.O_RDONLY), 0) == 0 and os.fork() == 0:
    if os.fork() == 0:
        fcntl.flock(lock, fcntl.LOCK_EX)
        time.sleep(60)
    os._exit(0)
time.sleep(60 if sys.argv[3] == "stop" else 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["stop", "by itself"])
def test_who_joined_another_pid_namespace_is_ended_by_the_cgroup(
    make_owner: Callable[..., Owner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Its parent ended there, so it is no descendant any more; a tree has not ended before its cgroup is empty. Slow: a namespace."""
    from tether import Process

    monkeypatch.setenv("TETHER_TIER", "cgroup")
    with subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sleep", "60"]) as outside:
        try:
            (init,) = eventually(lambda: tree.children(outside.pid), 10.0, "there is a namespace")
            owner = make_owner()
            command = [sys.executable, "-S", "-c", JOINER, str(init), str(tmp_path), end]
            job = owner.start(Process(command, name="joining"))
            if owner.status()["tier"] != "cgroup":
                pytest.skip("no cgroup v2 is writable here")
            eventually(lambda: support.survivors(tmp_path) == ["joined"], 30.0, "it has joined")
            if end == "stop":
                job.stop(grace=20.0)
            else:
                assert job.wait(30) == 0
            assert support.survivors(tmp_path) == []
        finally:
            outside.kill()


def test_the_next_owner_ends_what_owner_shim_and_reaper_left(each_runner: Runner) -> None:
    """All three killed in one instant: the sweep of the next Owner of that state directory ends the rest."""
    kinds = ["session", "daemon", "ignore_signals", "stopped", "refork", "closed_files", "deep"]
    with escaping(each_runner, kinds) as run:
        run.signal(signal.SIGSTOP, "reaper", "shim", "owner")
        run.signal(signal.SIGKILL, "reaper", "shim", "owner")
        run.process.wait()
        assert run.survivors() == sorted(kinds)
        code = "import sys; from tether import Owner; Owner('next', state_dir=sys.argv[1]).shutdown()"
        with each_runner.popen(code, run.folder / "state") as sweeper:
            assert sweeper.wait(60) == 0
        assert run.survivors() == []


@pytest.mark.slow
def test_a_fork_bomb_ends(runner: Runner) -> None:
    """A tree that doubles itself all the time, up to a limit. Slow: hundreds of processes."""
    bomb = (
        "import os, resource, time\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (5, 5))\n"
        "end = time.time() + 30\n"
        "for _ in range(7):\n    os.fork()\n    os.setsid() if os.getpid() != os.getsid(0) and os.getpgrp() != os.getpid() else 0\n"
        "while time.time() < end:\n    time.sleep(0.25)\n    if os.fork() == 0: os._exit(0)\n    os.waitpid(-1, 0)\n"
    )
    from tether import Process

    with Owner("bomb", state_dir=runner.folder / "state") as owner:
        resource = owner.start(Process([sys.executable, "-c", bomb], name="bomb"))
        eventually(lambda: len(resource.pids()) >= 100, 30.0, "a hundred processes")
        resource.kill()
        assert resource.pids() == []


def _daemons() -> list[tuple[str, list[str], str]]:
    return [
        ("redis", ["redis-server", "--port", "0", "--unixsocket", "{dir}/redis.sock", "--daemonize", "yes",
                   "--pidfile", "{dir}/pid", "--dir", "{dir}"], "redis-server"),
        ("memcached", ["memcached", "-d", "-u", "nobody", "-s", "{dir}/memcached.sock", "-P", "{dir}/pid"], "memcached"),
        ("nginx", ["nginx", "-p", "{dir}", "-c", "{dir}/nginx.conf"], "nginx"),
        ("sshd", ["/usr/sbin/sshd", "-f", "{dir}/sshd_config"], "sshd"),
        ("tmux", ["tmux", "-S", "{dir}/tmux.sock", "new-session", "-d", "sleep 90"], "tmux"),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "argv", "program"), _daemons(), ids=[each[0] for each in _daemons()])
def test_real_daemons_are_held(
    runner: Runner, tmp_path_factory: pytest.TempPathFactory, name: str, argv: list[str], program: str
) -> None:
    """Daemons of Debian detach, change user and rewrite their titles, and are members all the same. Slow: real servers."""
    from tether import Process

    folder = tmp_path_factory.mktemp(name)
    folder.chmod(0o777)
    support.let_in(folder)
    port = 20000 + os.getpid() % 20000
    (folder / "nginx.conf").write_text(
        f"pid {folder}/pid; error_log {folder}/log; worker_processes 2; events {{}}\n"
        f"http {{ access_log off; server {{ listen unix:{folder}/nginx.sock; }} }}\n"
    )
    if name == "sshd":
        os.makedirs("/run/sshd", exist_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/key\nPidFile {folder}/pid\nUsePAM no\nStrictModes no\n"
        )
    command = [part.format(dir=folder) for part in argv]
    with Owner("daemons", state_dir=runner.folder / "state") as owner:
        resource = owner.start(Process(command, name=name, cwd=folder))

        def members() -> list[int]:
            found = [pid for pid in resource.pids() if (stat := proc.read_stat(pid)) and program.encode() in stat.name]
            return found if resource.exit_code == 0 and found else []

        pids = eventually(members, 20.0, f"{name} runs as a daemon")
        starts = {pid: proc.start_time(pid) for pid in pids}
        resource.stop(grace=3.0)
    assert [pid for pid, start in starts.items() if start is not None and support.is_alive(pid, start)] == []
