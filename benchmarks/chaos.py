"""Chaos: random owners with random resources, of which random processes are killed at random moments.

    make chaos SEEDS=1000
    .venv/bin/python benchmarks/chaos.py --seed 17      # one again

For each seed an owner is started with some resources, a random set of {owner, reaper, shims} is killed at a random time or at a
fault point, a sweep is made, and the process table is compared with what should be there. Bystanders, which look as much like
members as a stranger can, run all the while, in a pid namespace with so few pids that numbers are used again and again.

It prints the kills, the leaks (members that live), the wrongful kills (bystanders that do not), what the ledger lost, and how
long it took from the kill until nothing was left (p50, p99).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tether.ledger.store import Ledger
from tether.life.managed import new_id
from tether.linux import proc, tree
from tether.linux.faults import POINTS
from tether.model import State

PID_MAX = 700
BYSTANDERS = 12
LIFETIME_S = 100
ESCAPE = Path(__file__).parents[1] / "tests/programs/escape.py"
KINDS = (
    "session",
    "daemon",
    "new_title",
    "ignore_signals",
    "stopped",
    "closed_files",
    "deep",
    "respawning",
    "clone_parent",
    "dead_leader",
)

OWNER = """
import json, sys, threading, time
from tether import Owner, Process
plan = json.loads(sys.argv[1])
owner = Owner("chaos", state_dir=plan["state"])
print(json.dumps({"ready": True}), flush=True)
resources = []
for each in plan["resources"]:
    resource = owner.start(Process([sys.executable, "-I", "-S", plan["escape"], each["folder"], *each["kinds"]],
                                   name=each["name"], on_death=each["on_death"], keep_for=each["keep_for"], stop_grace=0.2))
    resources.append(resource)
    shim = resource._managed.handle.data["shim"][0]
    print(json.dumps({"shim": shim, "reaper": owner.status()["reaper"]}), flush=True)
for resource in resources[:plan["stopped"]]:
    resource.stop()
for resource in resources[plan["stopped"]:][:plan["restarted"]]:
    resource.restart()
    shim = resource._managed.handle.data["shim"][0]
    print(json.dumps({"shim": shim, "reaper": owner.status()["reaper"]}), flush=True)
print(json.dumps({"done": True}), flush=True)
time.sleep(100)
"""


@dataclass
class Tally:
    """What came of all seeds."""

    seeds: int = 0
    kills: int = 0
    leaks: list[str] = field(default_factory=list)
    wrongful: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    settling_ms: list[float] = field(default_factory=list)


def start_times(pids: list[int]) -> dict[int, int]:
    """Identities of processes."""
    return {pid: start for pid in pids if (start := proc.start_time(pid)) is not None}


def is_alive(pid: int, start: int) -> bool:
    """Whether this very process runs."""
    stat = proc.read_stat(pid)
    return stat is not None and stat.start == start and stat.running


def members(folder: Path) -> list[str]:
    """The escapees of a run that live."""
    found = []
    for path in folder.rglob("*.pid"):
        pid, start = map(int, path.read_text().split())
        if is_alive(pid, start):
            found.append(f"{path.parent.name}/{path.stem}")
    return found


def start_bystanders() -> list[subprocess.Popen[bytes]]:
    """Strangers: some in sessions of their own, some with tags of a tether that is not ours."""
    environ = {"PATH": os.environ["PATH"], "TETHER_RESOURCE": new_id(), "TETHER_OWNER": new_id()}
    return [
        subprocess.Popen(["sleep", "3600"], env=environ if number % 2 else None, start_new_session=number % 3 == 0)
        for number in range(BYSTANDERS)
    ]


def burn_pids(rng: random.Random) -> None:
    """Use up some pids, so that numbers come around again."""
    for _ in range(rng.randrange(20, 60)):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


def run_seed(seed: int, tally: Tally) -> None:
    """One owner, its catastrophe, and the sweep."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="tether-chaos-") as name:
        folder = Path(name)
        resources = []
        for number in range(rng.randrange(1, 4)):
            (folder / f"r{number}").mkdir()
            kinds = rng.sample(KINDS, rng.randrange(1, 4))
            on_death = rng.choice(["kill", "kill", "stop", "keep"])
            keep_for = rng.choice([0.2, 30])
            made = {"name": f"r{number}", "folder": str(folder / f"r{number}"), "kinds": kinds}
            resources.append({**made, "on_death": on_death, "keep_for": keep_for})
        state = str(folder / "state")
        plan = {
            "state": state,
            "escape": str(ESCAPE),
            "resources": resources,
            "stopped": rng.randrange(0, 2),
            "restarted": rng.randrange(0, 3),
        }
        environ = dict(os.environ, TETHER_TIER=rng.choice(["cgroup", "shim"]))
        if rng.random() < 0.3:
            environ["TETHER_FAULTS"] = (
                f"{rng.choice([point for point in POINTS if point.startswith(('start', 'stop'))])}=kill"
            )
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, json.dumps(plan)], stdout=subprocess.PIPE, text=True, env=environ
        )
        assert owner.stdout is not None
        os.set_blocking(owner.stdout.fileno(), False)
        guards = watch(owner, rng.uniform(0.0, 0.6))
        victims = choose(rng, owner, guards)
        burn_pids(rng)
        began = time.monotonic()
        for pid, start in victims.items():
            # Ours: they were forked for this seed, and their start times compared a moment ago.
            if is_alive(pid, start):
                os.kill(pid, signal.SIGKILL)
                tally.kills += 1
        owner.kill()
        owner.wait()
        owner.stdout.close()
        sweep = subprocess.run(
            [sys.executable, "-m", "tether", "reap", "--all", "--json"],
            env={**os.environ, "TETHER_STATE_DIR": state},
            capture_output=True, text=True, check=False, timeout=90,
        )  # fmt: skip
        deadline = time.monotonic() + 10
        while (left := members(folder)) and time.monotonic() < deadline:
            time.sleep(0.002)
        tally.settling_ms.append((time.monotonic() - began) * 1000)
        tally.leaks += [f"seed {seed}: {each}" for each in left]
        if sweep.returncode:
            tally.lost.append(f"seed {seed}: reap failed: {sweep.stdout}{sweep.stderr}")
        tally.lost += [f"seed {seed}: {each}" for each in unexplained(folder / "state")]
        wait_for_guards(guards)
    tally.seeds += 1


