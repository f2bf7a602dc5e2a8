"""Owners: the guard, plugins, shutdown, threads, forks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import support
import tether
from support import Runner, eventually
from tether import (
    ManagedPlugin,
    NotFound,
    Owner,
    PluginError,
    PluginExecutionMode,
    Process,
    SpecError,
    State,
)
from tether.errors import Gone, StateDirError
from tether.linux import members, proc, signals, tree


def sleeper(**more: Any) -> Process:
    """A resource that does nothing."""
    return Process(["sleep", "60"], **more)


# -- making one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a b", "../a", ".a", "x" * 200, None, 5])
def test_a_bad_name_is_refused(name: Any) -> None:
    """Before the state directory is touched."""
    with pytest.raises(SpecError, match="can't be the name of an owner"):
        Owner(name)


def test_a_bad_rule_is_refused() -> None:
    """Of the three there are."""
    with pytest.raises(SpecError, match="on_death='forget' is not known"):
        Owner("x", on_death="forget")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make", [lambda path: path.write_text(""), lambda path: path.symlink_to("/tmp")], ids=["file", "link"]
)
def test_a_state_directory_in_whose_place_something_else_is(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """A file or a planted link is refused."""
    make(tmp_path / "here")
    with pytest.raises(StateDirError, match="state directory .*here"):
        Owner("x", state_dir=tmp_path / "here")


def test_an_unwritable_state_directory_is_said(user_runner: Runner) -> None:
    """One error that names the directory and the way out; nothing is started."""
    code = "from tether import Owner, TetherError\ntry: Owner('x', state_dir='/proc/nowhere')\nexcept TetherError as e: print(type(e).__name__, e)"
    with user_runner.popen(code) as process:
        said = process.communicate(timeout=60)[0]
    assert said.startswith("StateDirError state directory /proc/nowhere can't be used")
    assert "TETHER_STATE_DIR" in said


def test_the_state_directory_is_private_under_any_umask(tmp_path: Path) -> None:
    """0700 for folders, 0600 for files."""
    mask = os.umask(0)
    try:
        with Owner("x", state_dir=tmp_path / "state") as owner:
            owner.start(Process(["true"])).wait(10)
            for path in [tmp_path / "state", *(tmp_path / "state").rglob("*")]:
                assert path.lstat().st_mode & 0o077 == 0, path
    finally:
        os.umask(mask)


def test_a_lax_directory_of_ones_own_is_closed(tmp_path: Path) -> None:
    """What was open to others before is closed."""
    (tmp_path / "state").mkdir(mode=0o755)
    Owner("x", state_dir=tmp_path / "state").shutdown()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


# -- status ------------------------------------------------------------------------------------------------------------


def test_status_is_one_json_ready_snapshot(owner: Owner) -> None:
    """Owner, tier, resources, plugins and pids."""
    assert owner.status()["tier"] is None
    resource = owner.start(sleeper(name="one"))
    status = json.loads(json.dumps(owner.status()))
    assert status["owner"] == "test"
    assert status["tier"] in ("cgroup", "shim")
    assert [each["name"] for each in status["resources"]] == ["one"]
    assert status["pids"] == [resource.pid] == owner.pids()
    assert owner.resource("one").id == resource.id
    with pytest.raises(NotFound, match="no live resource two"):
        owner.resource("two")


def test_every_end_has_a_receipt(owner: Owner) -> None:
    """Who ended it, why, and the proof that it is gone."""
    owner.start(sleeper(name="one")).stop()
    said = [(event.what, event.detail) for event in owner.events() if event.name == "one"]
    assert [what for what, _ in said] == ["created", "ready", "stop", "exited", "gone"]
    assert "stopped by its owner [shim " in said[-1][1]
    assert "ECHILD" in said[-1][1]


def test_idle_resources_make_no_system_call() -> None:
    """Neither the owner nor its reaper nor its shims wake up while nothing happens."""
    code = (
        "import sys; from tether import Owner, Process\n"
        "o = Owner('idle', state_dir=sys.argv[1])\n"
        "rs = [o.start(Process(['sleep', '60'])) for _ in range(100)]\n"
        "print(o.status()['reaper'], *[r._managed.handle.data['shim'][0] for r in rs], flush=True)\n"
        "import signal; signal.pause()"
    )
    state = os.environ["TETHER_STATE_DIR"]
    process = subprocess.Popen([sys.executable, "-c", code, state], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        pids = [process.pid, *map(int, process.stdout.readline().split())]
        time.sleep(0.5)
        before = [Path(f"/proc/{pid}/schedstat").read_text() for pid in pids]
        trace = subprocess.run(
            ["timeout", "-s", "INT", "3", "strace", "-f", "-qq", *[f"-p{pid}" for pid in [*pids[:2], *pids[2:12]]]],
            capture_output=True, text=True, check=False,
        ).stderr  # fmt: skip
        calls = [line for line in trace.splitlines() if "resuming interrupted" not in line and "<detached" not in line]
        finished = [line for line in calls if "<unfinished" not in line and " = " in line]
        assert finished == []
        assert len(before) == 102
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# -- the guard ---------------------------------------------------------------------------------------------------------


def test_a_killed_reaper_is_replaced(owner: Owner) -> None:
    """Its shims go on, their resources are untouched, and the next start is guarded by another."""
    first = owner.start(sleeper(name="first"))
    reaper = owner.status()["reaper"]
    os.kill(reaper, signal.SIGKILL)
    eventually(lambda: owner.status()["reaper"] not in (None, reaper))
    assert first.state is State.READY
    second = owner.start(sleeper(name="second"))
    assert any(event.what == "reaper lost" for event in owner.events())
    second.stop()
    first.stop()
    assert (first.state, second.state) == (State.GONE, State.GONE)
    assert (first.reason, first.exit_code) == ("stopped by its owner", -signal.SIGTERM)


def test_a_killed_shim_fails_its_resource(owner: Owner) -> None:
    """Unknown is said as unknown: no exit code was seen, so none is told."""
    resource = owner.start(Process(["sh", "-c", "setsid sleep 60 & sleep 60"]))
    eventually(lambda: len(resource.pids()) == 3)
    shim = resource._managed.handle.data["shim"][0]  # type: ignore[union-attr]
    pids = {pid: proc.start_time(pid) or 0 for pid in resource.pids()}
    os.kill(shim, signal.SIGKILL)
    assert resource.wait(20) is None
    assert resource.state is State.FAILED
    assert "its shim was killed" in resource.reason
    assert not any(support.is_alive(pid, start) for pid, start in pids.items())


def test_a_stopped_shim_does_as_it_is_told(owner: Owner) -> None:
    """SIGSTOP of the shim delays nothing."""
    resource = owner.start(sleeper())
    os.kill(resource._managed.handle.data["shim"][0], signal.SIGSTOP)  # type: ignore[union-attr]
    resource.kill()
    assert resource.state is State.GONE


def test_a_killed_spare_shim_is_not_used(owner: Owner) -> None:
    """The shims that wait for a command may be killed too."""
    owner.start(sleeper())
    for _ in range(3):
        spares = [pid for pid in tree.children(owner.status()["reaper"]) if not tree.children(pid)]
        for pid in spares:
            # One of them may be the last command's shim, which ends just now.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert owner.start(Process(["true"])).wait(10) == 0


def test_the_owners_process_is_left_alone(owner: Owner) -> None:
    """No subreaper, no signal handlers, no child of the app is waited for."""
    before = [signal.getsignal(signum) for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)]
    mine = os.fork()
    if mine == 0:
        os._exit(3)
    owner.start(Process(["true"])).wait(10)
    owner.start(sleeper()).kill()
    assert [signal.getsignal(signum) for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)] == before
    assert os.waitstatus_to_exitcode(os.waitpid(mine, 0)[1]) == 3
    import ctypes

    value = ctypes.c_int()
    ctypes.CDLL(None).prctl(37, ctypes.byref(value), 0, 0, 0)
    assert value.value == 0


# -- the owner's death -------------------------------------------------------------------------------------------------

DYING = """
import os, signal, subprocess, sys, time
from tether import Owner, Process
owner = Owner("dying", state_dir=sys.argv[1], on_death=sys.argv[2])
resource = owner.start(Process(["sh", "-c", sys.argv[3]], name="it", stop_grace=5))
time.sleep(0.3)
print(resource.pid, flush=True)
"""
CATCHING = "trap 'echo asked; exit 0' TERM; while :; do sleep 0.05; done"


@pytest.mark.parametrize(
    "way",
    ["os._exit(3)", "os.kill(os.getpid(), 9)", "sys.exit()", "os.abort()", "os.execv('/bin/true', ['true'])", "1 / 0"],
)
def test_every_way_to_die_ends_the_tree(runner: Runner, way: str) -> None:
    """A crash, an exit without shutdown, another program in its place."""
    folder = runner.new_folder()
    with runner.popen(DYING + way, folder, "kill", "sleep 60", stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.wait(20)
    eventually(lambda: not tree.is_running(pid))


def test_death_with_stop_is_polite(runner: Runner) -> None:
    """on_death="stop": the shim asks first."""
    folder = runner.new_folder()
    with runner.popen(DYING + "os._exit(1)", folder, "stop", CATCHING) as process:
        process.wait(20)
    log = next((folder / "logs").glob("*.log"))
    eventually(lambda: "asked\n" in log.read_text())


STOPPING = """
import sys, threading, time
from tether import Owner, Process, log
owner = Owner("stopping", state_dir=sys.argv[1], on_death=sys.argv[2])
code = "import signal, time; signal.signal(15, lambda *_: print('asked', flush=True)); print('up', flush=True); time.sleep(30); time.sleep(30)"
resource = owner.start(Process([sys.executable, "-c", code], ready=log("up"), stop_grace=1.0))
threading.Thread(target=resource.stop, args=(30,), daemon=True).start()
while "asked" not in resource.logs():
    time.sleep(0.01)
