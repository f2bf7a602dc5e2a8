"""What an owner answers for that it did not start: plugins that misbehave, are begun late, rent machines; jobs, processes; and its events."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tether
from support import Runner, eventually
from tether import (
    DeadlineExceeded,
    Gone,
    ManagedPlugin,
    Owner,
    PluginError,
    PluginExecutionMode,
    Process,
    SpecError,
    StartError,
    State,
    tcp,
)
from tether.ledger.reading import Reading
from tether.ledger.store import Ledger
from tether.linux import tree
from tether.owner import asking
from tether.owner.plugin import problems
from tether.protocol import CloudProviderType, RemoteResourceInfo

POLITE = "import signal, sys, time\ndef bye(*a): open(sys.argv[1], 'w').write('bye'); sys.exit(0)\nsignal.signal(signal.SIGTERM, bye)\n"
POLITE += "print('up', flush=True)\ntime.sleep(90)"


class Late:
    """A plugin of the old kind, which starts its server long after it was registered."""

    def __init__(self) -> None:
        self.server: subprocess.Popen[bytes] | None = None
        self.wrong: dict[str, Any] = {}
        self.clean: Callable[[], object] = self.kill

    def begin(self, **more: Any) -> None:
        self.server = subprocess.Popen(["sleep", "90"], **more)

    def kill(self) -> None:
        if self.server is not None:
            self.server.kill()
            self.server.wait()

    def _say(self, method: str, right: Any) -> Any:
        wrong = self.wrong.get(method, right)
        if isinstance(wrong, BaseException):
            raise wrong
        return wrong

    def get_execution_mode(self) -> Any:
        return self._say("mode", PluginExecutionMode.SUBPROCESS)

    def get_child_pids(self) -> Any:
        alive = self.server is not None and self.server.poll() is None
        return self._say("pids", [self.server.pid] if alive and self.server else [])

    def get_managed_resources(self) -> Any:
        return self._say("resources", {})

    def force_cleanup(self) -> None:
        self._say("cleanup", None)
        self.clean()


def on_record(owner: Owner, name: str) -> list[int]:
    """The pids of a plugin that the ledger has."""
    ledger = Ledger(owner.state_dir)
    try:
        rows = [row for row in ledger.resources() if row.name == name and row.handle is not None]
        return [pid for row in rows if row.handle for pid, _ in row.handle.data["pids"]]
    finally:
        ledger.close()


# -- what is started late ----------------------------------------------------------------------------------------------


def test_what_a_plugin_starts_after_it_was_registered_is_recorded_at_once(owner: Owner) -> None:
    """Nobody asks: Python itself tells that something is started. What has ended is no longer there."""
    plugin = Late()
    owner.register(plugin)
    time.sleep(0.7)  # the looks have become rare by now
    plugin.begin(env={})
    assert plugin.server is not None
    pid = plugin.server.pid
    eventually(lambda: on_record(owner, "Late") == [pid], 5)
    plugin.kill()
    eventually(lambda: on_record(owner, "Late") == [], 5)


TESTS = {"PYTHONPATH": str(Path(__file__).parent.parent)}
LATE_APP = """
import os, subprocess, sys, time
sys.path.insert(0, sys.argv[2])
from tether import Owner, Process
from test_answering import Late
owner = Owner("late", state_dir=sys.argv[1])
plugin = Late()
owner.register(plugin)
plugin.begin(env={})
print(plugin.server.pid, flush=True)
time.sleep(60)
"""


def test_it_ends_with_the_app(runner: Runner) -> None:
    """Killed once it is on record, for which nobody asked; its environment is empty."""
    folder = runner.new_folder()
    with runner.popen(LATE_APP, folder, Path(__file__).parent, env=TESTS) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        eventually(lambda: str(pid) in str([row.handle for row in Reading(folder).resources()]))
        process.kill()
        process.wait(20)
    eventually(lambda: not tree.is_running(pid))


def test_an_owner_with_plugins_rests(owner: Owner) -> None:
    """The looks become rare where nothing happens: some in the first seconds, then one every two seconds."""
    plugin = Late()
    looks: list[float] = []
    asked = plugin.get_child_pids

    def ask() -> Any:
        looks.append(time.monotonic())
        return asked()

    plugin.get_child_pids = ask  # type: ignore[method-assign]
    owner.register(plugin)
    time.sleep(2.0)
    assert len(looks) < 15


# -- plugins that misbehave --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "wrong", "fails"),
    [
        ("mode", "podman", True),
        ("mode", SystemExit(3), True),
        ("pids", [[1]], False),
        ("pids", [{}, None, True, "1"], False),
        ("pids", None, True),
        ("pids", SystemExit(3), True),
        ("resources", [1], True),
        ("resources", {("a",): float("nan")}, False),
        ("cleanup", SystemExit(3), False),
        ("cleanup", GeneratorExit(), False),
    ],
)
def test_nonsense_is_the_plugins_own(make_owner: Callable[..., Owner], method: str, wrong: Any, fails: bool) -> None:
    """Said in its place, at registration, in the status and at the end; and all else ends."""
    owner, plugin, good = make_owner(), Late(), Late()
    resource = owner.start(Process(["sleep", "90"]))
    owner.register(plugin)
    owner.register(good, name="good")
    plugin.begin()
    good.begin()
    eventually(lambda: len(on_record(owner, "Late")) == 1)
    plugin.wrong = {method: wrong}
    if fails:
        with pytest.raises(PluginError, match="plugin Late: get_"):
            make_owner("second").register(plugin)
    bad, fine = owner.status()["plugins"]
    json.dumps([bad, fine], allow_nan=False)
    assert (bad["error"] is not None) == (fails or method == "pids")
    assert (fine["error"], fine["pids"]) == (None, [good.server and good.server.pid])
    if method == "cleanup":
        with pytest.raises(ExceptionGroup) as caught:
            owner.shutdown()
        assert "plugin Late: force_cleanup() raised" in str(caught.value.exceptions[0])
    else:
        owner.shutdown()
    assert resource.state is State.GONE
    for each in (plugin, good):
        assert each.server is not None
        assert each.server.wait(5) == -signal.SIGKILL


@pytest.mark.slow
def test_a_plugin_that_hangs_keeps_nobody_from_being_looked_at(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another plugin's server is recorded meanwhile; it is said once. Slow: it waits for the time limit of a look."""
    monkeypatch.setattr("tether.owner.registered._LOOK_LIMIT_S", 0.3)
    said: list[str] = []
    owner.on_change(lambda notice: said.append(notice.detail) if notice.what == "plugin failed" else None)
    hanging, good, release = Late(), Late(), threading.Event()
    owner.register(hanging, name="hanging")
    owner.register(good, name="good")
    hanging.get_child_pids = lambda: release.wait(60)  # type: ignore[method-assign]
    good.begin()
    assert good.server is not None
    pid = good.server.pid
    eventually(lambda: on_record(owner, "good") == [pid], 5)
    eventually(lambda: len(said) >= 1)
    assert "get_child_pids() " in said[0]
    release.set()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["get_execution_mode", "get_child_pids", "get_managed_resources"])