def watch(owner: subprocess.Popen[str], seconds: float) -> dict[int, int]:
    """Let the owner go on for a while, and note its reaper and shims as it says them."""
    assert owner.stdout is not None
    guards: dict[int, int] = {}
    deadline = time.monotonic() + 20
    ready_at = None
    # The descriptor does not block, so a line may come in pieces.
    pending = ""
    while time.monotonic() < deadline and owner.poll() is None:
        pending += owner.stdout.readline()
        if pending.endswith("\n"):
            said = json.loads(pending)
            pending = ""
            guards.update(start_times([said[key] for key in ("shim", "reaper") if key in said]))
            ready_at = ready_at or time.monotonic()
        elif ready_at is not None and time.monotonic() - ready_at > seconds:
            break
        else:
            time.sleep(0.005)
    return guards


def choose(rng: random.Random, owner: subprocess.Popen[str], guards: dict[int, int]) -> dict[int, int]:
    """Choose who is killed: always somebody, often all."""
    everybody = {**guards, **start_times([owner.pid])}
    if rng.random() < 0.35:
        return everybody
    pids = [pid for pid in everybody if rng.random() < 0.5] or [owner.pid]
    return {pid: everybody[pid] for pid in pids if pid in everybody}


def unexplained(state: Path) -> list[str]:
    """What the ledger should say and does not: every resource has an end with an event, every owner has ended."""
    ledger = Ledger(state)
    deadline = time.monotonic() + 10
    # The reaper may be writing the last receipts.
    while ledger.owners() and time.monotonic() < deadline:
        time.sleep(0.01)
    found = [f"owner {owner.id} has not ended" for owner in ledger.owners()]
    events = {event.resource for event in ledger.events() if event.what in ("gone", "failed")}
    for row in ledger.resources(ended=True):
        if row.state not in (State.GONE, State.FAILED):
            found.append(f"resource {row.name} is {row.state.value}")
        elif row.id not in events:
            found.append(f"resource {row.name} has no receipt")
    ledger.close()
    return found


def wait_for_guards(guards: dict[int, int]) -> None:
    """Reaper and shims end too."""
    deadline = time.monotonic() + 10
    while any(is_alive(pid, start) for pid, start in guards.items()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"guards of a finished run are there: {[pid for pid in guards if tree.is_running(pid)]}")
        time.sleep(0.002)


def enter_namespace() -> None:
    """Run again in a pid namespace of few pids, so that they are reused all the time; without root, where we are."""
    if os.getuid() != 0 or os.environ.get("TETHER_CHAOS_INSIDE"):
        return
    os.environ["TETHER_CHAOS_INSIDE"] = "1"
    # The shell is the namespace's init, and waits for the orphans that are nobody else's.
    init = ["bash", "-c", '"$@"; exit $?', "bash", sys.executable, *sys.argv]
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *init]
    os.execvp(command[0], command)


def limit_pids() -> str:
    """Make pids few, if this kernel lets a pid namespace have a limit of its own."""
    if not os.environ.get("TETHER_CHAOS_INSIDE"):
        return "in the machine's own pid namespace (not root)"
    try:
        Path("/proc/sys/kernel/pid_max").write_text(str(PID_MAX))
    except OSError as error:
        return f"in a pid namespace, without a limit of its own ({error})"
    return f"in a pid namespace of {PID_MAX} pids"


def main() -> int:
    """Run the seeds and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one only")
    arguments = parser.parse_args()
    enter_namespace()
    where = limit_pids()
    bystanders = start_bystanders()
    tally = Tally()
    seeds = (
        [arguments.seed] if arguments.seed is not None else range(arguments.first, arguments.first + arguments.seeds)
    )
    for seed in seeds:
        run_seed(seed, tally)
        for process in list(bystanders):
            if process.poll() is not None:
                tally.wrongful.append(f"seed {seed}: a bystander ended with {process.returncode}")
                bystanders.remove(process)
        if tally.seeds % 100 == 0:
            print(
                f"{tally.seeds} seeds, {tally.kills} kills, {len(tally.leaks)} leaks, {len(tally.wrongful)} wrongful",
                flush=True,
            )
    for process in bystanders:
        process.kill()
        process.wait()
    for each in [*tally.leaks, *tally.wrongful, *tally.lost]:
        print(each)
    cuts = statistics.quantiles(tally.settling_ms, n=100) if len(tally.settling_ms) > 1 else [tally.settling_ms[0]] * 99
    print(
        f"{tally.seeds} seeds {where}: {tally.kills} kills, {len(tally.leaks)} leaks, {len(tally.wrongful)} wrongful kills"
    )
    print(
        f"{len(tally.lost)} lost from the ledger; settled in {cuts[49]:.0f} ms (p50), {cuts[98]:.0f} ms (p99), sweep included"
    )
    return 1 if tally.leaks or tally.wrongful or tally.lost else 0


if __name__ == "__main__":
    sys.exit(main())