print(resource.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("rule", ["kill", "stop"])
def test_an_owner_that_dies_in_the_middle_of_a_polite_end(runner: Runner, rule: str) -> None:
    """With "kill" the grace is over at once; with "stop" the end goes on as it was."""
    with runner.popen(STOPPING, runner.new_folder(), rule) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    if rule == "kill":
        eventually(lambda: not tree.is_running(pid), 2.0)
    else:
        time.sleep(0.3)
        stat = proc.read_stat(pid)
        assert stat is not None
        shim = stat.ppid
        os.kill(shim, signal.SIGUSR1)
        eventually(lambda: not tree.is_running(pid))


def test_a_fork_that_holds_the_lifeline_saves_nothing(runner: Runner) -> None:
    """The owner's pidfd tells of its death, though a fork keeps the pipe open."""
    holding = (
        "import ctypes\nlibc = ctypes.CDLL(None)\nif libc.fork() == 0:\n    time.sleep(8); os._exit(0)\nos._exit(1)"
    )
    folder = runner.new_folder()
    with runner.popen(DYING + holding, folder, "kill", "sleep 60") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        eventually(lambda: not tree.is_running(pid), 5.0)


def test_a_stopped_owner_loses_nothing(runner: Runner) -> None:
    """SIGSTOP is no death."""
    folder = runner.new_folder()
    with runner.popen(DYING + "time.sleep(60)", folder, "kill", "sleep 60") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGSTOP)
        Owner("other", state_dir=folder).shutdown()
        time.sleep(0.3)
        assert tree.is_running(pid)
        process.kill()
    eventually(lambda: not tree.is_running(pid))