def test_a_plugin_that_hangs_holds_up_no_status(owner: Owner, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """It is said under its error, at once when it is asked again, and the others are shown. Slow: it waits for a time limit."""
    monkeypatch.setattr("tether.owner.registered._LOOK_LIMIT_S", 0.3)
    hanging, good, release = Late(), Late(), threading.Event()
    owner.register(hanging, name="hanging")
    owner.register(good, name="good")
    setattr(hanging, method, lambda: release.wait(60) and None)
    for said in (f"{method}() ", f"plugin hanging: {method}() has not returned yet from an earlier call"):
        shown, other = owner.status()["plugins"]
        assert said in shown["error"]
        assert (other["mode"], other["error"]) == ("subprocess", None)
    release.set()


@pytest.mark.slow
def test_a_plugin_that_hangs_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes too long for is a problem of its like others. Slow: it waits for a time limit."""
    monkeypatch.setattr("tether.owner.plugin._ASK_LIMIT_S", 0.3)
    plugin, release = Late(), threading.Event()
    plugin.get_child_pids = lambda: release.wait(60)  # type: ignore[method-assign]
    assert problems(plugin) == ["get_child_pids() did not return within 0.3 s"]
    release.set()


def test_an_interrupted_cleanup_can_be_asked_for_again(owner: Owner) -> None:
    """Ctrl-C while one plugin cleans up: the next call goes on with it, and does not call it twice at once."""
    calls: list[str] = []
    release = threading.Event()
    plugin, other = Late(), Late()

    def clean() -> None:
        calls.append("plugin")
        release.wait(30)

    plugin.clean = clean
    other.clean = functools.partial(calls.append, "other")
    owner.register(other, name="other")
    owner.register(plugin)
    main = threading.get_ident()
    threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        owner._roster.clean_up()
    threading.Timer(0.1, release.set).start()
    assert owner._roster.clean_up() == []
    assert calls == ["plugin", "other"]


def test_what_a_plugin_leaves_is_not_called_gone_unseen(make_owner: Callable[..., Owner]) -> None:
    """The record says how the cleanup went: that it failed stands there, though nothing is left."""
    owner, plugin = make_owner(), Late()
    owner.register(plugin)
    plugin.wrong = {"cleanup": RuntimeError("no")}
    with pytest.raises(ExceptionGroup):
        owner.shutdown()
    ledger = Ledger(owner.state_dir)
    (row,) = [row for row in ledger.resources(ended=True) if row.kind == "plugin"]
    ledger.close()
    assert row.state is State.FAILED
    assert "force_cleanup() raised RuntimeError: no" in row.reason


class Unspeakable(Exception):
    """What can't be shown, looked at or compared."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no attributes")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mode": Unspeakable()}, "get_execution_mode() raised Unspeakable"),
        ({"pids": Unspeakable()}, "get_child_pids() raised Unspeakable"),
        ({"pids": [object(), Unspeakable()]}, "get_child_pids() names what is no pid: a list whose repr() raises"),
        ({"resources": Unspeakable()}, "get_managed_resources() raised Unspeakable"),
    ],
)
def test_what_can_not_even_be_shown_is_the_plugins_error(owner: Owner, wrong: dict[str, Any], said: str) -> None:
    """Its repr() and str() raise: status() says it all the same, and in its place."""
    plugin = Late()
    owner.register(plugin)
    plugin.wrong = wrong
    (shown,) = owner.status()["plugins"]
    assert said in shown["error"]
    json.dumps(shown)
    plugin.wrong = {}


