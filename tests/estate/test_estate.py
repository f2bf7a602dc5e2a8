"""The estate of a dead owner: found and settled, once, whatever killed whom and when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import support
from support import Runner, eventually
from tether import Owner, Process, State
from tether.estate import settle as estate
from tether.ledger import place
from tether.ledger.reading import Reading
from tether.ledger.store import Ledger
from tether.life.managed import new_id
from tether.linux import identity, members, proc, tree
from tether.linux.faults import POINTS
from tether.model import Handle, Identity

STARTER = """
import os, sys
from tether import Owner, Process
owner = Owner("faulty", state_dir=sys.argv[1])
resource = owner.start(Process(["sleep", "60"], name="it"))
print(resource.pid, flush=True)
resource.kill() if "destroy" in os.environ["TETHER_FAULTS"] else resource.stop()
"""


def carriers(tag: str) -> list[int]:
    """Processes with this resource's tag."""
    return [pid for pid, _ in members.find(members.Marks(tags=[tag]))]


@pytest.mark.parametrize(
    "point", [point for point in POINTS if point.startswith(("start", "stop", "destroy")) and point != "start.making"]
)
def test_an_owner_killed_at_a_fault_point_leaves_nothing(runner: Runner, point: str) -> None:
    """Nothing is left after a sweep, and the ledger says what was done."""
    state = runner.new_folder()
    with runner.popen(STARTER, state, env={"TETHER_FAULTS": f"{point}=kill"}) as process:
        assert process.wait(30) == -signal.SIGKILL
    subprocess.run(
        [sys.executable, "-m", "tether", "reap"],
        env={**os.environ, "TETHER_STATE_DIR": str(state)},
        check=True,
        timeout=60,
    )
    ledger = Ledger(state)
    eventually(lambda: ledger.owners() == [])
    (row,) = ledger.resources(ended=True)
    assert row.state in (State.GONE, State.FAILED)
    assert row.reason
    assert carriers(row.id) == []
    said = [event.what for event in ledger.events() if event.resource == row.id]
    assert said[-1] in ("gone", "failed")
    ledger.close()