@pytest.mark.parametrize(("to", "heard"), [("main", 1), ("group", 2), ("tree", 3)])
def test_a_signal_is_sent_to_the_command_its_group_or_the_tree(
    owner: Owner, tmp_path: Path, to: Any, heard: int
) -> None:
    """The command, a child in its group, and one in a session of its own; what has ended is left alone."""
    says = (
        "import os, signal, sys, time; name = str(os.getpid()); "
        "signal.signal(signal.SIGUSR1, lambda *_: os.close(os.open('heard-' + name, os.O_CREAT))); "
        "os.close(os.open('up-' + name, os.O_CREAT)); "
    )
    child = f"{says} time.sleep(60)"
    code = f"import subprocess, sys; {says}" + "".join(
        f"subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session={apart}); " for apart in (False, True)
    )
    job = owner.start(Process([sys.executable, "-c", f"{code} time.sleep(60)"], cwd=tmp_path))
    eventually(lambda: len(list(tmp_path.glob("up-*"))) == 3)
    job.send_signal(signal.SIGUSR1, to)
    found = eventually(lambda: len(files := list(tmp_path.glob("heard-*"))) == heard and files)
    assert f"heard-{job.pid}" in {path.name for path in found}
    for wrong in ({"sig": -1}, {"sig": 999}, {"sig": signal.SIGUSR1, "to": "all"}):
        with pytest.raises(SpecError):
            job.send_signal(**wrong)
    job.kill()
    job.send_signal(signal.SIGUSR1)


