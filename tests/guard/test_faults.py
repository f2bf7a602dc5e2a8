"""Faults at system calls: what passes ends nothing for good, who can't be looked at has not gone, and a kill anywhere leaves nothing."""

from __future__ import annotations

import os
import resource as limits
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from programs import inject
from support import Runner, eventually
from tether import Owner, Process
from tether.linux import tree

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: scripts/packages")

SAMPLE = [
    *(
        inject.Fault("owner", *fault)
        for fault in (("recvmsg", 4, "ENOMEM"), ("clone3", 1, "KILL"), ("epoll_ctl", 2, "ENOMEM"))
    ),
    *(
        inject.Fault("hub", *fault)
        for fault in (("recvmsg", 2, "ENOBUFS"), ("socketpair", 1, "ENFILE"), ("sendmsg", 1, "KILL"))
    ),
    *(
        inject.Fault("shim", *fault)
        for fault in (("sendmsg", 1, "ENOBUFS"), ("pipe2", 1, "EMFILE"), ("wait4", 1, "KILL"))
    ),
    *(inject.Fault("adopter", *fault) for fault in (("socketpair", 1, "EMFILE"), ("sendmsg", 2, "KILL"))),
]
"""Each of these once broke something, or is a kill in the middle of a step."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[inject.Sweep]:
    """A state directory with a neighbour, and bystanders."""
    made = inject.Sweep(tmp_path_factory.mktemp("inject"))
    yield made
    made.end()


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("fault", SAMPLE, ids=str)
def test_a_fault_at_a_call_leaves_nothing(sweep: inject.Sweep, fault: inject.Fault) -> None:
    """A sample of ``make inject``. Slow: strace, two owners and all that they do."""
    run = sweep.carry_out(fault, orderly=fault.nth % 2 == 0)
    assert run.problems == []


@needs_strace
@pytest.mark.slow
def test_a_hub_that_cannot_look_ends_what_a_killed_shim_left(
    make_owner: Callable[..., Owner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor is to be had on the whole machine, just as a shim is killed: who was not seen has not gone. Slow: strace."""
    monkeypatch.setenv("TETHER_TIER", "shim")
    owner = make_owner()
    mark = f"71.{os.getpid()}"
    job = owner.start(Process(["sh", "-c", f"setsid sleep {mark} & sleep {mark} & wait"]))
    eventually(lambda: len(inject.alive(mark.encode())) == 3)
    tracer = inject.Tracer(
        [owner.status()["hub"]], ["-einject=open,openat:error=ENFILE:when=1..60"], tmp_path / "calls"
    )
    handle = job._managed.handle
    assert handle is not None
    os.kill(handle.data["shim"][0], signal.SIGKILL)
    eventually(lambda: not inject.alive(mark.encode()), what="the tree ends")
    tracer.end()
    assert "ENFILE" in (tmp_path / "calls").read_text()


def test_a_shim_killed_before_it_says_anything_costs_no_start(faulty: str, runner: Runner) -> None:
    """The spares are killed while they come up: the start gets one that was forked after."""
    code = (
        "import os, signal, sys, threading, time\nfrom tether import Owner, Process\nfrom tether.linux import tree\n"
        "owner = Owner('spares', state_dir=sys.argv[1])\nhub = owner._guard.arm()\n"
        "while len(spares := tree.children(hub.pid)) < 2: time.sleep(0.001)\n"
        "for each in spares: os.kill(each, signal.SIGKILL)\n"
        "job = owner.start(Process(['sleep', '60']))\nprint(job.pid is not None, job._managed.handle.data['shim'][0] in spares)\n"
        "owner.shutdown()"
    )
    environ = {"TETHER_GUARD": faulty, "TETHER_GUARD_FAULTS": "shim.begun=delay:700"}
    with runner.popen(code, runner.new_folder(), env=environ) as process:
        assert process.communicate(timeout=60)[0].split() == ["True", "False"]


def test_all_end_where_no_descriptor_can_be_had(runner: Runner) -> None:
    """The owner has none left: what it holds the line to ends as always, politely and by force."""
    code = (
        "import os, sys\nfrom tether import Owner, Process\nowner = Owner('full', state_dir=sys.argv[1])\n"
        "jobs = [owner.start(Process(['sh', '-c', 'sleep 62 & wait'])) for _ in range(4)]\n"
        "taken = []\n"
        "try:\n    while True: taken.append(os.dup(0))\nexcept OSError: pass\n"
        "jobs[0].stop(); jobs[1].kill(); print([job.state.value for job in jobs], flush=True)\n"
        "for each in taken: os.close(each)\nowner.shutdown(); print(len(owner.resources))"
    )

    def few() -> None:
        limits.setrlimit(limits.RLIMIT_NOFILE, (200, 200))

    with runner.popen(code, runner.new_folder(), preexec_fn=few) as process:
        said = process.communicate(timeout=60)[0].splitlines()
    assert said == ["['gone', 'gone', 'ready', 'ready']", "0"]


def test_who_cannot_be_looked_at_has_not_gone() -> None:
    """Without descriptors /proc tells nothing: that is an error, and not the end of a process."""
    code = (
        "import os, resource\nfrom tether.linux import proc, signals\nme = proc.start_time(os.getpid())\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "for look in (lambda: proc.read_stat(os.getpid()), lambda: signals.wait_end(os.getpid(), me, 0)):\n"
        "    try: print(look())\n    except OSError as error: print(error.errno)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.split() == ["24", "24"]


def test_a_guard_that_was_stopped_ends_after_its_owner(runner: Runner) -> None:
    """A spare shim is stopped just as its owner ends in order: the hub wakes it, and neither stays."""
    code = (
        "import os, signal, sys\nfrom tether import Owner, Process\nfrom tether.linux import tree\n"
        "owner = Owner('stopped', state_dir=sys.argv[1])\nowner.start(Process(['sleep', '60'])).kill()\nhub = owner.status()['hub']\n"
        "spares = tree.children(hub)\nfor each in spares: os.kill(each, signal.SIGSTOP)\nprint(hub, *spares, flush=True)\nowner.shutdown()"
    )
    with runner.popen(code, runner.new_folder()) as process:
        pids = list(map(int, process.communicate(timeout=60)[0].split()))
    assert len(pids) > 1
    eventually(lambda: not [pid for pid in pids if tree.is_running(pid)], 15.0)
