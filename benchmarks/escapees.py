"""Owners whose descendants try to outlive them, each in a way of its own, are killed; whoever lives afterwards is counted.

    .venv/bin/python benchmarks/escapees.py --runs 50

As root, in each tier, and as an ordinary user without a cgroup; once the owner alone, and once with its shim or hub, at a random
moment after the start, which may be before all have begun to escape.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import support
from support import Runner

WITHIN_S = 20.0
"""Long enough for a busy machine; what has not ended by then has escaped."""
MOMENT_S = 1.5
"""At most so long after the start the kills come: by then all have begun, on a machine at rest."""

OWNER = """
import sys, time
from pathlib import Path
from tether import Owner, Process

folder, script = Path(sys.argv[1]), sys.argv[2]
owner = Owner("escaping", state_dir=folder / "state")
resource = owner.start(Process([sys.executable, script, folder], name="escape"))
print(owner.status()["reaper"], resource._managed.handle.data["shim"][0], owner.status()["tier"], flush=True)
time.sleep(100)
"""


def run_once(runner: Runner, victims: str, delay_s: float | None) -> tuple[str, int, list[str]]:
    """Start an owner, kill it and its ``victims`` after a time, or once all have begun: its tier, how many had begun, who lives."""
    folder = runner.new_folder()
    script = runner.folder / "programs/escape.py"
    with runner.popen(OWNER, folder, script if script.exists() else support.ESCAPE) as process:
        assert process.stdout is not None
        reaper, shim, tier = process.stdout.readline().split()
        if delay_s is None:
            support.eventually((folder / "all").exists, 60.0, "all have begun")
        else:
            time.sleep(delay_s)
        begun = len([*folder.glob("*.pid"), *folder.glob("*.lock")])
        pids = {"owner": process.pid, "shim": int(shim), "hub": int(reaper)}
        for each in random.sample(["owner", *victims.split()], 1 + len(victims.split())):
            os.kill(pids[each], signal.SIGKILL)
    deadline = time.monotonic() + WITHIN_S
    while (left := support.survivors(folder)) and time.monotonic() < deadline:
        time.sleep(0.01)
    # Who began to escape after the kills is seen as well: nobody is named in the folder any more once the tree has ended.
    time.sleep(0.2)
    return tier, begun, left or support.survivors(folder)


def main() -> None:
    """Run all of it and print a line for each kind of run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    runs = parser.parse_args().runs
    failed = False
    with tempfile.TemporaryDirectory(prefix="escapees-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "user").mkdir()
        (folder / "root").mkdir()
        root, user = support.this_user(folder / "root"), support.ordinary_user(folder / "user")
        for who, runner, tier in (
            ("root", root, "cgroup"),
            ("root", root, "shim"),
            ("ordinary user", user, "shim"),
        ):
            runner.environ["TETHER_TIER"] = tier
            for victims in ("", "shim", "hub"):
                moment = None if victims == "" else MOMENT_S
                done = [
                    run_once(runner, victims, None if moment is None else random.uniform(0, moment))
                    for _ in range(runs)
                ]
                clean = sum(not left for _, _, left in done)
                begun = [count for _, count, _ in done]
                tiers = "/".join(sorted({each for each, _, _ in done}))
                print(f"{who}, tier {tiers}, kill -9 of {' and '.join(['owner', *victims.split()])}:", end=" ")
                print(f"of {min(begun)} to {max(begun)} escapees none lives in {clean} of {runs} runs", end=" ")
                print(*(left for _, _, left in done if left), flush=True)
                failed |= clean < runs
    sys.exit(failed)


if __name__ == "__main__":
    main()