def test_the_ledger_says_what_became_of_it(runner: Runner) -> None:
    """The reaper writes the receipts of a dead owner."""
    folder = runner.new_folder()
    with runner.popen(DYING + "os._exit(1)", folder, "kill", "sleep 60") as process:
        process.wait(20)
    from tether.ledger.store import Ledger

    def ended() -> bool:
        ledger = Ledger(folder)
        try:
            return ledger.owners() == []
        finally:
            ledger.close()

    eventually(ended)
    ledger = Ledger(folder)
    events = {event.what: event.detail for event in ledger.events()}
    ledger.close()
    assert "ECHILD" in events["gone"]
    assert events["owner ended"].startswith("died; its estate was settled by")


def test_every_resource_of_a_dead_owner_has_its_receipt(runner: Runner) -> None:
    """Twenty trees that end in the same moment: each is recorded with its own shim's proof."""
    code = (
        "import sys, time; from tether import Owner, Process\n"
        "owner = Owner('many', state_dir=sys.argv[1])\n"
        "for _ in range(20): owner.start(Process(['sleep', '60']))\n"
        "import os; os._exit(1)"
    )
    folder = runner.new_folder()
    with runner.popen(code, folder) as process:
        process.wait(30)
    from tether.ledger.store import Ledger

    ledger = Ledger(folder)
    eventually(lambda: ledger.owners() == [])
    rows = ledger.resources(ended=True)
    assert len(rows) == 20
    assert all("ECHILD" in row.reason for row in rows), [row.reason for row in rows]
    ledger.close()


# -- shutdown ----------------------------------------------------------------------------------------------------------


def _telling(name: str, seconds: float, **more: Any) -> Process:
    script = f"trap 'sleep {seconds}; echo {name} >> order; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    return Process(["sh", "-c", script], name=name, stop_to="main", ready=tether.log("up"), **more)


def test_shutdown_goes_in_reverse_order_of_start(make_owner: Callable[..., Owner], tmp_path: Path) -> None:
    """The last first, each after the one before has ended."""
    owner = make_owner()
    for name in ("one", "two", "three"):
        owner.start(_telling(name, 0.05, cwd=tmp_path))
    owner.shutdown()
    assert (tmp_path / "order").read_text().split() == ["three", "two", "one"]