@pytest.mark.parametrize("point", ["sweep.claimed", "sweep.settled"])
def test_a_sweep_killed_in_the_middle_is_done_by_the_next(runner: Runner, point: str, private_state: Path) -> None:
    """A claim of somebody who died is void."""
    pid = orphan(runner, private_state)
    reap = [sys.executable, "-m", "tether", "reap", "--json"]
    killed = subprocess.run(reap, env={**os.environ, "TETHER_FAULTS": f"{point}=kill"}, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (done,) = json.loads(subprocess.run(reap, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert done["what"] == ("ended" if point == "sweep.claimed" else "already gone")
    assert not tree.is_running(pid)


ORPHANED = """
import os, signal, sys
from tether import Owner, Process
owner = Owner("dead", state_dir=sys.argv[1])
resource = owner.start(Process(["sleep", "60"], name="it"))
guards = [owner.status()["reaper"], resource._managed.handle.data["shim"][0]]
print(resource.pid, flush=True)
for signum in (signal.SIGSTOP, signal.SIGKILL):
    for pid in guards:
        os.kill(pid, signum)
os.kill(os.getpid(), signal.SIGKILL)
"""


def orphan(runner: Runner, state: Path) -> int:
    """Leave a process whose owner, reaper and shim were killed, and return its pid."""
    with runner.popen(ORPHANED, state) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.wait(20)
    assert tree.is_running(pid)
    return pid


@pytest.mark.slow
def test_four_sweeps_at_once_settle_each_estate_once(private_state: Path) -> None:
    """Two hundred dead owners; fewer where init leaves thousands of zombies, each of which every look meets. Slow: real processes."""
    count = 200 if len(proc.all_pids()) < 2000 else 8
    place.prepare(private_state)
    ledger = Ledger(private_state)
    dead = subprocess.Popen(["true"])
    gone = Identity(identity.boot_id(), dead.pid, 1)
    dead.wait()
    sleepers, tags = [], []
    for number in range(count):
        tag = new_id()
        tags.append(tag)
        sleeper = subprocess.Popen(["sleep", "100"], env={members.RESOURCE: tag}, start_new_session=True)
        sleepers.append(sleeper)
        ledger.add_owner(f"owner-{number}", f"app-{number}", gone, None)
        ledger.add_resource(tag, f"owner-{number}", "it", "process", {}, "kill", 1.0)
        me = identity.identify(sleeper.pid)
        assert me is not None
        data = {
            "boot": me.boot,
            "shim": [dead.pid, 1],
            "main": [me.pid, me.start],
            "log": None,
            "cgroup": None,
            "uid": os.getuid(),
        }
        ledger.write(tag, 1, State.READY, [], handle=Handle("process", tag, data))
    reaps = [
        subprocess.Popen([sys.executable, "-m", "tether", "reap", "--json"], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    outcomes = []
    for reap in reaps:
        shown = reap.communicate(timeout=100)[0]
        assert reap.returncode == 0
        outcomes += json.loads(shown)
    assert sorted(each["resource"] for each in outcomes) == sorted(tags)
    assert {each["what"] for each in outcomes} == {"ended"}
    assert [sleeper.wait(10) for sleeper in sleepers] == [-9] * count
    assert ledger.owners() == []
    ledger.close()


def test_an_estate_of_an_earlier_boot_is_settled_without_a_signal(private_state: Path) -> None:
    """Whatever has these pids now is somebody else."""
    place.prepare(private_state)
    bystander = subprocess.Popen(["sleep", "60"])
    me = identity.identify(bystander.pid)
    assert me is not None
    ledger = Ledger(private_state)
    ledger.add_owner("old", "app", Identity("earlier-boot", me.pid, me.start), None)
    ledger.add_resource("0123456789abcdef", "old", "it", "process", {}, "kill", 1.0)
    data = {
        "boot": "earlier-boot",
        "shim": [me.pid, me.start],
        "main": [me.pid, me.start],
        "log": None,
        "cgroup": None,
        "uid": os.getuid(),
    }
    ledger.write("0123456789abcdef", 1, State.READY, [], handle=Handle("process", "0123456789abcdef", data))
    (outcome,) = estate.sweep(ledger, private_state, patient=True)
    assert outcome.what == "already gone"
    assert bystander.poll() is None
    assert ledger.owners() == []
    ledger.close()
    bystander.kill()
    bystander.wait()


def test_a_crash_between_record_and_creation_is_found_by_tag(private_state: Path) -> None:
    """A row without a handle: what carries its tag is looked for."""
    place.prepare(private_state)
    ledger = Ledger(private_state)
    created_tag, missing_tag = new_id(), new_id()
    ledger.add_owner("dead", "app", Identity(identity.boot_id(), 2**22 + 1, 1), None)
    for tag in (created_tag, missing_tag):
        ledger.add_resource(tag, "dead", tag, "process", {}, "kill", 1.0)
    created = subprocess.Popen(["sleep", "60"], env={members.RESOURCE: created_tag})
    eventually(lambda: carriers(created_tag))
    outcomes = {each.name: each.what for each in estate.sweep(ledger, private_state, patient=True)}
    assert outcomes == {created_tag: "ended", missing_tag: "already gone"}
    assert created.wait(10) == -9
    ledger.close()


def test_a_sweep_leaves_living_owners_alone(runner: Runner, private_state: Path, owner: Owner) -> None:
    """Theirs, and what is nobody's."""
    resource = owner.start(Process(["sleep", "60"]))
    pid = orphan(runner, private_state)
    bystander = subprocess.Popen(["sleep", "60"], env={members.RESOURCE: "somebody-elses"})
    with Owner("next"):
        assert not tree.is_running(pid)
    assert resource.state is State.READY
    assert tree.is_running(resource.pid or 0)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_an_escapee_that_can_still_be_recognised_is_ended(user_runner: Runner) -> None:
    """As an ordinary user without a cgroup, after all guards were killed: by identity, session, log and tag."""
    kinds = [
        "session",
        "daemon",
        "ignore_signals",
        "stopped",
        "refork",
        "closed_files",
        "deep",
        "from_thread",
        "respawning",
        "clone_parent",
        "new_title",
    ]
    with support.escaping(user_runner, kinds) as run:
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            run.signal(signum, "reaper", "shim", "owner")
        run.process.wait()
        assert run.survivors() == sorted(kinds)
        code = "import sys; from tether import Owner; Owner('next', state_dir=sys.argv[1]).shutdown()"
        with user_runner.popen(code, run.folder / "state") as sweeper:
            assert sweeper.wait(60) == 0
        # What set its title has overwritten its environment, has a session of its own, and keeps the log as its output.
        assert run.survivors() == []


def test_with_a_cgroup_every_escapee_is_ended(runner: Runner) -> None:
    """As root, after all guards were killed: none of thirteen is left."""
    with support.escaping(runner) as run:
        if run.tier != "cgroup":
            pytest.skip("no writable cgroup v2 here")
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            run.signal(signum, "reaper", "shim", "owner")
        run.process.wait()
        assert len(run.survivors()) == 13
        subprocess.run(
            [sys.executable, "-m", "tether", "reap"],
            env={**os.environ, "TETHER_STATE_DIR": str(run.folder / "state")},
            check=True,
            timeout=60,
        )
        assert run.survivors() == []


EXHAUSTED = """
import os, resource, sys
from tether import Owner, Process, TetherError
owner = Owner("poor", state_dir=sys.argv[1])
running = owner.start(Process(["sleep", "60"], name="running"))
what = sys.argv[2]
if what == "files":
    limit = len(os.listdir("/proc/self/fd")) + 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
else:
    resource.prlimit(owner.status()["reaper"], resource.RLIMIT_NPROC, (1, 1))
refused = 0
for number in range(6):
    try:
        owner.start(Process(["sleep", "60"], name=f"more-{number}"))
    except (TetherError, OSError) as error:
        refused += 1
print("refused", refused > 0, flush=True)
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
running.stop()
print(running.state.value, flush=True)
owner.shutdown()
print("over", flush=True)
"""


@pytest.mark.parametrize("what", ["files", "processes"])
def test_exhaustion_refuses_starts_and_stops_no_cleanup(user_runner: Runner, what: str) -> None:
    """Out of file descriptors, out of processes: said, and ends work."""
    with user_runner.popen(EXHAUSTED, user_runner.new_folder(), what) as process:
        assert process.communicate(timeout=60)[0].split() == ["refused", "True", "gone", "over"]


def test_a_multiprocessing_child_ends_nothing(runner: Runner) -> None:
    """The fork of multiprocessing, and what gunicorn does with preload: the parent's resources live until the parent ends."""
    code = (
        "import multiprocessing, sys; from tether import Owner, Process\n"
        "owner = Owner('parent', state_dir=sys.argv[1])\n"
        "resource = owner.start(Process(['sleep', '60']))\n"
        "def child(): print([r.name for r in owner.resources]); owner.shutdown()\n"
        "process = multiprocessing.get_context('fork').Process(target=child); process.start(); process.join()\n"
        "print(resource.state.value, process.exitcode, flush=True)\n"
        "owner.shutdown(); print(resource.state.value)"
    )
    with runner.popen(code, runner.new_folder()) as process:
        assert process.communicate(timeout=60)[0].split("\n") == ["[]", "ready 0", "gone", ""]


def test_the_clock_may_be_set(runner: Runner, private_state: Path) -> None:
    """Time limits run on a clock that nobody sets; a date of long ago or far ahead in the ledger ends nothing early."""
    import sqlite3

    with Owner("app") as owner:
        resource = owner.start(Process(["sleep", "60"], name="srv", on_death="keep", keep_for=60))
        pid = resource.pid or 0
    with sqlite3.connect(private_state / "ledger.db") as db:
        for date in (0, time.time() + 10**9):
            db.execute("UPDATE resources SET changed = ?, began = ?", (date, date))
            db.commit()
            Owner("another").shutdown()
            assert tree.is_running(pid)
    db.close()
    with Owner("app") as owner:
        owner.adopt("srv").kill()


FAILING = """
import sys
from tether import Owner, Process
from tether.linux.faults import InjectedFault
owner = Owner("failing", state_dir=sys.argv[1])
try:
    owner.start(Process(["sleep", "60"], name="it"))
except InjectedFault as error:
    print(len(owner.resources), error, flush=True)
owner.start(Process(["true"], name="it"))
"""


@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("start") and point != "start.making"])
def test_a_start_that_fails_in_the_middle_leaves_nothing(runner: Runner, point: str) -> None:
    """An error, like Ctrl-C, at any point of start(): nothing is handed out, so nothing stays; the next start works or fails alike."""
    with runner.popen(
        FAILING, runner.new_folder(), env={"TETHER_FAULTS": f"{point}=fail"}, stderr=subprocess.DEVNULL
    ) as process:
        assert process.communicate(timeout=30)[0] == f"0 fault at {point}, as TETHER_FAULTS asks\n"


STOPPED = """
import os, signal, sys
from tether import Owner, Process
from tether.linux import tree
owner = Owner("stopped", state_dir=sys.argv[1])
resource = owner.start(Process(["sleep", "60"]))
hub = owner.status()["hub"]
guards = [hub, *(pid for pid in tree.descendants(hub) if pid != resource.pid)]
for guard in guards:
    os.kill(guard, signal.SIGSTOP)
print(*guards, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_guards_that_somebody_stopped_end_with_a_sweep(runner: Runner) -> None:
    """They have not heard that their owner died; nothing of them stays, those included that have no tree yet."""
    folder = runner.new_folder()
    with runner.popen(STOPPED, folder) as process:
        assert process.stdout is not None
        guards = [int(each) for each in process.stdout.readline().split()]
        process.wait(20)
    assert len(guards) > 2
    Owner("next", state_dir=folder).shutdown()
    eventually(lambda: not [guard for guard in guards if tree.is_running(guard)])
    assert Reading(folder).owners() == []
