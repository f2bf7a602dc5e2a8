"""Kept on purpose: a resource that outlives its owner, and is found again with its exit code still to come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Queue

import pytest

from support import Runner, eventually, let_in
from tether import Busy, Gone, NotFound, Owner, Process, State, log
from tether.linux import tree

KEEPER = """
import sys, time
from tether import Owner, Process
owner = Owner("app", state_dir=sys.argv[1])
resource = owner.start(Process(["sh", "-c", sys.argv[2]], name="srv", on_death="keep", keep_for=float(sys.argv[3])))
print(resource.pid, owner.status()["reaper"], flush=True)
time.sleep(60)
"""


def keep(runner: Runner, state: Path, script: str, keep_for: float = 60, kill: tuple[str, ...] = ("owner",)) -> int:
    """Start something that is kept, kill its owner (and reaper), and return its pid."""
    with runner.popen(KEEPER, state, script, str(keep_for)) as process:
        assert process.stdout is not None
        pid, reaper = map(int, process.stdout.readline().split())
        if "reaper" in kill:
            os.kill(reaper, signal.SIGKILL)
        process.kill()
    return pid


@pytest.fixture
def state(private_state: Path) -> Path:
    """The state directory of all owners of a test."""
    return private_state


@pytest.mark.parametrize("kill", [("owner",), ("owner", "reaper")], ids=lambda kill: "+".join(kill))
def test_adopted_after_kill_9(
    runner: Runner, state: Path, make_owner: Callable[..., Owner], kill: tuple[str, ...]
) -> None:
    """Same pid, same log, stop works; also when the reaper was killed with the owner."""
    pid = keep(runner, state, "echo one; sleep 60", kill=kill)
    resource = make_owner("app").adopt("srv")
    assert (resource.pid, resource.state) == (pid, State.READY)
    eventually(lambda: resource.logs() == "one\n")
    resource.stop()
    assert (resource.info()["state"], resource.exit_code) == ("gone", -signal.SIGTERM)
    assert not tree.is_running(pid)


def test_the_exit_code_still_comes(
    runner: Runner, state: Path, make_owner: Callable[..., Owner], tmp_path: Path
) -> None:
    """It ends while the new owner has it."""
    go = tmp_path / "go"
    keep(runner, state, f"while [ ! -e {go} ]; do sleep 0.02; done; exit 7")
    resource = make_owner("app").adopt("srv")
    go.touch()
    assert resource.wait(20) == 7
    assert resource.state is State.FAILED


@pytest.mark.parametrize("kill", [("owner",), ("owner", "reaper")], ids=lambda kill: "+".join(kill))
def test_an_exit_code_that_came_while_nobody_owned_it(
    runner: Runner, state: Path, make_owner: Callable[..., Owner], kill: tuple[str, ...]
) -> None:
    """It is delivered, once."""
    pid = keep(runner, state, "sleep 0.5; exit 9", kill=kill)
    eventually(lambda: not tree.is_running(pid))
    eventually(lambda: list((state / "run").glob("*.ended")))
    owner = make_owner("app")
    resource = owner.adopt("srv")
    assert (resource.wait(1), resource.state) == (9, State.FAILED)
    with pytest.raises(NotFound, match="no earlier owner app kept a resource srv"):
        owner.adopt("srv")


def test_it_dies_with_its_new_owner_if_that_does_not_keep_it(runner: Runner, state: Path) -> None:
    """Kept by the first, adopted and kept by the second, adopted by a third: the chain never breaks."""
    pid = keep(runner, state, "sleep 60")
    adopter = "import sys, time; from tether import Owner; o = Owner('app', state_dir=sys.argv[1]); print(o.adopt('srv').pid, flush=True); time.sleep(60)"
    for _ in range(2):
        with runner.popen(adopter, state) as process:
            assert process.stdout is not None
            assert int(process.stdout.readline()) == pid
            process.kill()
    with Owner("app", state_dir=state) as last:
        last.adopt("srv").kill()
    assert not tree.is_running(pid)


def test_an_equal_spec_adopts_and_a_changed_one_replaces(
    runner: Runner, state: Path, make_owner: Callable[..., Owner]
) -> None:
    """The development server that reloads keeps its model server."""
    pid = keep(runner, state, "sleep 60")
    owner = make_owner("app")
    heard: list[str] = []
    spec = Process(["sh", "-c", "sleep 60"], name="srv", on_death="keep", keep_for=60)
    resource = owner.start(spec, on_progress=heard.append)
    assert resource.pid == pid
    assert heard == ["adopted srv"]
    owner.shutdown()
    assert tree.is_running(pid)
    again = make_owner("app")
    changed = again.start(
        Process(["sh", "-c", "sleep 60"], name="srv", on_death="keep", keep_for=60, env={"MODEL": "other"})
    )
    assert changed.pid != pid
    assert not tree.is_running(pid)
    changed.kill()


def test_it_ends_when_nobody_comes(runner: Runner, state: Path) -> None:
    """After keep_for seconds without an owner, politely."""
    script = "trap 'echo asked; exit 0' TERM; while :; do sleep 0.02; done"
    pid = keep(runner, state, script, keep_for=0.4)
    eventually(lambda: not tree.is_running(pid))
    assert "asked" in next((state / "logs").glob("*.log")).read_text()


def test_a_living_owners_resource_is_not_adopted(make_owner: Callable[..., Owner]) -> None:
    """Of two owners of one name that both live."""
    first, second = make_owner("app"), make_owner("app")
    resource = first.start(Process(["sleep", "60"], name="srv", on_death="keep"))
    with pytest.raises(NotFound):
        second.adopt("srv")
    resource.kill()


def test_of_two_adopters_exactly_one_gets_it(runner: Runner, state: Path) -> None:
    """At once, from six processes; the others are told that it is taken."""
    pid = keep(runner, state, "sleep 60")
    code = (
        "import sys, time; from tether import Owner, Busy, NotFound\n"
        "o = Owner('app', state_dir=sys.argv[1]); print('up', flush=True); sys.stdin.readline()\n"
        "try: print(o.adopt('srv').pid, flush=True)\n"
        "except (Busy, NotFound) as error: print(type(error).__name__, flush=True)\n"
        "sys.stdin.readline(); [r.kill() for r in o.resources]"
    )
    processes = [runner.popen(code, state, stdin=subprocess.PIPE) for _ in range(6)]
    answers = []
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        answers.append(process.stdout.readline().strip())
    assert str(pid) in answers
    assert set(answers) <= {str(pid), "Busy", "NotFound"}
    assert answers.count(str(pid)) == 1
    for process in processes:
        process.communicate("\n", timeout=30)
    assert not tree.is_running(pid)


def test_an_old_owner_that_wakes_up_late_ends_nothing(
    runner: Runner, state: Path, make_owner: Callable[..., Owner]
) -> None:
    """Its fence is old: it can neither end nor record what a new owner has."""
    from tether.ledger.store import Ledger

    pid = keep(runner, state, "sleep 60")
    resource = make_owner("app").adopt("srv")
    ledger = Ledger(state)
    row = ledger.resource(resource.id)
    assert row is not None
    assert row.fence == 2
    assert not ledger.write(resource.id, 1, State.GONE, [("gone", "said by a ghost")])
    assert not ledger.take_over(resource.id, 1, "ghost")
    ledger.close()
    assert tree.is_running(pid)
    resource.kill()


def test_reap_leaves_what_is_kept_unless_told(runner: Runner, state: Path) -> None:
    """Tether reap says that it is kept; with --all it ends it."""
    pid = keep(runner, state, "sleep 60")

    def reap(*more: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "tether", "reap", *more], capture_output=True, text=True, check=True, timeout=60
        ).stdout

    assert "kept" in reap()
    assert tree.is_running(pid)
    assert "ended" in reap("--all")
    assert not tree.is_running(pid)


def test_another_user_gets_nothing(runner: Runner, user_runner: Runner, state: Path) -> None:
    """Neither reads, nor stops, nor adopts: the folder is private, the socket is private, and the uid is checked."""
    pid = keep(runner, state, "echo secret; sleep 60")
    socket = next((state / "run").glob("*.sock"))
    assert socket.lstat().st_mode & 0o777 == 0o600
    # Even if the folders were open, which they are not:
    let_in(state)
    for folder in (state, state / "run"):
        folder.chmod(0o755)
    code = (
        "import socket, sys, os\n"
        "try:\n    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print('connected')\n"
        "except OSError as e: print(type(e).__name__)\n"
        "try: os.kill(int(sys.argv[2]), 15); print('killed')\n"
        "except OSError as e: print(type(e).__name__)\n"
        "try: open(sys.argv[3]); print('read')\n"
        "except OSError as e: print(type(e).__name__)\n"
    )
    with user_runner.popen(code, socket, str(pid), state / "ledger.db") as process:
        assert process.communicate(timeout=30)[0].split() == ["PermissionError"] * 3
    # And a client with the wrong uid that gets through to the socket is hung up on.
    socket.chmod(0o666)
    talk = (
        "import socket, sys\ns = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1])\n"
        "print(s.recv(10))"
    )
    with user_runner.popen(talk, socket) as process:
        assert process.communicate(timeout=30)[0].strip() == "b''"
    assert tree.is_running(pid)
    with Owner("app", state_dir=state) as owner:
        owner.adopt("srv").kill()


def test_who_does_not_speak_the_language_is_hung_up_on(runner: Runner, state: Path) -> None:
    """Garbage, silence, and an old fence; the tree is as it was, and can be adopted."""
    import socket

    from tether.guard import wire

    pid = keep(runner, state, "sleep 60")
    path = str(next((state / "run").glob("*.sock")))
    time.sleep(0.1)
    for packet in (
        b"GET / HTTP/1.0\r\n\r\n",
        b"\xff\xff\xff\x00",
        b"",
        wire.encode(wire.Kind.ADOPT, {"fence": 99, "life": 1}),
        wire.encode(wire.Kind.ADOPT, {}),
    ):
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(5)
            line.connect(path)
            line.sendall(packet)
            line.shutdown(socket.SHUT_WR)
            assert line.recv(10) == b""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(5)
        line.connect(path)
        read, write = os.pipe()
        wire.send(line, wire.Kind.ADOPT, {"fence": 1, "life": 1}, [read])
        received = wire.receive(line)
        os.close(read)
        os.close(write)
        assert received is not None
        assert received[0].kind == wire.Kind.REFUSED
    assert tree.is_running(pid)
    with Owner("app", state_dir=state) as owner:
        assert owner.adopt("srv").pid == pid
        owner.resource("srv").kill()


@pytest.mark.parametrize("point", ["adopt.taken", "adopt.met"])
def test_an_adopter_that_dies_in_the_middle(runner: Runner, state: Path, point: str) -> None:
    """It stays kept, for the next."""
    pid = keep(runner, state, "sleep 60")
    code = "import sys; from tether import Owner; Owner('app', state_dir=sys.argv[1]).adopt('srv')"
    with runner.popen(code, state, env={"TETHER_FAULTS": f"{point}=kill"}) as process:
        assert process.wait(30) == -9
    assert tree.is_running(pid)
    with Owner("app", state_dir=state) as owner:
        assert owner.adopt("srv").pid == pid
        owner.resource("srv").kill()


def test_busy_is_said_by_name(make_owner: Callable[..., Owner]) -> None:
    """Adopting what this owner has itself is no adoption."""
    owner = make_owner("app")
    resource = owner.start(Process(["sleep", "60"], name="srv", on_death="keep"))
    with pytest.raises(Busy):
        owner.start(Process(["sleep", "61"], name="srv", on_death="keep"))
    resource.kill()


def test_what_was_left_to_the_next_owner_is_no_longer_this_ones(make_owner: Callable[..., Owner]) -> None:
    """It says so at once: it is neither killed nor claimed to be, and who waits for it in a thread does not wait for ever."""
    first = make_owner("app")
    kept = first.start(Process(["sleep", "60"], name="kept", on_death="keep"))
    pid, heard, ended = kept.pid, Queue[object](), Queue[str]()
    kept.on_end(lambda: ended.put("ended"))
    begun = threading.Barrier(3)

    def wait(how: Callable[[], object]) -> None:
        begun.wait()
        try:
            heard.put(how())
        except Gone as error:
            heard.put(str(error))

    for how in (kept.wait, lambda: list(kept.lines(follow=True))):
        threading.Thread(target=wait, args=(how,), daemon=True).start()
    begun.wait()
    first.shutdown()
    said = sorted(str(heard.get(timeout=20)) for _ in range(2))
    assert said[0] == "[]"
    assert said[1] == (
        "resource kept was left to the next owner named app when this one was shut down: adopt it there, or end it with "
        "'tether kill app/kept'"
    )
    for method in (kept.kill, kept.stop, kept.restart, kept.wait, partial(kept.send_signal, 15)):
        with pytest.raises(Gone, match="left to the next owner named app"):
            method()
    assert (kept.state, kept.reason) == (State.LOST, "left to the next owner named app")
    assert ended.empty()
    adopted = make_owner("app").adopt("kept")
    assert adopted.pid == pid
    adopted.kill()


def test_what_is_being_stopped_is_not_left(make_owner: Callable[..., Owner]) -> None:
    """A shutdown beside the stop() of what would be kept waits for that."""
    owner = make_owner("app")
    code = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    kept = owner.start(Process(["sh", "-c", code], name="kept", on_death="keep", stop_grace=0.5, ready=log("up")))
    stopping = threading.Thread(target=kept.stop, daemon=True)
    stopping.start()
    eventually(lambda: kept.state is State.STOPPING)
    owner.shutdown()
    assert kept.state is State.GONE
    stopping.join(10)
    assert not stopping.is_alive()


@pytest.mark.parametrize("how", ["adopt", "start"])
def test_what_its_owner_died_starting_is_adopted_or_replaced(
    runner: Runner, state: Path, make_owner: Callable[..., Owner], how: str
) -> None:
    """Its command runs, and its owner died before that was on record: no illegal transition, and its name can be used."""
    with runner.popen(KEEPER, state, "sleep 60", "60", env={"TETHER_FAULTS": "start.spawned=kill"}) as process:
        process.wait(60)
    owner = make_owner("app")
    if how == "adopt":
        resource = owner.adopt("srv")
        assert resource.state is State.STARTING
    else:
        resource = owner.start(Process(["sh", "-c", "sleep 60"], name="srv", on_death="keep", keep_for=60))
        assert resource.state is State.READY
    resource.stop()
    assert resource.info()["state"] == "gone"
