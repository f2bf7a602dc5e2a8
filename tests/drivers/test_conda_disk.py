"""Conda environments on the disk: who makes one, who uses it, whether it is sound, and what is removed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

import channel
from support import Runner, eventually
from tether import CondaEnv, Owner, Process, StartError, State, log
from tether.cli import envs
from tether.drivers.conda import folder


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A channel with a tool, three libraries that it needs, and another package."""
    return channel.make(tmp_path_factory.mktemp("channel"))


def start(owner: Owner, address: str, **more: object) -> Path:
    """Start an environment with the tool, and return its prefix."""
    return Path(owner.start(CondaEnv(["tool"], [address], **more)).details["conda_env"])  # type: ignore[arg-type]


APP = """
import sys
from tether import CondaEnv, Owner
with Owner("app", state_dir=sys.argv[1]) as owner:
    print("begun", flush=True)
    sys.stdin.readline()
    env = owner.start(CondaEnv(["tool"], [sys.argv[2]], prefix=sys.argv[3]))
    print(env.state.value, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(20))
def test_two_apps_with_state_directories_of_their_own_make_one_sound_environment(
    runner: Runner, address: str, tmp_path: Path, round_: int
) -> None:
    """They meet at the lock beside the prefix, also where one reaches it by a link; nothing of that stays. Slow: two Pythons."""
    (tmp_path / "place").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "place")
    prefixes = [tmp_path / "place/env", tmp_path / "link/env"]
    apps = [
        runner.popen(APP, tmp_path / f"state-{n}", address, prefix, stdin=subprocess.PIPE)
        for n, prefix in enumerate(prefixes)
    ]
    for app in apps:
        assert app.stdout is not None
        assert app.stdout.readline() == "begun\n"
    for app in apps:
        assert app.stdin is not None
        app.stdin.write("go\n")
        app.stdin.flush()
    for app in apps:
        assert app.stdout is not None
        assert app.stdout.readline() == "ready\n"
    assert len([path for path in (tmp_path / "place/env/share").rglob("*") if path.is_file()]) == 121
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["env"]
    for app in apps:
        app.communicate("end\n", timeout=20)
    assert folder.made_from(tmp_path / "place/env") is not None


def test_the_mark_is_no_record_of_a_package(owner: Owner, address: str, tmp_path: Path) -> None:
    """Every .json in conda-meta is one that other tools can read; a copy of the folder is nobody's."""
    prefix = start(owner, address, prefix=tmp_path / "env")
    for path in (prefix / "conda-meta").glob("*.json"):
        assert json.loads(path.read_text())["paths_data"]
    assert "made this environment whole" in (prefix / "conda-meta/tether").read_text()
    subprocess.run(["cp", "-a", prefix, tmp_path / "copy"], check=True)
    with pytest.raises(StartError, match="was not made from this request"):
        owner.start(CondaEnv(["tool"], [address], prefix=tmp_path / "copy", name="copy"))
    assert (tmp_path / "copy/bin/tool").exists()


def _lose(prefix: Path) -> None:
    (prefix / "share/tool/data").unlink()


def _cut(prefix: Path) -> None:
    (prefix / "share/tool/data").write_text("")


def _scribble(prefix: Path) -> None:
    (prefix / "share/tool/data").write_text("DATA\n")


def _lose_record(prefix: Path) -> None:
    (prefix / "conda-meta/tool-1.0-0.json").unlink()


