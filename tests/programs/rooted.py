"""Where tether was installed from its wheel, in a root of its own: owners with escapees, ended in order and by kill -9.

usage: rooted.py ESCAPE

A line of JSON: what it runs on, and for each end the tier, how many had begun, and who was left.
"""

import fcntl
import json
import os
import platform
import subprocess
import sys
import tempfile
import time

OWNER = """
import os, sys, time
from tether import Owner, Process
owner = Owner("rooted", state_dir=sys.argv[1] + "/state")
job = owner.start(Process([sys.executable, sys.argv[2], sys.argv[1]], name="escape"))
while not os.path.exists(sys.argv[1] + "/all"): time.sleep(0.01)
print(owner.status()["tier"], flush=True)
if sys.argv[3] == "stop":
    job.stop(grace=0.5)
    print("stopped", flush=True)
time.sleep(60)
"""


def alive(folder):
    left = []
    for name in sorted(os.listdir(folder)):
        kind, _, what = name.partition(".")
        if what == "pid":
            pid, start = open(f"{folder}/{name}").read().split()
            try:
                fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[19] == start and (fields[0] not in "ZX" or int(fields[17]) > 1):
                left.append(kind)
        elif what == "lock":
            with open(f"{folder}/{name}", "r+") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    left.append(kind)
    return left


def end_by(how):
    folder = tempfile.mkdtemp()
    command = [sys.executable, "-c", OWNER, folder, sys.argv[1], how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        tier, begun = owner.stdout.readline().strip(), len(alive(folder))
        if how == "stop":
            owner.stdout.readline()
            begun, left = 13, alive(folder)
        owner.kill()
    deadline = time.time() + 20
    while how != "stop" and (left := alive(folder)) and time.time() < deadline:
        time.sleep(0.05)
    state = subprocess.run(
        [f"{sys.prefix}/bin/tether", "ps", "--all", "--json"],
        env={**os.environ, "TETHER_STATE_DIR": f"{folder}/state"},
        capture_output=True, text=True, check=True,
    ).stdout
    return {"how": how, "tier": tier, "begun": begun, "left": left, "on record": "escape" in state}


print(json.dumps({"libc": platform.libc_ver()[0], "ends": [end_by(how) for how in ("stop", "kill -9")]}))