def test_shutdown_goes_by_needs(make_owner: Callable[..., Owner], tmp_path: Path) -> None:
    """What others need waits for them, however long; what nobody needs does not."""
    owner = make_owner()
    owner.start(_telling("db", 0, cwd=tmp_path, needs=()))
    owner.start(_telling("free", 0, cwd=tmp_path, needs=()))
    owner.start(_telling("api", 0.8, cwd=tmp_path, needs=("db",)))
    owner.shutdown()
    assert (tmp_path / "order").read_text().split() == ["free", "api", "db"]


def test_needs_must_be_there(owner: Owner) -> None:
    """A name that was not started is refused."""
    with pytest.raises(SpecError, match="needs db, which was not started"):
        owner.start(sleeper(name="api", needs=["db"]))


@pytest.mark.slow
def test_one_that_hangs_does_not_hold_up_the_others(make_owner: Callable[..., Owner], tmp_path: Path) -> None:
    """Three that ignore every request are ended side by side, and the polite one before them. Slow: a real grace."""
    owner = make_owner()
    owner.start(_telling("polite", 0, cwd=tmp_path))
    for number in range(3):
        owner.start(
            Process(
                ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"],
                name=f"deaf-{number}",
                ready=tether.log("up"),
            )
        )
    ended: dict[str, float] = {}
    owner.telemetry.subscribe(
        lambda notice: ended.setdefault(notice.name, time.monotonic()) if notice.what == "gone" else None
    )
    began = time.monotonic()
    owner.shutdown(grace=2.5)
    assert ended["polite"] < min(ended[f"deaf-{number}"] for number in range(3))
    assert time.monotonic() - began < 3 * 2.5


def test_a_second_shutdown_does_nothing_and_a_start_after_it_is_refused(make_owner: Callable[..., Owner]) -> None:
    """The owner is over."""
    owner = make_owner()
    owner.shutdown()
    owner.shutdown()
    with pytest.raises(Gone, match="owner test was shut down"):
        owner.start(sleeper())


# -- plugins -----------------------------------------------------------------------------------------------------------


class Popen:
    """A plugin of the old kind, which starts things by itself."""

    def __init__(self, command: list[str] | None = None, clean: Callable[[], object] | None = None) -> None:
        self.process = subprocess.Popen(command or ["sleep", "60"])
        self.clean = clean or self.kill

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def get_execution_mode(self) -> PluginExecutionMode:
        return PluginExecutionMode.SUBPROCESS

    def get_child_pids(self) -> list[int]:
        return [self.process.pid] if self.process.poll() is None else []

    def get_managed_resources(self) -> dict[str, Any]:
        return {"pid": self.process.pid, "odd": object}

    def force_cleanup(self) -> None:
        self.clean()


def test_a_plugin_of_anybody_is_cleaned_up(make_owner: Callable[..., Owner]) -> None:
    """Registered, shown in status and pids, cleaned up at shutdown."""
    owner = make_owner()
    plugin = Popen()
    owner.register(plugin)
    owner.register(plugin)
    assert owner.plugins == {"Popen": plugin}
    status = owner.status()["plugins"]
    assert [(each["name"], each["mode"], each["pids"]) for each in status] == [
        ("Popen", "subprocess", [plugin.process.pid])
    ]
    json.dumps(status)
    assert owner.pids() == [plugin.process.pid]
    owner.shutdown()
    assert plugin.process.returncode == -9


def test_what_a_plugin_leaves_alive_is_ended_and_reported(make_owner: Callable[..., Owner]) -> None:
    """A force_cleanup that forgets its children."""
    owner = make_owner()
    plugin = Popen(["sh", "-c", "sleep 60 & sleep 60 & wait"], clean=lambda: None)
    owner.register(plugin)
    eventually(lambda: len(owner.pids()) == 3)
    events: list[tuple[str, str]] = []
    owner.telemetry.subscribe(lambda notice: events.append((notice.what, notice.detail)))
    owner.shutdown()
    assert plugin.process.wait(10) == -9
    assert "plugin Popen left pid" in dict(events)["left behind"]