def test_a_plugin_with_an_attribute_that_tether_has_a_use_for_stays_registered(
    make_owner: Callable[..., Owner],
) -> None:
    """`has_ended` says of what tether watches that it has ended; of a plugin it says what its author meant, and may raise."""

    class Training(Late):
        def has_ended(self) -> bool:
            return False

    class Asking(Late):
        @property
        def has_ended(self) -> bool:
            raise RuntimeError("ask later")

    owner, training, last = make_owner(), Training(), Late()
    for plugin in (training, Asking(), last):
        owner.register(plugin)
    last.begin()
    training.begin()
    assert last.server is not None
    pids = [last.server.pid]
    eventually(lambda: on_record(owner, "Late") == pids, 5)
    assert list(owner.plugins) == ["Training", "Asking", "Late"]
    owner.shutdown()
    assert training.server is not None
    assert training.server.returncode is not None


# -- plugins that rent -------------------------------------------------------------------------------------------------


class Cloud(Late):
    """A plugin with a machine in a cloud."""

    def __init__(self, *, cleans: bool = False, ends: Any = True, after: str = "terminated") -> None:
        super().__init__()
        self.status, self.after, self.ends = "running", after, ends
        self.calls: list[str] = []
        self.clean = lambda: self._end("force_cleanup") if cleans else self.calls.append("force_cleanup")

    def _end(self, name: str) -> None:
        self.calls.append(name)
        self.status = self.after

    def get_execution_mode(self) -> Any:
        return "cloud_gpu"

    def get_remote_resource_info(self) -> RemoteResourceInfo:
        return RemoteResourceInfo(
            CloudProviderType.AWS, instance_id="i-123", status=self.status, metadata={"token": "xyzzy"}
        )

    def provision_remote_resource(self, **config: Any) -> RemoteResourceInfo:
        return self.get_remote_resource_info()

    def check_remote_resource_status(self) -> str:
        return self.status

    def terminate_remote_resource(self) -> Any:
        self._end("terminate_remote_resource")
        if isinstance(self.ends, Exception):
            raise self.ends
        return self.ends

    def estimate_cost(self, duration_hours: float) -> float:
        return 32.77 * duration_hours


