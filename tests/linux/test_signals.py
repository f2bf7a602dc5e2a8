"""A recycled pid is never signalled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.linux import identity, proc, signals
from tether.model import Identity

RECYCLE = """
import os, signal, sys, time
from tether.linux import proc, signals

victim = os.fork()
if victim == 0:
    os._exit(0)
start = proc.start_time(victim)
os.waitpid(victim, 0)
time.sleep(0.05)  # another clock tick, as any real reuse of a number takes longer
with open("/proc/sys/kernel/ns_last_pid", "w") as file:
    file.write(str(victim - 1))
bystander = os.fork()
if bystander == 0:
    time.sleep(60)
    os._exit(0)
assert bystander == victim, (bystander, victim)
assert not signals.send(victim, start, signal.SIGKILL)
assert signals.open_verified(victim, start) is None
assert signals.wait_end(victim, start, 0)
assert os.waitpid(bystander, os.WNOHANG) == (0, 0), "the bystander was hurt"
assert signals.send(bystander, proc.start_time(bystander), signal.SIGKILL)
assert os.waitstatus_to_exitcode(os.waitpid(bystander, 0)[1]) == -signal.SIGKILL
print("spared")
"""


@pytest.mark.parametrize("tier", ["shim", "portable"])
def test_a_pid_that_the_kernel_gave_to_another_is_spared(tier: str) -> None:
    """In a pid namespace of its own the kernel is made to hand out the same number again."""
    if os.getuid() != 0:
        pytest.skip("only root can set the next pid")
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", RECYCLE]
    shown = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "TETHER_TIER": tier}
    )
    assert shown.stdout == "spared\n", shown.stderr


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    """A process that is ended by its test."""
    return subprocess.Popen(["sleep", "60"])


@pytest.mark.parametrize("tier", ["shim", "portable"])
def test_the_right_one_is_signalled(
    sleeper: subprocess.Popen[bytes], tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the start time on record it is sent, and then never again."""
    monkeypatch.setenv("TETHER_TIER", tier)
    start = proc.start_time(sleeper.pid)
    assert start is not None
    assert not signals.send(sleeper.pid, start - 1, signal.SIGKILL)
    assert not signals.wait_end(sleeper.pid, start, 0.01)
    assert signals.send(sleeper.pid, start, signal.SIGKILL)
    assert signals.wait_end(sleeper.pid, start, 10)
    assert sleeper.wait() == -signal.SIGKILL
    assert not signals.send(sleeper.pid, start, signal.SIGKILL)


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_no_group_and_no_init_is_ever_signalled(pid: int) -> None:
    """Numbers that mean many, or everybody, are refused."""
    assert not signals.send(pid, 0, signal.SIGCONT)


def test_identity_of_this_process() -> None:
    """Boot id, pid and start time, and it is alive."""
    me = identity.identify()
    assert me is not None
    assert me.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert identity.is_alive(me)
    assert not identity.is_alive(Identity("another-boot", me.pid, me.start))
    assert identity.identify(2**22 + 1) is None


@given(pid=st.integers(2, 2**22), start=st.integers(0, 2**40))
def test_a_made_up_identity_is_dead(pid: int, start: int) -> None:
    """Unless pid and start both fit, nobody is meant."""
    assert identity.is_alive(Identity(identity.boot_id(), pid, start)) == (
        proc.start_time(pid) == start and (proc.read_stat(pid) or proc).running
    )