def _lose_all(prefix: Path) -> None:
    for path in prefix.glob("*/*"):
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("damage", [_lose, _cut, _scribble, _lose_record, _lose_all], ids=lambda each: each.__name__)
@pytest.mark.parametrize("own_prefix", [False, True], ids=["cache", "prefix"])
def test_a_broken_environment_is_made_anew(
    owner: Owner, address: str, tmp_path: Path, damage: object, own_prefix: bool
) -> None:
    """Before it is used; through its hard links the cache of packages was broken as well, and that too."""
    place = {"prefix": tmp_path / "env"} if own_prefix else {}
    env = owner.start(CondaEnv(["tool"], [address], **place))  # type: ignore[arg-type]
    prefix = Path(env.details["conda_env"])
    env.stop()
    damage(prefix)  # type: ignore[operator]
    if damage is _lose_all and own_prefix:
        # Nothing is left that says whose it is.
        with pytest.raises(StartError, match="was not made from this request"):
            start(owner, address, **place)
        return
    said: list[str] = []
    owner.start(CondaEnv(["tool"], [address], **place), on_progress=said.append)  # type: ignore[arg-type]
    assert (prefix / "share/tool/data").read_text() == "data\n"
    assert any("installing tool" in line for line in said), said
    assert (prefix / "conda-meta/tool-1.0-0.json").exists()


def test_a_touched_file_is_as_good_as_before(owner: Owner, address: str) -> None:
    """Its content counts, not its time."""
    env = owner.start(CondaEnv(["tool"], [address]))
    (Path(env.details["conda_env"]) / "share/tool/data").touch()
    env.stop()
    said: list[str] = []
    owner.start(CondaEnv(["tool"], [address]), on_progress=said.append)
    assert said == ["it was made before"]


def test_a_broken_environment_that_is_in_use_is_not_removed(
    make_owner: object, address: str, private_state: Path
) -> None:
    """Where something is missing that is an error that says so; where a file was written to, it is used as it is."""
    first, second = make_owner("first"), make_owner("second")  # type: ignore[operator]
    prefix = start(first, address)
    _scribble(prefix)
    said: list[str] = []
    env = second.start(CondaEnv(["tool"], [address]), on_progress=said.append)
    assert said == [
        "share/tool/data is not what was installed: others use it now, so it is used as it is",
        "it was made before",
    ]
    env.stop()
    _lose(prefix)
    with pytest.raises(StartError, match="share/tool/data is missing, and it can't be made anew while others use it"):
        start(second, address)
    assert (prefix / "bin/tool").exists()


def test_what_users_put_into_their_prefix_is_not_removed_with_it(owner: Owner, address: str, tmp_path: Path) -> None:
    """A broken environment with files that tether did not make is left to its user."""
    env = owner.start(CondaEnv(["tool"], [address], prefix=tmp_path / "env"))
    env.stop()
    (tmp_path / "env/notes.txt").write_text("precious")
    _lose(tmp_path / "env")
    with pytest.raises(StartError, match=r"is broken, and has files that tether did not make \(notes.txt\)"):
        start(owner, address, prefix=tmp_path / "env")
    assert (tmp_path / "env/notes.txt").read_text() == "precious"


def test_ephemeral_ones_share_no_file(owner: Owner, address: str) -> None:
    """What a process writes into one shows up nowhere else."""
    first = start(owner, address, ephemeral=True, name="first")
    linked = [path for path in first.rglob("*") if path.is_file() and path.stat().st_nlink > 1]
    assert linked == []
    with (first / "share/tool/data").open("a") as file:
        file.write("changed\n")
    second = start(owner, address, ephemeral=True, name="second")
    assert (second / "share/tool/data").read_text() == "data\n"
    assert (start(owner, address, name="third") / "share/tool/data").read_text() == "data\n"


def test_an_ephemeral_one_at_a_prefix_is_one_resource_alone(make_owner: object, address: str, tmp_path: Path) -> None:
    """Nobody else uses it, and nobody's whole one is taken for it."""
    first, second = make_owner("first"), make_owner("second")  # type: ignore[operator]
    env = first.start(CondaEnv(["tool"], [address], prefix=tmp_path / "env", ephemeral=True))
    for ephemeral in (False, True):
        with pytest.raises(StartError, match="was made for another resource alone"):
            start(second, address, prefix=tmp_path / "env", ephemeral=ephemeral)
    assert (tmp_path / "env/bin/tool").exists()
    env.stop()
    assert not (tmp_path / "env").exists()
    start(first, address, prefix=tmp_path / "env")
    with pytest.raises(StartError, match="was made for everybody, so it can't be ephemeral"):
        start(second, address, prefix=tmp_path / "env", ephemeral=True)
    assert (tmp_path / "env/bin/tool").exists()