def test_what_a_plugin_rents_is_shown_and_ended(make_owner: Callable[..., Owner]) -> None:
    """Its cleanup left it running, so it is terminated; the ledger knows it, and none of its secrets."""
    owner, plugin, tidy = make_owner(), Cloud(), Cloud(cleans=True)
    owner.register(plugin)
    owner.register(tidy, name="tidy")
    shown = owner.status()["plugins"][0]
    assert (shown["mode"], shown["remote"]["instance_id"], shown["remote"]["provider"]) == ("cloud_gpu", "i-123", "aws")

    def recorded() -> Any:
        ledger = Ledger(owner.state_dir)
        try:
            rows = {row.name: row.handle for row in ledger.resources()}
            return rows["Cloud"] and rows["Cloud"].data["remote"]
        finally:
            ledger.close()

    assert eventually(recorded)["instance_id"] == "i-123"
    assert "xyzzy" not in json.dumps(recorded())
    heard: list[str] = []
    owner.on_change(lambda notice: heard.append(f"{notice.what}: {notice.detail}"))
    owner.shutdown()
    assert plugin.calls == ["force_cleanup", "terminate_remote_resource"]
    assert tidy.calls == ["force_cleanup"]
    (said,) = [each for each in heard if each.startswith("terminated")]
    assert "plugin Cloud: its remote resource i-123 at aws has the status 'running'" in said


@pytest.mark.parametrize("ends", [False, RuntimeError("quota")])
def test_what_can_not_be_ended_is_reported(make_owner: Callable[..., Owner], ends: Any) -> None:
    """With what it is, where, and what to do; while what says it was terminated and still runs is only noted."""
    owner = make_owner()
    owner.register(Cloud(ends=ends, after="running"))
    with pytest.raises(ExceptionGroup) as caught:
        owner.shutdown()
    (error,) = caught.value.exceptions
    assert "plugin Cloud: its remote resource i-123 at aws has the status 'running' after its cleanup" in str(error)
    assert "end it at its provider" in str(error)


def test_a_remote_resource_that_can_not_be_looked_at(make_owner: Callable[..., Owner]) -> None:
    """Reading what it returned raises: that is the plugin's error, in its place, as if the method had raised."""

    class Odd(Cloud):
        def get_remote_resource_info(self) -> Any:
            return Unspeakable()

    owner = make_owner()
    owner.register(Odd())
    (shown,) = owner.status()["plugins"]
    assert "get_remote_resource_info() raised RuntimeError: no truth" in shown["error"]
    with pytest.raises(PluginError, match="no truth"):
        tether.has_active_cloud_resources(owner.plugins["Odd"])
    with pytest.raises(ExceptionGroup) as caught:
        owner.shutdown()
    assert "it may cost money" in str(caught.value.exceptions[0])


