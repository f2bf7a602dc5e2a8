"""What an app starts beside tether, and leaves: one rule for an orderly end and a crash, and no wrong victim."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import tether
from support import Runner, eventually
from tether import Owner, Process, SpecError
from tether.ledger.store import Ledger
from tether.linux import members, proc, signals, tree

# An app that starts every kind of thing beside its owner, says which pid is what, and ends in one of three ways. Whatever it starts ends by
# itself within two minutes.
APP = """
import json, os, subprocess, sys, time
from pathlib import Path
import tether
from tether import Owner, Process
folder, rule, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if os.environ.get("SUCCESSOR"):
    (folder / "successor").write_text(str(os.getpid()))
    time.sleep(90)
    sys.exit()
owner = Owner("app", state_dir=folder / "state", strays=rule)
owner.start(Process(["sleep", "90"], name="it"))
polite = "trap 'echo bye > $0/bye; exit 0' TERM; echo > $0/trapped; sleep 90 & wait"
started = {
    "child": subprocess.Popen(["sh", "-c", polite, str(folder)]),
    "deaf": subprocess.Popen(["sh", "-c", "trap '' TERM; echo > $0/deaf; while true; do sleep 1; done", str(folder)]),
    "browser": subprocess.Popen(["sleep", "90"], start_new_session=True),
    "unmarked": subprocess.Popen(["sleep", "90"], env={}),
    "successor": subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env={**os.environ, "SUCCESSOR": "1"}),
    "other": subprocess.Popen([sys.executable, "-c",
        "import sys, time, subprocess; from tether import Owner, Process; "
        "o = Owner('other', state_dir=sys.argv[1]); r = o.start(Process(['sleep', '90'])); "
        "p = subprocess.Popen(['sleep', '90']); print(r.pid, p.pid, flush=True); time.sleep(90)",
        str(folder / "elsewhere")], stdout=subprocess.PIPE, text=True),
}
pids = {name: process.pid for name, process in started.items()}
pids["of other"], pids["below other"] = map(int, started["other"].stdout.readline().split())
daemon = ["setsid", "-f", "sh", "-c", "sleep 90 & echo $$ > $0/daemon; wait", str(folder)]
subprocess.run(daemon, check=True)
with tether.apart() as env:
    pids["apart"] = subprocess.Popen(["sleep", "90"]).pid
    pids["apart by env"] = subprocess.Popen(["sleep", "90"], env=env).pid
names = ["trapped", "deaf", "daemon", "successor"]
while not all((folder / name).exists() and (name in ("trapped", "deaf") or (folder / name).read_text()) for name in names):
    time.sleep(0.01)
pids["daemon"] = int((folder / "daemon").read_text())
print(json.dumps(pids), flush=True)
sys.stdin.readline()
if how == "orderly":
    owner.shutdown()
elif how == "execv":
    os.execv("/bin/sleep", ["sleep", "90"])
else:
    os.kill(os.getpid(), 9)
"""
STAYS = {"browser", "successor", "other", "of other", "below other", "apart", "apart by env", "daemon", "unmarked"}
STRAYS = {"child", "deaf"}


@contextmanager
def app(
    runner: Runner, rule: str, how: str, **more: Any
) -> Iterator[tuple[subprocess.Popen[str], dict[str, int], Path]]:
    """The app, once it has started everything; all of it is ended after the block."""
    folder = runner.new_folder()
    process = runner.popen(APP, folder, rule, how, stdin=subprocess.PIPE, **more)
    starts: dict[int, int] = {}
    try:
        assert process.stdout is not None
        pids: dict[str, int] = json.loads(process.stdout.readline())
        below = [below for pid in pids.values() for below in tree.descendants(pid)]
        starts = {pid: proc.start_time(pid) or 0 for pid in [*pids.values(), *below]}
        yield process, pids, folder
    finally:
        process.kill()
        for pid, start in starts.items():
            signals.send(pid, start, signal.SIGKILL)
        process.communicate()


def left_behind(folder: Path) -> list[str]:
    """What the record says of strays."""
    ledger = Ledger(folder / "state")
    try:
        return [event.detail for event in ledger.events() if event.what == "left behind"]
    finally:
        ledger.close()


def finished(process: subprocess.Popen[str], folder: Path) -> None:
    """Let the app end, and wait until its estate is settled."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    process.wait(30)

    def ended() -> bool:
        ledger = Ledger(folder / "state")
        try:
            return all(owner.ended is not None for owner in ledger.owners(ended=True))
        finally:
            ledger.close()

    eventually(ended, 30)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["orderly", "crash"])
