"""Ends that keep up: deep chains, bombs at the limit of processes, many at once, and what can't be ended is said."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support import Runner, eventually, let_in
from tether import Owner, Process, State
from tether.linux import proc, tree

CHAIN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(int(sys.argv[1])):
    if os.fork(): time.sleep(100); os._exit(0)
    os.setsid()
print("deep", flush=True); time.sleep(100)
"""
BOMB = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
end = time.time() + 25
while time.time() < end:
    try:
        if os.fork() == 0: os.setsid()
    except OSError: time.sleep(0.01)
"""
OWNER = """
import os, resource, sys, time
from tether import Owner, Process
if len(sys.argv) > 3: resource.setrlimit(resource.RLIMIT_NPROC, (int(sys.argv[3]),) * 2)
owner = Owner("ends", state_dir=sys.argv[1])
job = owner.start(Process([sys.executable, "-S", "-c", *eval(sys.argv[2])], stop_grace=0.2))
print(job._managed.handle.data["shim"][0], owner.status()["tier"], flush=True)
sys.stdin.readline()
began = time.time()
job.kill()
print(time.time() - began, flush=True)
owner.shutdown()
"""

HOLDER = """
import ctypes, sys
trace = ctypes.CDLL(None).ptrace
trace.argtypes = [ctypes.c_long] * 4
print(trace(0x4206, int(sys.argv[1]), 0, 0), flush=True)  # PTRACE_SEIZE
sys.stdin.readline()
"""


def alive(text: bytes) -> list[int]:
    """Processes of a command line with this text."""
    found = []
    for pid in proc.all_pids():
        try:
            if text in Path(f"/proc/{pid}/cmdline").read_bytes() and tree.is_running(pid):
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["cgroup", "shim"])
@pytest.mark.parametrize("how", ["kill", "death"])
def test_a_deep_chain_ends(runner: Runner, tier: str, how: str) -> None:
    """Four hundred sessions below each other, deaf to SIGTERM, end in rounds that do not wait for each other. Slow: many processes."""
    mark = f"chain-{os.getpid()}-{tier}-{how}"
    command = repr([CHAIN + "#" + mark, "400"])
    with runner.popen(OWNER, runner.new_folder(), command, stdin=subprocess.PIPE, env={"TETHER_TIER": tier}) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        eventually(lambda: len(alive(mark.encode())) >= 400, 60.0)
        if how == "death":
            process.kill()
        else:
            process.stdin.write("\n")
            process.stdin.flush()
        eventually(lambda: alive(mark.encode()) == [], 10.0, "the chain ends")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "death"])
def test_a_bomb_at_the_limit_of_processes_ends(user_runner: Runner, how: str) -> None:
    """As an ordinary user, without a cgroup: members fork whenever there is room, and never exit. Slow: hundreds of processes."""
    mark = f"bomb-{os.getpid()}-{how}"
    command = repr([BOMB + "#" + mark])
    with user_runner.popen(OWNER, user_runner.new_folder(), command, "150", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().split()[1] == "shim"
        eventually(lambda: len(alive(mark.encode())) > 100, 30.0)
        if how == "death":
            process.kill()
        else:
            process.stdin.write("\n")
            process.stdin.flush()
        eventually(lambda: alive(mark.encode()) == [], 15.0, "the bomb ends")


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "hub stopped"])
def test_no_exit_code_is_lost_where_many_end_at_once(make_owner: Callable[..., Owner], stopped: bool) -> None:
    """Two hundred trees that end in the same moment leave two hundred codes, also with the hub stopped. Slow: many processes."""
    owner = make_owner("many")
    code = "import os, sys, time; time.sleep(max(0, float(sys.argv[2]) - time.time())); os._exit(int(sys.argv[1]))"
    when = time.time() + 12
    jobs = [
        owner.start(Process([sys.executable, "-S", "-c", code, str(number % 256), str(when)])) for number in range(200)
    ]
    if stopped:
        os.kill(owner.status()["hub"], signal.SIGSTOP)
    assert [job.wait(60) for job in jobs] == [number % 256 for number in range(200)]
    if stopped:
        os.kill(owner.status()["hub"], signal.SIGCONT)


def test_receipts_survive_owner_and_hub(runner: Runner, private_state: Path) -> None:
    """Owner and hub are killed before anything is settled: the next sweep finds the exit code in the file of receipts."""
    folder = runner.new_folder()
    code = (
        "import sys, time; from tether import Owner, Process\nowner = Owner('gone', state_dir=sys.argv[1])\n"
        "job = owner.start(Process(['sh', '-c', 'sleep 0.5; exit 9']))\nprint(owner.status()['hub'], flush=True)\ntime.sleep(60)"
    )
    with runner.popen(code, folder) as process:
        assert process.stdout is not None
        hub = int(process.stdout.readline())
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: any(b'"status": 9' in each.read_bytes() for each in (folder / "run").glob("*.receipts")))
        os.kill(hub, signal.SIGKILL)
        process.kill()
        process.wait()
    from tether.ledger.store import Ledger

    with Owner("next", state_dir=folder):
        ledger = Ledger(folder)
        (row,) = ledger.resources(ended=True)
        ledger.close()
    assert (row.state.value, row.exit_code) == ("failed", 9)


@pytest.mark.slow
def test_what_a_killed_shim_left_is_seen_beside_many_shims(owner: Owner, runner: Runner) -> None:
    """The hub has eighty trees of others below it, too: who is still there has not gone. Slow: many processes, and a tracer that holds one."""
    owner.start_all([Process(["sleep", "60"], name=f"other-{number}") for number in range(80)])
    job = owner.start(Process(["sleep", "60"], name="traced"))
    handle, said = job._managed.handle, f"pid {job.pid} is held by a tracer"
    assert handle is not None
    with runner.popen(HOLDER, str(job.pid), stdin=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        if holder.stdout.readline().strip() != "0":
            pytest.skip("this user may trace nobody here")
        os.kill(handle.data["shim"][0], signal.SIGKILL)
        # Killed, and not gone before its tracer lets go: its parent could not be told.
        eventually(lambda: any(said in row.detail for row in owner.events()), 30.0)
        assert job.state.value != "failed"
        holder.communicate("\n", timeout=20)
    assert job.wait(20) is None
    assert job.state is State.FAILED


@pytest.mark.slow
def test_a_member_that_became_root_is_said_at_once(
    user_runner: Runner, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A setuid program in the tree of an ordinary user can't be signalled: that is said, and the rest of the tree ends. Slow: a compiler."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: scripts/packages")
    folder = tmp_path_factory.mktemp("suid")
    folder.chmod(0o755)
    let_in(folder)
    source = folder / "suid.c"
    source.write_text(
        "#include <unistd.h>\nint main(int c, char **v) { (void)c; if (setgid(0) || setuid(0)) return 1; execvp(v[1], v + 1); return 127; }\n"
    )
    subprocess.run(["gcc", "-o", str(folder / "suid"), str(source)], check=True)
    (folder / "suid").chmod(0o4755)
    code = (
        "import sys, time; from tether import Owner, Process, DeadlineExceeded\nowner = Owner('suid', state_dir=sys.argv[1])\n"
        "job = owner.start(Process(['sh', '-c', f'sleep 61 & {sys.argv[2]} sleep 8 & wait'], stop_grace=0.3))\ntime.sleep(0.5)\n"
        "began = time.time()\ntry: job.stop()\nexcept DeadlineExceeded as error: print('other user' in str(error) or 'another user' in str(error), job.state.value)\n"
        "print(time.time() - began < 5, len(job.pids()))\nsys.stdout.flush(); import os; os._exit(0)"
    )
    with user_runner.popen(code, user_runner.new_folder(), folder / "suid") as process:
        assert process.communicate(timeout=60)[0].split() == ["True", "stopping", "True", "1"]
    eventually(lambda: alive(b"sleep\x008") == [], 15.0)


@pytest.mark.parametrize("point", ["shim.asked", "shim.forked", "shim.spawned", "shim.ended", "hub.fork"])
def test_a_guard_killed_anywhere_leaves_nothing(faulty: str, runner: Runner, point: str) -> None:
    """Shim or hub die by kill -9 at each of their steps: the start goes through with another, or is refused; nothing is left."""
    mark = f"7{os.getpid() % 1000:03d}"
    code = (
        "import sys; from tether import Owner, Process, TetherError\n"
        "owner = Owner('faults', state_dir=sys.argv[1])\n"
        "for number in range(2):\n"
        "    try:\n        job = owner.start(Process(['sh', '-c', 'setsid sleep ' + sys.argv[2] + ' & sleep ' + sys.argv[2]], name=f'n{number}', stop_grace=0.1)); job.stop()\n"
        "    except TetherError as error: print(type(error).__name__)\n"
        "owner.shutdown(); print('over')"
    )
    environ = {"TETHER_GUARD": faulty, "TETHER_GUARD_FAULTS": f"{point}=kill"}
    with runner.popen(code, runner.new_folder(), mark, env=environ) as process:
        said = process.communicate(timeout=100)[0].split()
    assert said[-1] == "over", said
    eventually(lambda: alive(f"sleep\x00{mark}".encode()) == [], 10.0)


def test_a_stopped_hub_is_woken_by_who_needs_it(make_owner: Callable[..., Owner]) -> None:
    """A hub that somebody stopped costs a start half a second, and no start."""
    owner = make_owner("stopped")
    owner.start(Process(["sleep", "60"]))
    os.kill(owner.status()["hub"], signal.SIGSTOP)
    jobs = [owner.start(Process(["sleep", "60"])) for _ in range(4)]
    assert all(job.pids() for job in jobs)


def test_the_hub_is_no_child_of_the_app(make_owner: Callable[..., Owner]) -> None:
    """os.wait() of the app never sees it."""
    owner = make_owner("alone")
    owner.start(Process(["sleep", "60"]))
    assert tree.children(os.getpid()) == [] or owner.status()["hub"] not in tree.children(os.getpid())
    stat = proc.read_stat(owner.status()["hub"])
    assert stat is not None
    assert stat.ppid != os.getpid()
