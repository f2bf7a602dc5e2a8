"""``tether stop``, ``kill``, ``restart``, ``prune`` and ``forget``: of several, of what has ended, of dead owners."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from commandline import table, tether
from support import Runner, eventually
from tether import Owner, PluginExecutionMode, Process, Service, State
from tether.linux import tree


def _sleepers(owner: Owner, *names: str) -> list[int]:
    return [owner.start(Process(["sleep", "60"], name=name)).pid or 0 for name in names]


@pytest.fixture
def dead(runner: Runner, private_state: Path) -> Iterator[list[int]]:
    """The pids of three resources whose owner, reaper and shims were killed at once."""
    code = (
        "import os, time; from tether import Owner, Process\n"
        "o = Owner('dead'); rs = [o.start(Process(['sleep', '60'], name=f'it-{n}')) for n in range(3)]\n"
        "shims = [r._managed.handle.data['shim'][0] for r in rs]\n"
        "print(o.status()['reaper'], *shims, *[r.pid for r in rs], flush=True); time.sleep(60)"
    )
    with runner.popen(code) as process:
        assert process.stdout is not None
        reaper, *pids = map(int, process.stdout.readline().split())
        guards = [reaper, *pids[:3], process.pid]
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for each in guards:
                os.kill(each, signum)
    yield pids[3:]
    tether("reap")


def test_several_names_and_patterns(owner: Owner) -> None:
    """Each is ended, the last started first; what was not meant goes on."""
    pids = _sleepers(owner, "web-1", "web-2", "db", "cache", "other")
    assert tether("stop", "web-*", "db") == "db: gone\nweb-2: gone\nweb-1: gone\n"
    assert [tree.is_running(pid) for pid in pids] == [False, False, False, True, True]
    assert tether("kill", "cache", "--", "cache") == "cache: gone\n"


def test_all_of_an_owner(owner: Owner) -> None:
    """OWNER/ is all that is its, and nothing of another owner's."""
    with Owner("second") as second:
        mine, theirs = _sleepers(owner, "a", "b"), _sleepers(second, "a", "b")
        assert tether("stop", "second/").splitlines() == ["b: gone", "a: gone"]
        assert [tree.is_running(pid) for pid in mine + theirs] == [True, True, False, False]
        assert "second/a" not in tether("ps", "second/")


def test_what_ended_already_is_no_mistake(owner: Owner) -> None:
    """The exit code is 0, and it is said since when; a name that never was is one, and keeps nobody from the rest."""
    _sleepers(owner, "one", "two")
    tether("stop", "one")
    eventually(lambda: len(table("ps")) == 1)
    assert tether("stop", "one", "two").splitlines()[0] == "two: gone"
    said = tether("kill", "one")
    assert said.startswith("one: ended already, ")
    assert "(gone)" in said
    _sleepers(owner, "three")
    said = tether("stop", "never", "three", code=1)
    assert "three: gone" in said
    assert "there is no resource 'never'" in said


def test_the_new_life_of_a_name_is_meant(owner: Owner) -> None:
    """What has ended under a name stands in nobody's way."""
    for _ in range(2):
        (pid,) = _sleepers(owner, "it")
        assert tether("stop", "it") == "it: gone\n"
        assert not tree.is_running(pid)
        eventually(lambda: table("ps") == [])


def test_only_what_is_named_of_a_dead_owner_is_ended(dead: list[int]) -> None:
    """The rest of its estate is for a sweep; and it is on record who ended it."""
    assert tether("kill", "it-1") == "it-1: gone\n"
    assert [tree.is_running(pid) for pid in dead] == [True, False, True]
    ended = next(each for each in table("ps", "--all") if each["name"] == "it-1")
    assert (ended["state"], "ended by tether kill" in ended["reason"]) == ("gone", True)
    assert tether("kill", "it-1").startswith("it-1: ended already")


def test_a_dry_run_says_what_a_sweep_does(dead: list[int]) -> None:
    """What would be ended, what is gone already; then the sweep does just that."""
    pid = dead[0]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not tree.is_running(pid))
    would = {each["name"]: each["what"] for each in table("reap", "--dry-run")}
    assert would == {"it-0": "already gone", "it-1": "would end", "it-2": "would end"}
    did = {each["name"]: each["what"] for each in table("reap")}
    assert did == {"it-0": "already gone", "it-1": "ended", "it-2": "ended"}


