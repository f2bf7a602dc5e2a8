"""Random crashes of owners that rent machines: one seed is one owner, killed somewhere, and one sweep.

    python tests/cloud/crash.py --seeds 300

Every third one runs a process on its machine. Each seed draws where the owner is killed (a fault point of start, stop or destroy, or some moment), which requests fail and how, and how
late lists are. After one sweep nothing of it may be there, no machine may have been made twice, and machines of others must run.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from cloud.ec2 import KEYS, REGION, Ec2, running
from tether.ledger.store import Ledger

_OWNER = """
import sys
from tether import Machine, Owner
owner = Owner("crash", state_dir=sys.argv[1])
machine = owner.start(Machine(region=sys.argv[2], endpoint=sys.argv[3], image=sys.argv[4], name="m", lease=60, listing_lag=2.5,
    open_ports=[22], user_data="#!/bin/sh\\nsleep 90\\n"))
(machine.kill if sys.argv[5] == "kill" else machine.stop)()
owner.shutdown()
"""
_ON_MACHINE = """
import importlib, os, sys
from tether import Machine, Owner, RemoteProcess
from tether.linux import faults
owner = Owner("crash", state_dir=sys.argv[1])
box = Machine(region=sys.argv[2], endpoint=sys.argv[3], image=sys.argv[4], name="m", lease=60, listing_lag=2.5, open_ports=[22])
if sys.argv[6]:
    box = owner.start(box)
    os.environ["TETHER_FAULTS"] = sys.argv[6]
    importlib.reload(faults)
job = owner.start(RemoteProcess(on=box, argv=["sleep", "90"], user="root"))
(job.kill if sys.argv[5] == "kill" else job.stop)()
owner.shutdown()
"""
POINTS = (
    "start.recorded",
    "start.making",
    "start.spawned",
    "start.created",
    "stop.asked",
    "stop.ended",
    "destroy.asked",
)
_ACTIONS = (
    "RunInstances",
    "RunInstances",
    "RunInstances",
    "TerminateInstances",
    "DescribeInstances",
    "ImportKeyPair",
    "CreateTags",
    "*",
)
_FAULTS = ("lost", "lost", "throttle", "reset")


def crash(seed: int, ec2: Ec2, folder: Path) -> str:
    """Run one seed; return what is wrong, empty if nothing is."""
    chance = random.Random(seed)
    on_machine = seed % 3 == 2
    point = chance.choice([*POINTS, "", ""])
    faults = [[chance.choice(_ACTIONS), chance.choice(_FAULTS)] for _ in range(chance.randrange(4))]
    ec2.tell(faults=faults, late=chance.choice([0, 0.5, 1.5]))
    state = folder / f"seed-{seed}"
    environ = {**os.environ, **KEYS, "TETHER_STATE_DIR": str(state)}
    how = "kill" if point == "destroy.asked" else "stop"
    fault = f"{point}=kill" if point else ""
    # Killed while the machine is made, or when it is there and the process is made on it.
    later, now = (fault, "") if on_machine and chance.random() < 0.7 else ("", fault)
    code = _ON_MACHINE if on_machine else _OWNER
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(state), REGION, ec2.url, ec2.image, how, later],
        env={**environ, **({"TETHER_FAULTS": now} if now else {})},
        stderr=subprocess.PIPE,
        text=True,
    )
    moment = chance.uniform(0.5, 10.0 if on_machine else 6.0)
    try:
        owner.wait(moment if not point else 60)
    except subprocess.TimeoutExpired:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert owner.stderr is not None
    said = owner.stderr.read()
    owner.stderr.close()
    swept = subprocess.run(
        [sys.executable, "-m", "tether", "reap"], env=environ, capture_output=True, text=True, check=False, timeout=100
    )
    return _wrong(seed, point, faults, ec2, state, f"{swept.stdout}{swept.stderr}{said[-600:]}")


def _wrong(seed: int, point: str, faults: list[list[str]], ec2: Ec2, state: Path, said: str) -> str:
    ledger = Ledger(state)
    tags = {row.id for row in ledger.resources(ended=True)}
    live = [row.id for row in ledger.resources()]
    ledger.close()
    wrong = [f"on record as live: {live}"] if live else []
    for tag in tags:
        every = ec2.every(tag)
        running_now = [each for each, word in every if word != "terminated"]
        wrong += [f"there: {running_now}"] if running_now else []
        wrong += [f"made twice: {every}"] if len(every) > 1 else []
        wrong += [f"left: {left}" for left in ec2.leftovers() if tag in left]
    return f"seed {seed} (killed at {point or 'some moment'}, faults {faults}): {wrong}\n{said}" if wrong else ""


def crashes(seeds: range, ec2: Ec2, folder: Path, workers: int = 3) -> list[str]:
    """Run seeds side by side, beside machines of somebody else that bear tags of tether's; return what is wrong."""
    copied = [{"ResourceType": "instance", "Tags": [{"Key": "tether:resource", "Value": "0123456789abcdef"}]}]
    foreign = [ec2.foreign(), ec2.foreign(TagSpecifications=copied, UserData="#!/bin/sh\nsleep 100\n")]
    with ThreadPoolExecutor(workers) as pool:
        wrong = [each for each in pool.map(lambda seed: crash(seed, ec2, folder), seeds) if each]
    ec2.tell(faults=[], late=0)
    there = {instance["InstanceId"] for instance in ec2.instances()}
    wrong += [f"a machine of somebody else was ended: {each}" for each in foreign if each not in there]
    for each in foreign:
        ec2.tell(end=each)
    left = ec2.leftovers()
    return [*wrong, *([f"left in the end: {left}"] if left else [])]


def main() -> None:
    """Run many seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--seed", type=int, help="one of them again")
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    seeds = range(options.seeds) if options.seed is None else range(options.seed, options.seed + 1)
    began, wrong = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="tether-crash-") as name:
        # A stand-in lives for a quarter of an hour, and a foreign machine for less than two minutes.
        for first in range(seeds.start, seeds.stop, 30):
            part = range(first, min(first + 30, seeds.stop))
            with running(Path(name) / f"ec2-{first}") as ec2:
                wrong += crashes(part, ec2, Path(name), options.workers)
            print(f"{part.stop - seeds.start} seeds, {time.monotonic() - began:.0f} s, {len(wrong)} wrong", flush=True)
    print("\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