def test_what_took_the_place_of_an_ephemeral_one_is_not_removed(owner: Owner, address: str, tmp_path: Path) -> None:
    """The end looks at the mark, not at the path alone."""
    env = owner.start(CondaEnv(["tool"], [address], prefix=tmp_path / "env", ephemeral=True))
    (tmp_path / "env").rename(tmp_path / "elsewhere")
    (tmp_path / "env").mkdir()
    (tmp_path / "env/precious").write_text("data")
    env.stop()
    assert (tmp_path / "env/precious").read_text() == "data"
    assert env.state is State.GONE


@pytest.mark.parametrize(
    ("prefix", "says"),
    [("file", "is a file"), ("file/below", "File exists"), ("/proc/nothing/env", "No such file")],
)
def test_a_place_where_none_can_be(owner: Owner, address: str, tmp_path: Path, prefix: str, says: str) -> None:
    """A clear error, and nothing is left."""
    (tmp_path / "file").write_text("text")
    with pytest.raises(StartError, match=rf"cannot make environment bad.*{says}"):
        start(owner, address, prefix=tmp_path / prefix, name="bad")
    assert (tmp_path / "file").read_text() == "text"
    eventually(lambda: owner.resources == [])


def test_a_file_system_without_locks(
    owner: Owner, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is said, with what to do; nothing is made there."""
    real = fcntl.flock

    def flock(fd: int, how: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").startswith(str(tmp_path / "nfs")):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StartError, match="has no locks that processes share.*choose a prefix="):
        start(owner, address, prefix=tmp_path / "nfs/env", name="bad")
    assert [path.name for path in (tmp_path / "nfs").iterdir() if "lock" not in path.name] == []


READ_ONLY = """
import sys
from pathlib import Path
from tether.drivers.conda import folder
prefix = Path(sys.argv[1]) / "env"
(prefix / "lib/deep").mkdir(parents=True)
(prefix / "lib/deep/file").write_text("x")
for path in (prefix / "lib/deep", prefix / "lib", prefix):
    path.chmod(0o555)
folder.remove(prefix, "tag")
print("there" if prefix.exists() else "removed")
"""


def test_read_only_folders_are_removed(user_runner: Runner) -> None:
    """By an ordinary user, whom they stop."""
    with user_runner.popen(READ_ONLY, user_runner.new_folder()) as process:
        assert process.communicate(timeout=20)[0] == "removed\n"


def test_an_interrupted_removal_counts_as_half_made(
    owner: Owner, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never taken for whole, and the next who asks for it makes it anew."""
    env = owner.start(CondaEnv(["tool"], [address]))
    prefix = Path(env.details["conda_env"])
    env.stop()
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(OSError("interrupted")))
        with pytest.raises(OSError, match="interrupted"):
            folder.remove(prefix, "somebody")
    assert prefix.exists()
    assert folder.made_from(prefix) is None
    assert start(owner, address) == prefix
    assert (prefix / "bin/tool").exists()