def test_a_dry_run_spares_what_is_kept(runner: Runner, private_state: Path) -> None:
    """As the sweep does, unless --all is given."""
    code = (
        "import os; from tether import Owner, Process\n"
        "o = Owner('keeper'); o.start(Process(['sleep', '60'], name='it', on_death='keep', keep_for=60))\n"
        "print('up', flush=True); os.kill(os.getpid(), 9)"
    )
    with runner.popen(code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
    # Until its hub has settled what there is to settle, a sweep would wait for that.
    eventually(lambda: [each["what"] for each in table("reap", "--dry-run")] == ["kept"])
    assert [each["what"] for each in table("reap", "--dry-run", "--all")] == ["would end"]
    assert [each["what"] for each in table("reap")] == ["kept"]
    assert "kept for the next owner named keeper" in tether("ps", "--wide")
    assert [each["what"] for each in table("reap", "--all")] == ["ended"]


def test_what_was_there_before_is_not_ended(owner: Owner) -> None:
    """Somebody else's service is not claimed to be gone."""
    import http.server
    import threading

    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        owner.start(Service(f"http://127.0.0.1:{server.server_port}", name="theirs"))
        assert "was there before tether knew of it" in tether("stop", "theirs", code=1)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_ledger_that_cant_be_written_keeps_nothing_from_its_end(owner: Owner, private_state: Path) -> None:
    """It is said, and the resource has ended."""
    import sqlite3

    (pid,) = _sleepers(owner, "it")
    holder = sqlite3.connect(private_state / "ledger.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        assert "it: gone" in tether("kill", "it")
        assert not tree.is_running(pid)
    finally:
        holder.execute("ROLLBACK")
        holder.close()


def test_restart_asks_the_owner(owner: Owner, private_state: Path) -> None:
    """Which has the values of the environment; the resource has the same name and id, and another pid."""
    resource = owner.start(Process(["sh", "-c", "echo $TOKEN; sleep 60"], name="it", env={"TOKEN": "secret"}))
    first = resource.pid
    eventually(lambda: resource.logs() == "secret\n")
    said = tether("restart", "it")
    assert said == f"test/it: restarted, pid {resource.pid}\n"
    assert resource.pid != first
    assert first is not None
    assert not tree.is_running(first)
    eventually(lambda: resource.logs().endswith("secret\n"))
    assert [each["id"] for each in table("ps")] == [resource.id]
    owner.shutdown()
    assert not list((private_state / "run").glob("*.restart"))


def test_restart_says_why_not(owner: Owner, dead: list[int]) -> None:
    """Of a dead owner, and of what has ended: nobody has the values of the environment."""
    _sleepers(owner, "mine")
    tether("kill", "mine")
    assert "its owner, pid" in tether("restart", "dead/it-0", code=1)
    assert "has ended (gone); start it in its app" in tether("restart", "mine", code=1)


def test_prune_removes_what_has_ended_and_nothing_else(owner: Owner, private_state: Path) -> None:
    """Records and logs; --older spares what ended lately, a dry run spares all."""
    _sleepers(owner, "lives")
    for name in ("a", "b"):
        owner.start(Process(["sh", "-c", "echo out"], name=name)).wait(10)
    eventually(lambda: len(table("ps", "--all")) == 3 and len(table("ps")) == 1)
    assert "0 records" in tether("prune", "--older", "1h")
    assert "2 records and 8B of logs would be removed" in tether("prune", "--dry-run")
    assert len(list((private_state / "logs").iterdir())) == 3
    assert tether("prune").startswith("2 records and 8B of logs removed")
    assert [each["name"] for each in table("ps", "--all")] == ["lives"]
    assert len(list((private_state / "logs").iterdir())) == 1


def test_installing_uses_the_state_directory_in_force(tmp_path: Path) -> None:
    """Whatever its name; and what it runs imports nothing of the working directory."""
    folder = tmp_path / "a state with 100% $HOME 'quotes'"
    said = tether("reap", "--install", env={**os.environ, "TETHER_STATE_DIR": str(folder)})
    unit = str(folder).replace("%", "%%")
    assert f'Environment="TETHER_STATE_DIR={unit}"' in said
    assert not folder.exists()
    line = (
        next(line for line in said.splitlines() if line.startswith("# */5"))
        .partition("* * * * ")[2]
        .replace("\\%", "%")
    )
    (tmp_path / "tether").mkdir()
    (tmp_path / "tether" / "__init__.py").write_text("raise SystemExit('imported from the working directory')")
    (tmp_path / "sqlite3.py").write_text("raise SystemExit('imported from the working directory')")
    environ = {name: value for name, value in os.environ.items() if name != "TETHER_STATE_DIR"}
    with Popen(["sh", "-c", line], cwd=tmp_path, env={**environ, "HOME": str(tmp_path)}) as process:
        assert process.wait(60) == 0
    assert (folder / "ledger.db").exists()


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """As systemd itself reads it."""
    import shutil
    import subprocess

    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    said = tether("reap", "--install", env={**os.environ, "TETHER_STATE_DIR": str(tmp_path / "with space 100%")})
    unit = tmp_path / "tether-reap.service"
    unit.write_text(said.partition("# ~/.config/systemd/user/tether-reap.timer")[0])
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "tether-reap.service:" not in done.stderr


def test_a_handle_that_is_not_there_yet(owner: Owner) -> None:
    """What is just being created is left to its owner."""
    owner._ledger.add_resource("cafecafe", owner.id, "soon", "process", {}, "kill", 0)
    assert "is just being created by its owner" in tether("stop", "soon", code=1)
    owner._ledger.write("cafecafe", 1, State.GONE, [])


class _Plugin:
    """Starts a process by itself, and ends it as only it knows; unless it is broken."""

    def __init__(self, *, broken: bool = False) -> None:
        self.process = Popen(["sleep", "60"])
        self.broken = broken

    def get_execution_mode(self) -> PluginExecutionMode:
        return PluginExecutionMode.SUBPROCESS

    def get_child_pids(self) -> list[int]:
        return [self.process.pid] if self.process.poll() is None else []

    def get_managed_resources(self) -> dict[str, Any]:
        return {}

    def force_cleanup(self) -> None:
        if self.broken:
            raise OSError("the model can't be unloaded")
        self.process.kill()
        self.process.wait()


def test_a_plugin_is_ended_by_its_owner(owner: Owner) -> None:
    """Whom the command asks to run the cleanup; what that could not do is said."""
    works, broken = _Plugin(), _Plugin(broken=True)
    owner.register(works, name="works")
    owner.register(broken, name="broken")
    try:
        assert tether("stop", "works").startswith("works: gone")
        assert works.process.returncode == -signal.SIGKILL
        assert "the model can't be unloaded" in tether("stop", "broken", code=1)
    finally:
        broken.broken = False
        owner.shutdown()
        broken.process.wait(10)