@pytest.mark.slow
def test_a_plugin_that_hangs_or_raises_is_reported_and_ended(
    make_owner: Callable[..., Owner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is tried, then one ExceptionGroup. Slow: it waits for the time limit."""
    from tether.owner import roster as module

    monkeypatch.setattr(module, "_CLEANUP_LIMIT_S", 0.5)
    owner = make_owner()
    release = threading.Event()
    hanging, raising = Popen(clean=lambda: release.wait(60) and None), Popen(clean=lambda: 1 // 0)
    owner.register(hanging, name="hanging")
    owner.register(raising, name="raising")
    resource = owner.start(sleeper())
    with pytest.raises(ExceptionGroup, match="could not end everything") as caught:
        owner.shutdown()
    release.set()
    assert {str(error).partition(":")[0] for error in caught.value.exceptions} == {"plugin hanging", "plugin Popen"}
    assert hanging.process.wait(10) == raising.process.wait(10) == -9
    assert resource.state is State.GONE


def test_what_is_no_plugin_is_refused_with_the_reason(owner: Owner) -> None:
    """Which method is missing."""

    class Half:
        def get_child_pids(self) -> list[int]:
            return []

    with pytest.raises(PluginError, match=r"plugin Half is not lifecycle-aware: get_execution_mode\(\) is missing"):
        owner.register(Half())
    with pytest.raises(PluginError, match="it is a class, not an object"):
        owner.register(Popen)
    assert owner.plugins == {}


def test_a_pid_from_a_stale_file_is_not_ended(make_owner: Callable[..., Owner]) -> None:
    """A plugin that names a process of somebody else: never a wrong victim."""
    stranger = subprocess.Popen(
        ["setsid", "-f", "sh", "-c", "echo $$; exec sleep 60"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert stranger.stdout is not None
    pid = int(stranger.stdout.readline())
    stranger.wait()
    stranger.stdout.close()
    start = proc.start_time(pid) or 0
    owner = make_owner()
    plugin = Popen(clean=lambda: None)
    plugin.get_child_pids = lambda: [pid, os.getpid(), os.getppid()]  # type: ignore[method-assign]
    # Started by the app itself, which the plugin names, and which is no process of the plugin's.
    bystander = subprocess.Popen(["sleep", "60"])
    owner.register(plugin)
    owner.shutdown()
    assert support.is_alive(pid, start)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
    signals.send(pid, start, signal.SIGKILL)
    plugin.kill()


def test_unregister_leaves_the_plugin_alone(make_owner: Callable[..., Owner]) -> None:
    """It is nobody's to clean up any more."""
    owner = make_owner()
    plugin = Popen()
    owner.register(plugin)
    owner.unregister(plugin)
    with pytest.raises(NotFound):
        owner.unregister(plugin)
    owner.shutdown()
    assert plugin.process.poll() is None
    plugin.kill()


PLUGIN_APP = """
import subprocess, sys, time
from tether import Owner, PluginExecutionMode
owner = Owner("app", state_dir=sys.argv[1])
class Plugin:
    def __init__(self):
        self.child = subprocess.Popen(["/bin/sleep", "60"], env={})
        self.daemon = subprocess.Popen(["setsid", "-f", "sh", "-c", "echo $$; exec sleep 60"], stdout=subprocess.PIPE, text=True)
        self.pid = int(self.daemon.stdout.readline())
    def get_execution_mode(self): return PluginExecutionMode.SUBPROCESS
    def get_child_pids(self): return [self.child.pid, self.pid]
    def get_managed_resources(self): return {}
    def force_cleanup(self): self.child.kill()
plugin = Plugin()
owner.register(plugin)
print(plugin.child.pid, plugin.pid, flush=True)
time.sleep(60)
"""


def test_the_reaper_ends_what_plugins_started(runner: Runner) -> None:
    """After kill -9 of the app: its child with an empty environment, and a daemon that it names and that has the owner's tag."""
    with runner.popen(PLUGIN_APP, runner.new_folder()) as process:
        assert process.stdout is not None
        pids = list(map(int, process.stdout.readline().split()))
        assert all(tree.is_running(pid) for pid in pids)
        process.kill()
    for pid in pids:
        eventually(lambda pid=pid: not tree.is_running(pid))  # type: ignore[misc]


class Server(ManagedPlugin):
    """A plugin written with tether."""

    def go(self) -> None:
        self.start(Process(["sh", "-c", "sleep 60 & wait"], name="srv"))


def test_managed_plugin_makes_the_four_methods_come_out_right(make_owner: Callable[..., Owner]) -> None:
    """With an owner, and on its own."""
    owner = make_owner()
    plugin = Server()
    assert plugin.get_managed_resources()["is_running"] is False
    owner.register(plugin)
    plugin.go()
    assert tether.is_lifecycle_aware(plugin)
    assert plugin.get_execution_mode() is PluginExecutionMode.SUBPROCESS
    eventually(lambda: len(tether.get_all_managed_pids(plugin)) == 2)
    assert plugin.get_managed_resources()["pid"] == plugin.get_child_pids()[0] == owner.resource("srv").pid
    owner.shutdown()
    assert plugin.get_child_pids() == []
    alone = Server()
    alone.go()
    eventually(lambda: len(alone.get_child_pids()) == 2)
    alone.force_cleanup()
    alone.force_cleanup()
    assert alone.get_managed_resources()["is_running"] is False


# -- threads and forks -------------------------------------------------------------------------------------------------


def test_many_threads_share_one_owner(owner: Owner) -> None:
    """Starts, looks and ends at once."""

    def one(number: int) -> int | None:
        resource = owner.start(Process(["sh", "-c", f"exit {number % 7}"], name=f"job-{number}"))
        owner.status()
        return resource.wait(30)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(40))) == [number % 7 for number in range(40)]
    assert owner.resources == []