CLOUD_APP = """
import os, sys, time
sys.path.insert(0, sys.argv[2])
from tether import Owner
from test_answering import Cloud
owner = Owner("cloud", state_dir=sys.argv[1])
owner.register(Cloud())
time.sleep(0.5)
print("up", flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_was_rented_by_an_app_that_died_is_not_called_gone(runner: Runner) -> None:
    """Only the plugin could end it: what it is stands in the record, which is FAILED."""
    folder = runner.new_folder()
    with runner.popen(CLOUD_APP, folder, Path(__file__).parent, env=TESTS) as process:
        process.wait(20)

    def row() -> Any:
        ledger = Ledger(folder)
        try:
            return next(row for row in ledger.resources(ended=True) if row.kind == "plugin")
        finally:
            ledger.close()

    eventually(lambda: row().state.is_final, 20)
    assert row().state is State.FAILED
    assert "i-123 at aws" in row().reason


# -- plugins written with tether ---------------------------------------------------------------------------------------


class Managed(ManagedPlugin):
    """Runs what it is told."""


class OwnCleanup(Managed):
    """Has something of its own to clean up, after what it runs has ended."""

    running_then: bool | None = None

    def force_cleanup(self) -> None:
        super().force_cleanup()
        self.running_then = bool(self.get_child_pids())


@pytest.mark.parametrize("kind", [Managed, OwnCleanup])
def test_an_orderly_shutdown_ends_it_by_its_specs(
    make_owner: Callable[..., Owner], tmp_path: Path, kind: type[Managed]
) -> None:
    """The polite signal and its grace, never by SIGKILL; what is to be kept is kept; a cleanup of its own comes after."""
    owner, plugin = make_owner(), kind()
    owner.register(plugin)
    ready = tether.log("up")
    polite = plugin.start(Process([sys.executable, "-c", POLITE, tmp_path / "bye"], ready=ready))
    kept = plugin.start(Process(["sleep", "60"], name="kept", on_death="keep", keep_for=60))
    pid = kept.pid
    owner.shutdown()
    assert (polite.state, polite.exit_code) == (State.GONE, 0)
    assert (tmp_path / "bye").read_text() == "bye"
    assert pid is not None
    assert tree.is_running(pid)
    if isinstance(plugin, OwnCleanup):
        assert plugin.running_then is True  # the kept one
    again = make_owner()
    again.adopt("kept").kill()


def test_force_cleanup_kills(owner: Owner, tmp_path: Path) -> None:
    """Where somebody calls it, not the owner."""
    plugin = Managed()
    owner.register(plugin)
    resource = plugin.start(Process([sys.executable, "-c", POLITE, tmp_path / "bye"], ready=tether.log("up")))
    plugin.force_cleanup()
    assert resource.exit_code == -signal.SIGKILL
    assert not (tmp_path / "bye").exists()


def test_a_plugin_holds_what_is_still_starting(owner: Owner) -> None:
    """From the moment it is on record: its pids are told, and its cleanup ends it, which is the start's error."""
    plugin = Managed()
    owner.register(plugin)
    errors: list[BaseException] = []

    def begin() -> None:
        try:
            plugin.start(Process(["sh", "-c", "sleep 60 & sleep 60 & wait; : {port}"], ready=tcp(timeout=60)))
        except StartError as error:
            errors.append(error)

    thread = threading.Thread(target=begin)
    thread.start()
    eventually(lambda: len(plugin.get_child_pids()) == 3)
    assert plugin.get_child_pids()[0] == plugin.resources[0].pid
    assert plugin.resources[0].state is State.STARTING
    plugin.force_cleanup()
    thread.join(10)
    assert len(errors) == 1
    assert plugin.get_child_pids() == []


# -- asked from outside ------------------------------------------------------------------------------------------------


