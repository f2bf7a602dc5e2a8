"""Conda environments, made from a channel in a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

import channel
from support import Runner, eventually
from tether import CondaEnv, Owner, Process, SpecError, StartError, State, log
from tether.ledger.store import Ledger
from tether.linux import proc


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A channel with a tool, three libraries that it needs, and another package."""
    return channel.make(tmp_path_factory.mktemp("channel"))


def envs(state: Path) -> list[str]:
    """The environments of the cache, whole or not."""
    return sorted(path.name for path in (state / "conda/envs").glob("*"))


def test_made_once_and_used_again(owner: Owner, address: str) -> None:
    """The second time nothing is solved or installed; progress is said; it stays when it is let go."""
    said: list[str] = []
    first = owner.start(CondaEnv(["tool"], [address]), on_progress=said.append)
    assert said[0] == f"solving tool from {address}"
    assert any(line.startswith("installing tool") for line in said)
    prefix = Path(first.details["conda_env"])
    assert (prefix / "bin/tool").exists()
    assert "tool=1.0" in first.details["packages"]
    first.kill()
    assert (first.state, prefix.exists()) == (State.GONE, True)
    for _ in range(3):
        said.clear()
        again = owner.start(CondaEnv(["tool"], [address]), on_progress=said.append)
        again.stop()
        assert said == ["it was made before"]
    assert again.details["conda_env"] == str(prefix)


def test_a_command_runs_in_it_activated(owner: Owner, address: str) -> None:
    """Activation scripts included; the process is the command itself, and an ordinary resource."""
    env = owner.start(CondaEnv(["tool"], [address], name="env"))
    prefix = env.details["conda_env"]
    tool = owner.start(Process(["tool", "30"], name="tool", env_in=env, ready=log("tool /")))
    assert tool.logs() == f"tool {prefix}/share/tool\n"
    assert tool.pid is not None
    assert b"sleep" in proc.read(f"/proc/{tool.pid}/cmdline")
    assert f"CONDA_PREFIX={prefix}".encode() in proc.environ(tool.pid).split(b"\0")
    assert tool.info()["spec"]["argv"] == ["tool", "30"]
    assert tool.info()["spec"]["env_in"] == "env"
    tool.stop()
    with pytest.raises(FileNotFoundError):
        owner.start(Process(["no-such-tool"], env_in=env))
    outer = owner.start(Process(["sh", "-c", "exit 5"], env_in=env))
    assert outer.wait(timeout=10) == 5
    with pytest.raises(SpecError, match="nothing can run in"):
        owner.start(Process(["true"], env_in=owner.start(Process(["sleep", "30"]))))


def test_the_spec_of_an_environment_is_enough(owner: Owner, address: str) -> None:
    """It is started with the process; the second process uses the same."""
    env = CondaEnv(["tool"], [address], name="env", ephemeral=True)
    for _ in range(2):
        assert owner.start(Process(["tool"], env_in=env)).wait(timeout=10) == 0
    assert [resource.name for resource in owner.resources] == ["env"]


def test_an_ephemeral_one_goes_after_what_runs_in_it(private_state: Path, address: str) -> None:
    """It is removed at the end, and not while a process in it is still ending."""
    script = "trap 'sleep 1; test -e $CONDA_PREFIX/bin/tool && echo still there; exit' TERM; echo up; while :; do sleep 0.05; done"
    with Owner("short") as owner:
        env = owner.start(CondaEnv(["tool"], [address], ephemeral=True))
        job = owner.start(Process(["sh", "-c", script], env_in=env, ready=log("up"), needs=[]))
        prefix = Path(env.details["conda_env"])
        assert prefix.exists()
    assert job.logs().endswith("still there\n")
    assert not prefix.exists()


def test_a_prefix_that_exists_survives_everything(owner: Owner, address: str, tmp_path: Path) -> None:
    """Used by prefix or by name, started and ended: not a file of it changes."""
    home = tmp_path / "home/.conda/envs"
    made = owner.start(CondaEnv(["tool"], [address], prefix=home / "mine"))
    made.kill()
    before = sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path / "home"))
        for spec in (CondaEnv(prefix=home / "mine"), CondaEnv(name="mine")):
            used = owner.start(spec)
            assert used.details["conda_env"] == str(home / "mine")
            assert owner.start(Process(["tool"], env_in=used)).wait(timeout=10) == 0
            used.kill()
        with pytest.raises(StartError, match="cannot use environment yours: there is none at"):
            owner.start(CondaEnv(name="yours"))
    with pytest.raises(StartError, match="was not made from this request"):
        owner.start(CondaEnv(["other"], [address], prefix=home / "mine"))
    assert sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*")) == before
    with pytest.raises(StartError, match="there is none at"):
        owner.start(CondaEnv(prefix=tmp_path))


