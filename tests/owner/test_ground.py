"""An owner begins with all that it needs, or leaves nothing."""

from __future__ import annotations

import json
import subprocess

from support import Runner
from tether.ledger.reading import Reading

SHORT = """
import gc, json, os, resource, sys, threading
from tether import Owner, Process, ReaperError

def opened():
    found = {}
    for fd in range(3, 128):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass
    return found

with Owner("warm", state_dir=sys.argv[1]):
    pass
before, names = opened(), os.listdir(sys.argv[1] + "/run")
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
said = []
for room in range(100):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for fd in held[len(held) - room:]:
            os.close(fd)
    try:
        owner = Owner("app", state_dir=sys.argv[1])
    except ReaperError as error:
        owner = None
        said.append(str(error))
    finally:
        for fd in held[:len(held) - room]:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    if owner is not None:
        break
    gc.collect()
    assert (opened(), os.listdir(sys.argv[1] + "/run")) == (before, names), room
    assert threading.active_count() == 1 and "TETHER_OWNER" not in os.environ
with owner:
    resource = owner.start(Process(["sleep", "60"]))
print(json.dumps([room, said]), flush=True)
"""


def test_no_descriptors_left(runner: Runner) -> None:
    """However many there are: enough, or an error that says what to do, and nothing of the attempt stays open or on record."""
    folder = runner.new_folder()
    with runner.popen(SHORT, folder, stderr=subprocess.PIPE) as process:
        said, complained = process.communicate(timeout=100)
    assert (process.returncode, complained) == (0, "")
    room, errors = json.loads(said)
    # Where one more was enough, the last to fail was the guard's pipe, when everything else was open.
    assert room == len(errors) == 8
    assert all("no more files can be opened" in error and "ulimit -n" in error for error in errors)
    ledger = Reading(folder)
    assert [owner.name for owner in ledger.owners()] == []
    assert [event.name for event in ledger.events() if event.what == "owner began"] == ["warm", "app"]