def test_a_living_owner_is_asked_to_clean_up(owner: Owner, tmp_path: Path) -> None:
    """By name or id; it says what it saw, and can be asked twice. The plugin may begin again after it."""
    plugin, managed = Late(), Managed()
    owner.register(plugin)
    owner.register(managed)
    polite = managed.start(Process([sys.executable, "-c", POLITE, tmp_path / "bye"], ready=tether.log("up")))
    plugin.begin()
    for _ in range(2):
        answer = asking.end_plugin(owner.state_dir, owner.id, "Late")
        assert (answer.plugin, answer.ended, answer.errors, answer.left) == ("Late", True, (), ())
    assert plugin.server is not None
    assert plugin.server.poll() == -signal.SIGKILL
    assert asking.end_plugin(owner.state_dir, owner.id, "Managed").ended
    assert polite.exit_code == 0
    with pytest.raises(PluginError, match="it has: Late, Managed"):
        asking.end_plugin(owner.state_dir, owner.id, "nothing")
    plugin.begin()
    plugin.wrong = {"cleanup": RuntimeError("no")}
    answer = asking.end_plugin(owner.state_dir, owner.id, "Late", force=True)
    assert not answer.ended
    assert "raised RuntimeError: no" in answer.errors[0]
    assert plugin.server.wait(5) == -signal.SIGKILL
    plugin.wrong = {}
    events = [event for event in owner.events() if event.what in ("cleaned up", "cleanup failed")]
    assert [event.what for event in events] == ["cleaned up"] * 3 + ["cleanup failed"]
    assert f"by pid {os.getpid()}" in events[0].detail


def test_asking_an_owner_that_has_ended(owner: Owner) -> None:
    """It is said, at once; and one that takes its time is not waited for longer than asked."""
    with pytest.raises(Gone, match="does not answer"):
        asking.end_plugin(owner.state_dir, owner.id, "Late")
    plugin = Late()
    plugin.clean = lambda: time.sleep(1.5)
    owner.register(plugin)
    with pytest.raises(DeadlineExceeded, match="goes on cleaning it up"):
        asking.end_plugin(owner.state_dir, owner.id, "Late", timeout=0.2)
    path = asking.path_of(owner.state_dir, owner.id)
    assert path.stat().st_mode & 0o777 == 0o600
    owner.shutdown()
    assert not path.exists()


def test_the_state_directory_may_be_deep(tmp_path: Path) -> None:
    """Deeper than a socket's path may be long."""
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    with Owner("deep", state_dir=folder) as owner:
        owner.register(Late())
        assert asking.end_plugin(folder, owner.id, "Late").ended


# -- what is no plugin -------------------------------------------------------------------------------------------------


def test_a_job_manager_is_two_functions(make_owner: Callable[..., Owner]) -> None:
    """Its pids now, and what ends them; without the second they are asked politely."""
    owner = make_owner()
    jobs = [subprocess.Popen(["sleep", "90"]) for _ in range(2)]
    mine = [subprocess.Popen(["sleep", "90"])]
    ended: list[int] = []

    def cancel_all() -> None:
        ended.extend(job.pid for job in jobs)
        for job in jobs:
            job.kill()
            job.wait()

    registered = owner.register(pids=lambda: [job.pid for job in jobs], cleanup=cancel_all, name="jobs")
    owner.register(pids=[mine[0].pid])
    assert owner.plugins["jobs"] is registered
    assert owner.pids() == [*(job.pid for job in jobs), mine[0].pid]
    with pytest.raises(SpecError, match="for what is no plugin"):
        owner.register(Late(), cleanup=cancel_all)
    owner.shutdown()
    assert ended == [job.pid for job in jobs]
    assert mine[0].wait(5) == -signal.SIGTERM


def test_a_process_that_exists_is_watched(make_owner: Callable[..., Owner]) -> None:
    """A Popen or a pid; it ends politely with the owner, and one that ends by itself is let go of."""
    owner = make_owner()
    first, second = subprocess.Popen(["sleep", "90"]), subprocess.Popen(["sleep", "90"])
    watched = owner.watch(first)
    owner.watch(second.pid, name="second")
    assert repr(watched) == f"<Watched sleep (pid {first.pid})>"
    assert list(owner.plugins) == ["sleep", "second"]
    second.kill()
    second.wait()
    eventually(lambda: list(owner.plugins) == ["sleep"], 6)
    owner.shutdown()
    assert first.returncode == -signal.SIGTERM
    with pytest.raises(PluginError, match="has ended already"):
        make_owner("other").watch(first)
    with pytest.raises(PluginError, match="this app did not start it"):
        make_owner("third").watch(os.getppid())
    with pytest.raises(PluginError, match="it has no pid"):
        make_owner("fourth").watch("sleep")


