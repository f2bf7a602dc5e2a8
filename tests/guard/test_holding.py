"""What docs/holding.md promises: each claim names the test that shows it; those here are of claims that had none."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from support import Program, Runner, eventually, let_in
from tether import DeadlineExceeded, Owner, Process
from tether.linux import tree

ROOT = Path(__file__).parents[2]
SHOWN = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/holding.md").read_text())


@cache
def _tests_of(path: str) -> set[str]:
    module = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("path", "name"), SHOWN, ids=[name for _, name in SHOWN])
def test_a_claim_names_a_test_that_there_is(path: str, name: str) -> None:
    """What the table of docs/holding.md names is in the file that it names."""
    assert name in _tests_of(path)


def test_each_claim_has_a_row() -> None:
    """The numbers in brackets, which stand behind the claims, are those of the table's rows, in order."""
    text, _, table = (ROOT / "docs/holding.md").read_text().partition("## What shows it")
    claimed = [int(number) for number in re.findall(r"\[(\d+)\]", text)]
    rows = [(int(number), shown) for number, shown in re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)]
    assert sorted(set(claimed)) == [number for number, _ in rows] == list(range(1, len(rows) + 1))
    assert all("::test_" in shown for _, shown in rows)


def test_the_hub_comes_with_the_first_process_and_keeps_two_shims_ahead(owner: Owner) -> None:
    """None before, and later one shim for each tree and two that wait."""
    assert owner.status()["hub"] is None
    for count in (1, 2, 3):
        owner.start(Process(["sleep", "60"]))
        hub = owner.status()["hub"]
        eventually(lambda hub=hub, count=count: len(tree.children(hub)) == count + 2, 20.0, "two shims wait")  # type: ignore[misc]


READER = """
import json, os, sqlite3, sys
record = sqlite3.connect(f"file:{sys.argv[1]}/ledger.db?mode=ro", uri=True)
(handle,) = record.execute("SELECT handle FROM resources WHERE name = 'reader'").fetchone()
here = [line[3:].strip() for line in open("/proc/self/cgroup") if line.startswith("0::")]
print(json.dumps({"shim": os.getppid(), "cgroup": here, "handle": handle}), flush=True)
"""


@pytest.mark.parametrize("tier", ["cgroup", "shim"])
def test_a_command_finds_its_shim_and_cgroup_on_record(
    make_owner: Callable[..., Owner], private_state: Path, monkeypatch: pytest.MonkeyPatch, tier: str
) -> None:
    """The first that it does is to read: both stand there before it was executed, and it was born in that cgroup."""
    monkeypatch.setenv("TETHER_TIER", tier)
    owner = make_owner()
    job = owner.start(Process([sys.executable, "-S", "-c", READER, str(private_state)], name="reader", stdout="pipe"))
    assert job.stdout is not None
    said = json.loads(job.stdout.read())
    if owner.status()["tier"] != tier:
        pytest.skip("no cgroup v2 is writable here")
    assert f'"shim": [{said["shim"]},' in said["handle"]
    (inside,) = said["cgroup"]
    assert (f'{inside}"' in said["handle"] and f"/tether-{owner.id}/" in inside) == (tier == "cgroup")


DROPPING = """
import os, sys
from tether import Owner, Process
owner = Owner("dropping", state_dir=sys.argv[1])
owner.start(Process(["sleep", "60"]))
hubs = [owner.status()["hub"]]
for folder, _, files in os.walk(sys.argv[1]):
    for name in [".", *files]:
        os.chown(os.path.join(folder, name), 1500, 1500)
os.setgroups([]); os.setresgid(1500, 1500, 1500); os.setresuid(1500, 1500, 1500)
owner.start(Process(["sleep", "60"]))
hubs.append(owner.status()["hub"])
for hub in hubs:
    fields = dict(line.split(":\\t", 1) for line in open(f"/proc/{hub}/status") if ":\\t" in line)
    print(fields["Uid"].split()[0], int(fields["CapEff"], 16) == 0)
sys.stdout.flush()
os._exit(0)
"""


def test_an_app_that_dropped_its_privileges_gets_a_hub_that_has_none(runner: Runner) -> None:
    """Another one than the first, which root had; both have gone when the app has."""
    if os.getuid() != 0:
        pytest.skip("only root can drop its privileges")
    folder = runner.new_folder()
    let_in(folder / "state")
    with runner.popen(DROPPING, folder / "state") as process:
        assert process.communicate(timeout=60)[0].splitlines() == ["0 False", "1500 True"]


FORGETFUL = """
import os, sys, time
from tether import Owner, Process
owner = Owner("forgetful", state_dir=sys.argv[1])
job = owner.start(Process(["sleep", "60"], name="twice"))
job.restart()
print(owner.status()["hub"], job._managed.handle.data["shim"][0], job.id, owner.id, flush=True)
time.sleep(60)
"""


def test_what_is_said_of_an_earlier_life_is_not_believed(runner: Runner) -> None:
    """A receipt of its first run says that it ended with 7: its second run, whose guards were killed too, is ended and has no code."""
    from tether.ledger.store import Ledger

    folder = runner.new_folder()
    with runner.popen(FORGETFUL, folder) as process:
        assert process.stdout is not None
        hub, shim, resource, owner = process.stdout.readline().split()
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for pid in (int(hub), int(shim), process.pid):
                os.kill(pid, signum)
        process.wait()
    said = {"tag": resource, "life": 1, "status": 7, "why": "by itself", "said": "ECHILD", "shm": []}
    with (folder / f"run/{owner}.receipts").open("a") as file:
        file.write(json.dumps(said) + "\n")
    Owner("next", state_dir=folder).shutdown()
    ledger = Ledger(folder)
    (row,) = [row for row in ledger.resources(ended=True) if row.id == resource]
    ledger.close()
    assert row.exit_code is None


def test_a_frozen_member_is_said_with_its_cgroup(owner: Owner) -> None:
    """By the freezer of cgroup v1, which holds off even SIGKILL; it ends when it is thawed."""
    freezer = Path(f"/sys/fs/cgroup/freezer/tether-test-{os.getpid()}")
    try:
        freezer.mkdir()
    except OSError:
        pytest.skip("no freezer of cgroup v1 is writable here")
    try:
        job = owner.start(Process(["sleep", "60"], name="frozen"))
        (freezer / "cgroup.procs").write_text(str(job.pid))
        (freezer / "freezer.state").write_text("FROZEN")
        eventually(lambda: (freezer / "freezer.state").read_text().strip() == "FROZEN", 20.0, "it is frozen")
        with pytest.raises(DeadlineExceeded, match=f"pid {job.pid} is frozen.*{freezer.name}"):
            job.stop(grace=0.1)
        (freezer / "freezer.state").write_text("THAWED")
        job.wait(30)
    finally:
        (freezer / "freezer.state").write_text("THAWED")
        eventually(lambda: (freezer / "cgroup.procs").read_text() == "", 20.0, "it has ended")
        freezer.rmdir()


def test_tether_run_becomes_the_guard() -> None:
    """What has the pid that the shell knows is no Python once the command runs."""
    with Program([sys.executable, "-m", "tether", "run", "sleep", "60"]) as process:
        eventually(lambda: Path(f"/proc/{process.pid}/exe").readlink().name.startswith("tether-guard"), 30.0)
        process.terminate()