def test_a_folder_with_other_things_is_not_touched(owner: Owner, address: str, tmp_path: Path) -> None:
    """A prefix that has something in it is refused."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious").write_text("data")
    with pytest.raises(StartError, match="is there and was not made from this request"):
        owner.start(CondaEnv(["tool"], [address], prefix=tmp_path / "full"))
    assert (tmp_path / "full/precious").read_text() == "data"


@pytest.mark.parametrize(
    ("packages", "message"),
    [(["no-such-package"], "no-such-package"), (["tool>=9"], "tool"), (["tool =="], "version spec")],
)
def test_what_cant_be_solved_is_said(owner: Owner, address: str, packages: list[str], message: str) -> None:
    """Nothing was created."""
    with pytest.raises(StartError, match=f"(?s)cannot make environment bad.*{message}"):
        owner.start(CondaEnv(packages, [address], name="bad"))
    assert envs(owner.state_dir) == []
    assert owner.resources == []


def test_a_channel_that_is_not_there(owner: Owner, tmp_path: Path) -> None:
    """Is said, and nothing was created."""
    with pytest.raises(StartError, match="cannot make environment bad"):
        owner.start(CondaEnv(["tool"], [(tmp_path / "nothing").as_uri()], name="bad"))
    assert envs(owner.state_dir) == []


def test_a_package_that_is_damaged(owner: Owner, tmp_path: Path) -> None:
    """Fails while it is installed; what was half made is removed."""
    address = channel.make(tmp_path / "broken")
    for package in (tmp_path / "broken/noarch").glob("tool-*.tar.bz2"):
        package.write_bytes(b"no archive at all")
    with pytest.raises(StartError, match="cannot make environment bad at"):
        owner.start(CondaEnv(["tool"], [address], name="bad"))
    eventually(lambda: owner.resources == [])
    assert envs(owner.state_dir) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"packages": "tool"},
        {"packages": ["tool"], "channels": []},
        {"packages": ["tool"], "lock": "x.lock"},
        {"lock": "/no/such.lock"},
        {"prefix": "/x", "ephemeral": True},
        {"packages": [""]},
        {"packages": ["tool"], "name": "no name"},
    ],
    ids=str,
)
def test_what_cant_be_right_is_refused(wrong: dict[str, object]) -> None:
    """Before anything is created."""
    with pytest.raises(SpecError):
        CondaEnv(**wrong)  # type: ignore[arg-type]


MAKING = """
import sys
from tether import Owner, CondaEnv
owner = Owner("making", state_dir=sys.argv[1])
print("begun", flush=True)
sys.stdin.readline()
said = []
env = owner.start(CondaEnv(["tool"], [sys.argv[2]], name="env"), on_progress=said.append)
print(env.details["conda_env"], "made" if any(line.startswith("installing") for line in said) else "used", flush=True)
owner.shutdown()
"""


def test_two_creators_at_once_make_one(runner: Runner, private_state: Path, address: str) -> None:
    """One makes it, the other waits and uses it."""
    makers = [runner.popen(MAKING, private_state, address, stdin=subprocess.PIPE) for _ in range(2)]
    for maker in makers:
        assert maker.stdout is not None
        maker.stdout.readline()
    said = _go(makers)
    assert len(envs(private_state)) == 1
    assert sorted(what for _, what in said) == ["made", "used"]
    assert len({prefix for prefix, _ in said}) == 1


def _go(makers: Sequence[subprocess.Popen[str]]) -> list[list[str]]:
    """Let both go in the same moment, and return what they said."""
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    return [maker.communicate(timeout=30)[0].split() for maker in makers]


def test_creators_in_one_process_make_one(owner: Owner, address: str) -> None:
    """Threads as well."""
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.append(owner.start(CondaEnv(["tool"], [address])).details["conda_env"]))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1
    assert len(made) == 5


@pytest.mark.parametrize("moment", ["start.making=kill", "start.making=delay:1.5"])
def test_a_creator_killed_in_the_middle_leaves_nothing_half_made(
    runner: Runner, private_state: Path, address: str, moment: str
) -> None:
    """Neither on the disk nor in the way of the next."""
    with runner.popen(MAKING, private_state, address, stdin=subprocess.PIPE, env={"TETHER_FAULTS": moment}) as maker:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
        eventually(lambda: envs(private_state))
        maker.kill()
        maker.communicate()
    eventually(lambda: envs(private_state) == [])
    eventually(lambda: Ledger(private_state).resources() == [])
    with Owner("next") as owner:
        env = owner.start(CondaEnv(["tool"], [address]))
        assert (Path(env.details["conda_env"]) / "bin/tool").exists()


def test_a_lock_file(owner: Owner, address: str, tmp_path: Path) -> None:
    """What a lock file names is installed, without solving."""
    channel.lock_of(address, ["tool"], tmp_path / "env.lock")
    env = owner.start(CondaEnv(lock=tmp_path / "env.lock"))
    assert "tool=1.0" in env.details["packages"]
    with pytest.raises(SpecError, match=r"no\.lock"):
        CondaEnv(lock=tmp_path / "no.lock")


def test_a_restart_is_planned_anew(
    owner: Owner, address: str, tmp_path: Path, private_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another lock file by then it will be elsewhere: that is on record before it is made there."""
    lock = tmp_path / "env.lock"
    channel.lock_of(address, ["tool"], lock)
    env = owner.start(CondaEnv(lock=lock))
    first = env.details["conda_env"]
    lock.write_text(lock.read_text() + "# changed\n")
    planned: list[str] = []

    def look(name: str) -> None:
        if name == "start.making":
            planned.extend(row.handle.data["prefix"] for row in Ledger(private_state).resources() if row.handle)

    monkeypatch.setattr("tether.linux.faults.point", look)
    env.restart()
    second = env.details["conda_env"]
    assert second != first
    assert planned == [second, second]


def test_it_works_within_a_running_loop(owner: Owner, address: str) -> None:
    """An app that calls it from a coroutine is not told that a loop is running."""
    import asyncio

    async def main() -> str:
        return str(owner.start(CondaEnv(["tool"], [address])).details["conda_env"])

    assert os.path.exists(asyncio.run(main()))


def test_seen_from_outside(owner: Owner, address: str) -> None:
    """By the command line, with its prefix."""
    env = owner.start(CondaEnv(["tool"], [address], name="env"))
    shown = subprocess.run(
        [sys.executable, "-m", "tether", "ps", "--json"], capture_output=True, text=True, check=True
    ).stdout
    (row,) = json.loads(shown)
    assert (row["kind"], row["state"], row["conda_env"]) == ("conda", "ready", env.details["conda_env"])