# -- events ------------------------------------------------------------------------------------------------------------


def test_events_are_an_iterator(owner: Owner) -> None:
    """From its beginning to the shutdown; each with the state after it. A callback may leave, and may raise."""
    heard: list[str] = []
    leave = owner.on_change(lambda notice: heard.append(notice.what))
    owner.on_change(lambda notice: 1 // 0)
    with owner.watch() as watch:
        resource = owner.start(Process(["sleep", "60"], name="it"))
        assert [(next(watch).what, next(watch).state)] == [("created", "ready")]
        eventually(lambda: heard == ["created", "ready"])
        leave()
        leave()
        resource.kill()
        owner.shutdown()
        rest = list(watch)
    assert {notice.name for notice in rest} == {"it"}
    assert rest[-1].what == "gone"
    assert list(owner.watch()) == []
    assert heard == ["created", "ready"]


def test_a_crash_is_a_warning(make_owner: Callable[..., Owner], caplog: pytest.LogCaptureFixture) -> None:
    """A server that was up; not a start that failed (an error says that), a job, or an end that was asked for."""
    caplog.set_level(logging.WARNING, logger="tether")
    owner = make_owner()
    server = owner.start(Process(["sh", "-c", "read line; exit 3; : {port}"], stdin="pipe", name="server"))
    owner.start(Process(["false"], name="job")).wait(10)
    owner.start(Process(["sleep", "60"], name="asked")).kill()
    with pytest.raises(StartError):
        owner.start(Process(["sh", "-c", "exit 1; : {port}"], name="start", ready=tcp()))
    assert caplog.records == []
    stdin = server.stdin
    assert stdin is not None
    stdin.write(b"go\n")
    stdin.flush()
    server.wait(10)
    stdin.close()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("server: crashed (ended by itself, exit code 3")


def test_a_crash_is_shown_where_the_app_has_no_logging(runner: Runner) -> None:
    """By Python itself, on standard error."""
    code = (
        "import sys; from tether import Owner, Process\n"
        "with Owner('app', state_dir=sys.argv[1]) as o:\n"
        "    o.start(Process(['sh', '-c', 'sleep 0.1; exit 3; : {port}'], name='server')).wait(20)"
    )
    with runner.popen(code, runner.new_folder(), stderr=subprocess.PIPE) as process:
        _, err = process.communicate(timeout=30)
    assert err.startswith("server: crashed (ended by itself, exit code 3")


# -- at a glance -------------------------------------------------------------------------------------------------------


def test_reprs_are_short_and_show_pid_and_url(owner: Owner) -> None:
    """In a notebook it is a table; what comes from outside is escaped there."""
    resource = owner.start(Process(["sh", "-c", "sleep 60; : {port}"], name="llm"))
    assert repr(resource) == f"<Resource llm (process, ready, pid {resource.pid}, {resource.url})>"
    assert repr(owner) == f"<Owner test (pid {os.getpid()}, 1 resource, 0 plugins)>"
    page = owner._repr_html_()
    assert f'<a href="{resource.url}"' in page
    assert "<td>llm</td>" in resource._repr_html_()
    resource.kill()
    assert repr(resource) == "<Resource llm (process, gone)>"
    resource._managed.life = type(resource._managed.life)(state=State.FAILED, reason="<script>")
    assert "<script>" not in resource._repr_html_()
    assert f"{State.READY}" == str(State.READY) == "ready"
    assert json.dumps([State.READY]) == '["ready"]'