def test_a_fork_owns_nothing(owner: Owner) -> None:
    """It may look, but ends nothing, and what it starts is refused; the parent's resources live on after its exit."""
    resource = owner.start(sleeper())
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert owner.resources == []
            try:
                owner.start(sleeper())
            except Gone as error:
                status = 0 if "a fork owns nothing" in str(error) else 2
            owner.shutdown()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert resource.state is State.READY
    assert tree.is_running(resource.pid or 0)
    assert owner.start(Process(["true"])).wait(10) == 0


def test_the_tag_is_in_the_environment_while_the_owner_is(make_owner: Callable[..., Owner]) -> None:
    """Two owners are both named; managed commands carry the resource's tag instead."""
    first, second = make_owner("first"), make_owner("second")
    assert os.environ[members.OWNER] == f"{first.id}:{second.id}"
    resource = first.start(Process(["sh", "-c", "echo $TETHER_OWNER $TETHER_RESOURCE"]))
    resource.wait(10)
    assert resource.logs().split() == [resource.id]
    first.shutdown()
    assert os.environ[members.OWNER] == second.id
    second.shutdown()
    assert members.OWNER not in os.environ


def test_two_processes_may_have_the_same_owner_name(runner: Runner) -> None:
    """As under gunicorn: each ends its own."""
    folder = runner.new_folder()
    with (
        runner.popen(DYING + "time.sleep(60)", folder, "kill", "sleep 60") as one,
        runner.popen(DYING + "time.sleep(60)", folder, "kill", "sleep 60") as two,
    ):
        assert one.stdout is not None
        assert two.stdout is not None
        pids = [int(one.stdout.readline()), int(two.stdout.readline())]
        one.kill()
        eventually(lambda: not tree.is_running(pids[0]))
        assert tree.is_running(pids[1])
        two.kill()
    eventually(lambda: not tree.is_running(pids[1]))