@pytest.mark.parametrize("override", ["CONDA_OVERRIDE_CUDA", "CONDA_OVERRIDE_GLIBC"])
def test_what_the_machine_offers_is_part_of_the_request(
    owner: Owner, address: str, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    """Another version of a virtual package is another environment; the same is the same."""
    found = []
    for version in ("2.30", "2.31", "2.30"):
        monkeypatch.setenv(override, version)
        env = owner.start(CondaEnv(["tool"], [address]))
        found.append(env.details["conda_env"])
        env.stop()
    assert found[0] == found[2] != found[1]


def test_a_package_that_asks_for_a_virtual_one(owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overrides reach the solver."""
    channel.make_package(tmp_path / "channel", "needs-gpu", depends=["__cuda >=12"])
    address = channel.index(tmp_path / "channel")
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "11.8")
    with pytest.raises(StartError, match="__cuda"):
        owner.start(CondaEnv(["needs-gpu"], [address], name="gpu"))
    monkeypatch.setenv("CONDA_OVERRIDE_CUDA", "12.4")
    assert owner.start(CondaEnv(["needs-gpu"], [address], name="gpu")).state is State.READY


def test_listed_and_pruned(owner: Owner, address: str, private_state: Path) -> None:
    """With size and last use; what is in use stays, also where only a process is in it."""
    env = owner.start(CondaEnv(["tool"], [address], name="env"))
    prefix = Path(env.details["conda_env"])
    half = private_state / "conda/envs/half"
    half.mkdir()
    folder.begin(half, "dead")
    before = sorted(str(path) for path in private_state.rglob("*"))
    found = {each["name"]: each for each in envs.envs()["environments"]}
    assert sorted(str(path) for path in private_state.rglob("*")) == before
    assert (found[prefix.name]["state"], found[prefix.name]["in_use"]) == ("whole", True)
    assert found["half"]["state"] == "half made"
    assert found[prefix.name]["size_bytes"] > 100_000
    assert "tool=1.0" in found[prefix.name]["packages"]
    shown = envs.show_envs(envs.envs())
    assert "LAST USE" in shown
    assert "in use" in shown
    assert {each["name"]: each["kept_because"] for each in envs.prune(dry_run=True)}[prefix.name] == "in use"
    assert half.exists()
    assert {each["name"]: each["kept_because"] for each in envs.prune()} == {
        prefix.name: "in use",
        "half": "",
        "packages": "",
    }
    assert not half.exists()
    assert not (private_state / "conda/packages").exists()
    job = owner.start(Process(["tool", "60"], env_in=env, ready=log("tool"), name="job"))
    env.stop()
    assert envs.prune()[0]["kept_because"] == "in use"
    assert (prefix / "bin/tool").exists()
    job.kill()
    assert envs.prune(unused_for=3600)[0]["kept_because"] == "used lately"
    assert envs.prune(names=["nothing"])[0]["kept_because"] == "there is none of this name"
    done = envs.prune(names=[prefix.name])
    assert "removed" in envs.show_pruned(done)
    assert not prefix.exists()
    assert envs.envs()["environments"] == []


def test_pruning_beside_starts(owner: Owner, address: str, private_state: Path) -> None:
    """Whatever was started is whole and stays, however often somebody prunes meanwhile."""
    over = threading.Event()

    def prune() -> None:
        while not over.is_set():
            envs.prune(packages=False)

    thread = threading.Thread(target=prune)
    thread.start()
    try:
        for _ in range(12):
            env = owner.start(CondaEnv(["tool"], [address]))
            assert (Path(env.details["conda_env"]) / "share/tool/data").read_text() == "data\n"
            env.stop()
    finally:
        over.set()
        thread.join()


def test_reading_where_there_is_nothing_creates_nothing(private_state: Path) -> None:
    """Neither the state directory nor anything in it."""
    assert envs.envs()["environments"] == []
    assert not private_state.exists()


def test_an_environment_is_let_go_by_who_has_died(runner: Runner, address: str, private_state: Path) -> None:
    """The kernel takes its use from the dead, so that it can be pruned."""
    code = (
        "import sys, os\nfrom tether import CondaEnv, Owner\n"
        "owner = Owner('app'); env = owner.start(CondaEnv(['tool'], [sys.argv[1]]))\n"
        "print(env.details['conda_env'], flush=True); sys.stdin.readline()"
    )
    with runner.popen(code, address, stdin=subprocess.PIPE) as app:
        assert app.stdout is not None
        prefix = Path(app.stdout.readline().strip())
        assert envs.prune(names=[prefix.name])[0]["kept_because"] == "in use"
        app.kill()
    eventually(lambda: not envs.envs()["environments"][0]["in_use"])
    assert envs.prune(names=[prefix.name])[0]["kept_because"] == ""