def test_strays_are_ended_where_that_was_asked_for(runner: Runner, how: str) -> None:
    """SIGTERM first, SIGKILL to the deaf; what went its own way is not hit. Slow: it waits for the grace of the deaf one."""
    with app(runner, "end", how, start_new_session=True) as (process, pids, folder):
        finished(process, folder)
        eventually(lambda: not any(tree.is_running(pids[name]) for name in STRAYS))
        assert (folder / "bye").read_text() == "bye\n"
        assert {name for name, pid in pids.items() if tree.is_running(pid)} == STAYS
        (said,) = left_behind(folder)
        assert "ended" in said
        assert str(pids["child"]) in said
        eventually(lambda: list((folder / "state/run").glob("*.strays")) == [])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["orderly", "crash"])
@pytest.mark.parametrize(("rule", "said"), [("warn", 1), ("leave", 0)])
def test_strays_are_left_and_said_or_not(runner: Runner, how: str, rule: str, said: int) -> None:
    """By default they are named, in the record as in the log; and nothing is ended. Slow: it starts two Pythons."""
    with app(runner, rule, how, start_new_session=True, stderr=subprocess.PIPE) as (process, pids, folder):
        finished(process, folder)
        assert {name for name, pid in pids.items() if tree.is_running(pid)} == STAYS | STRAYS
        events = left_behind(folder)
        assert len(events) == said
        assert all(str(pids[name]) in event for event in events for name in STRAYS)
        assert not any(str(pids[name]) in event for event in events for name in STAYS)
        if how == "orderly" and rule == "warn":
            assert process.stderr is not None
            assert f"pid {pids['child']} (sh)" in process.stderr.readline()


@pytest.mark.slow
def test_the_apps_session_may_be_a_shells(runner: Runner) -> None:
    """Its leader never carried the tag, so what lives there has stayed with the app. Slow: as above."""
    with app(runner, "end", "crash") as (process, pids, folder):
        assert os.getsid(pids["child"]) == os.getsid(0) != process.pid
        finished(process, folder)
        assert {name for name, pid in pids.items() if tree.is_running(pid)} == STAYS


@pytest.mark.slow
def test_an_app_that_became_another_program_keeps_its_children(runner: Runner) -> None:
    """After execv() they are the successor's, which lives. Slow: as above."""
    with app(runner, "end", "execv", start_new_session=True) as (process, pids, folder):
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        eventually(lambda: b"sleep" in proc.read(f"/proc/{process.pid}/cmdline"))
        it = next(row for row in rows(folder) if row["name"] == "it")
        eventually(lambda: not any(tree.is_running(pid) for pid in it["pids"]), 20)
        assert {name for name, pid in pids.items() if tree.is_running(pid)} == STAYS | STRAYS
        assert process.poll() is None


def rows(folder: Path) -> list[dict[str, Any]]:
    """The app's resources as recorded, with the pid of each command."""
    ledger = Ledger(folder / "state")
    try:
        return [
            {"name": row.name, "pids": [row.handle.data["main"][0]] if row.handle and "main" in row.handle.data else []}
            for row in ledger.resources(ended=True)
        ]
    finally:
        ledger.close()


def test_what_is_started_apart_carries_no_mark(owner: Owner) -> None:
    """In blocks that overlap, and with marks of others that were inherited; after the last block the mark is back."""
    marks = os.environ[members.OWNER]
    with tether.apart() as env:
        with tether.apart():
            assert owner.id not in os.environ.get(members.OWNER, "")
        assert owner.id not in os.environ.get(members.OWNER, "") + env.get(members.OWNER, "")
        second = Owner("second")
        assert second.id not in os.environ.get(members.OWNER, "")
    assert os.environ[members.OWNER] == f"{marks}:{second.id}"
    second.shutdown()
    assert os.environ[members.OWNER] == marks
    # Not by monkeypatch, which would put it back when the owner has ended.
    os.environ[members.OWNER] = f"outer:{marks}"
    with tether.apart():
        assert os.environ[members.OWNER] == "outer"
    assert os.environ[members.OWNER] == f"outer:{marks}"
    os.environ[members.OWNER] = marks


def test_a_rule_that_is_none_is_refused(private_state: Path) -> None:
    """Before anything is made."""
    with pytest.raises(SpecError, match="one of 'warn', 'end', 'leave'"):
        Owner("app", strays="kill")  # type: ignore[arg-type]
    assert not private_state.exists()


def test_resources_are_no_strays(owner: Owner, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is said where nothing was left, whatever resources and their trees do."""
    owner.start(Process(["sh", "-c", "setsid sleep 60 & sleep 60 & wait"]))
    heard: list[str] = []
    owner.on_change(lambda notice: heard.append(notice.what))
    owner.shutdown()
    assert "left behind" not in heard
    assert capfd.readouterr().err == ""
