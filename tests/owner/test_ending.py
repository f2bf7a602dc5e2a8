"""Ends that are interrupted, come from a signal handler, or beside a restart; and many starts."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tether
from support import Runner, eventually, survivors
from tether import Gone, Owner, Process, Resource, SpecError, StartError, State
from tether.ledger.reading import Reading
from tether.linux import tree

DEAF = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"]

INTERRUPTED = """
import os, signal, sys, threading, time
import tether
from tether import Owner, Process
owner = Owner("interrupted", state_dir=sys.argv[1])
for _ in range(3):
    owner.start(Process(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"], ready=tether.log("up"), stop_grace=60))
main = threading.main_thread().ident
threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT)).start()
try:
    owner.shutdown()
except KeyboardInterrupt:
    print("interrupted", len(owner.resources), flush=True)
try:
    owner.start(Process(["true"]))
except tether.Gone as error:
    print(error, flush=True)
owner.shutdown(grace=0.2)
print([row.state.value for row in owner.resources], flush=True)
"""


def test_an_interrupted_shutdown_can_be_called_again(runner: Runner) -> None:
    """Ctrl-C in the middle: nothing is started any more, and the second call ends what the first could not."""
    folder = runner.new_folder()
    with runner.popen(INTERRUPTED, folder) as process:
        said = process.communicate(timeout=60)[0].splitlines()
    assert said == ["interrupted 3", "owner interrupted was shut down; make a new one", "[]"]
    assert [row.state for row in Reading(folder).resources(ended=True)] == [State.GONE] * 3
    assert [each.name for each in Reading(folder).owners(ended=True)] == ["interrupted"]


HANDLER = """
import signal, sys
from tether import Owner, Process
owner = Owner("handler", state_dir=sys.argv[1])
def end(signum, frame):
    owner.shutdown(grace=1)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
while True:
    owner.start(Process(["sleep", "60"]))
"""


@pytest.mark.parametrize("after_s", [0.001 * 2**n for n in range(8)])
def test_a_signal_handler_shuts_down_what_it_interrupted(runner: Runner, after_s: float) -> None:
    """Wherever a start is just then: that is ended as well, without a word and without waiting for itself."""
    folder = runner.new_folder()
    with runner.popen(HANDLER, folder, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        time.sleep(after_s)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=20)
    assert (process.returncode, said) == (0, ("", ""))
    eventually(lambda: not survivors(folder))
    eventually(lambda: Reading(folder).resources() == [] and Reading(folder).owners() == [])


def test_two_threads_shut_down(make_owner: Callable[..., Owner]) -> None:
    """The second returns when all has ended, not before."""
    import threading

    owner = make_owner()
    resource = owner.start(Process(DEAF, ready=tether.log("up"), stop_grace=0.5))
    first = threading.Thread(target=owner.shutdown)
    first.start()
    eventually(lambda: resource.state is State.STOPPING)
    owner.shutdown()
    assert resource.state is State.GONE
    first.join()


def test_a_second_shutdown_cuts_no_grace_short(make_owner: Callable[..., Owner]) -> None:
    """Beside one that gives its resources long it gives them no less; who says so himself may."""
    import threading

    def drains(owner: Owner) -> Resource:
        script = "trap 'sleep 3; exit 7' TERM; echo up; while :; do sleep 0.05; done"
        return owner.start(Process(["sh", "-c", script], ready=tether.log("up"), stop_grace=0.2))

    for grace, code in ((None, 7), (0.1, -9)):
        owner = make_owner()
        resource = drains(owner)
        first = threading.Thread(target=owner.shutdown, args=(20,))
        first.start()
        eventually(lambda: resource.state is State.STOPPING)  # noqa: B023
        owner.shutdown(grace=grace)
        first.join()
        assert (resource.state, resource.exit_code) == (State.GONE, code)


def test_many_end_and_their_record_says_how(make_owner: Callable[..., Owner], private_state: Path) -> None:
    """Two hundred, polite ones and deaf ones, asked by one thread: none is left, and each has its exit code."""
    import threading

    owner = make_owner()
    resources = owner.start_all([Process(["sleep", "60"] if n % 20 else DEAF, stop_grace=1) for n in range(200)])
    threads: set[str] = set()
    stop = threading.Event()

    def count() -> None:
        while not stop.wait(0.01):
            threads.update(each.name for each in threading.enumerate())

    counter = threading.Thread(target=count)
    counter.start()
    owner.shutdown()
    stop.set()
    counter.join()
    assert {resource.state for resource in resources} == {State.GONE}
    assert {resource.exit_code for resource in resources} <= {-signal.SIGTERM, -signal.SIGKILL}
    assert [name for name in threads if name.startswith(("tether-stop", "tether-end"))] == []
    assert len(Reading(private_state).resources(ended=True)) == 200


NO_ROOM = """
import resource, sys
from tether import Owner, Process
owner = Owner("full", state_dir=sys.argv[1])
for _ in range(20):
    owner.start(Process(["sleep", "60"]))
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
owner.shutdown()
print(len(owner.resources), flush=True)
"""


def test_all_end_where_no_thread_or_process_can_be_made(user_runner: Runner) -> None:
    """As where pids.max of a container is reached."""
    folder = user_runner.new_folder()
    with user_runner.popen(NO_ROOM, folder, stderr=subprocess.PIPE) as process:
        said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, ("0\n", ""))
    assert [row.state for row in Reading(folder).resources(ended=True)] == [State.GONE] * 20


CRASHED = """
import os, resource, signal, sys, time
import tether
from tether import Owner, Process, State
owner = Owner("full", state_dir=sys.argv[1])
server = owner.start(Process(["sh", "-c", "sleep 60 & echo up; wait"], ready=tether.log("up")))
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
os.kill(server.pid, signal.SIGKILL)
server.wait(20)
print(server.state.value, server.exit_code, server.pids(), flush=True)
"""


def test_what_a_server_leaves_ends_where_no_thread_can_be_made(user_runner: Runner) -> None:
    """Its command was killed, and its helper is asked by the thread that heard of that."""
    folder = user_runner.new_folder()
    with user_runner.popen(CRASHED, folder, stderr=subprocess.PIPE) as process:
        said = process.communicate(timeout=60)
    assert said[0] == "failed -9 []\n", said


def test_a_restart_keeps_its_port(owner: Owner) -> None:
    """Whoever has the url goes on with it; the same server answers there again."""
    server = owner.start(
        Process(["python3", "-u", "-m", "http.server", "{port}", "--bind", "127.0.0.1"], ready=tether.tcp())
    )
    url, pid = server.url, server.pid
    server.restart()
    assert server.url == url
    assert server.pid != pid


def test_a_restart_refuses_before_it_ends(owner: Owner, tmp_path: Path) -> None:
    """What can't be started again goes on, under its pid."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nsleep 60 & wait\n")
    program.chmod(0o755)
    folder = tmp_path / "folder"
    folder.mkdir()
    for spec, remove in (
        (Process([program], name="program"), program.unlink),
        (Process(["sleep", "60"], cwd=folder, name="folder"), folder.rmdir),
    ):
        resource = owner.start(spec)
        pid = resource.pid
        remove()
        with pytest.raises(FileNotFoundError):
            resource.restart()
        assert (resource.state, resource.pid) == (State.READY, pid)


def test_who_follows_a_life_does_not_follow_the_next(owner: Owner) -> None:
    """A restart is the end of the life that was followed, and of the wait for it, with its exit code."""
    import asyncio

    from tether import aio

    job = owner.start(Process(["sh", "-c", "echo up; sleep 60"], ready=tether.log("up")))
    found: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        following = pool.submit(lambda: found.extend(job.lines(follow=True)))
        waiting = pool.submit(lambda: asyncio.run(aio.Resource(job).wait()))
        eventually(lambda: found or following.running())
        time.sleep(0.2)
        job.restart()
        following.result(20)
        assert waiting.result(20) == -signal.SIGTERM
    assert found[0] == "up"
    assert job.state is State.READY


def test_what_was_adopted_by_its_name_is_not_restarted(make_owner: Callable[..., Owner]) -> None:
    """Its command is not on record in full."""
    first = make_owner("app")
    first.start(Process(["sleep", "60"], name="kept", on_death="keep", keep_for=60))
    first.shutdown()
    resource = make_owner("app").adopt("kept")
    with pytest.raises(SpecError, match="start it with its spec"):
        resource.restart()
    assert resource.state is State.READY
    resource.stop()


def test_a_fork_says_at_once_that_it_can_do_nothing(owner: Owner) -> None:
    """It neither waits for what it can't hear of, nor says that it is ready."""
    resource = owner.start(Process(["sleep", "60"]))
    watching = owner.watch()
    pid = os.fork()
    if pid == 0:
        # What waits for ever ends the fork, and fails this.
        signal.alarm(60)
        status = 1
        try:
            assert resource.state is State.LOST
            assert "a fork of its owner" in resource.reason
            methods: tuple[Callable[[], object], ...] = (
                *(resource.stop, resource.kill, resource.wait, resource.restart, resource.resume, resource.communicate),
                lambda: resource.send_signal(signal.SIGTERM),
                lambda: resource.on_end(print),
                lambda: resource.lines(follow=True),
            )
            for method in methods:
                with pytest.raises(Gone, match="the parent process's"):
                    method()
            assert list(watching) == list(owner.watch()) == []
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert resource.state is State.READY
    resource.kill()
    assert watching.next(10) is not None


def test_a_second_owner_of_a_name_is_said(make_owner: Callable[..., Owner]) -> None:
    """As when a notebook's cell is run again: what the first one has is easily forgotten. Or it is shut down for the second."""
    first = make_owner("app")
    make_owner("app")
    resource = first.start(Process(["sleep", "60"]))
    make_owner("other")
    with pytest.warns(RuntimeWarning, match=r"<Owner app .*1 resource.* goes on.*replace=True"):
        make_owner("app")
    assert resource.state is State.READY
    make_owner("app", replace=True)
    assert [resource.state] == [State.GONE]
    with pytest.raises(Gone):
        first.start(Process(["true"]))


# -- many starts -------------------------------------------------------------------------------------------------------


def test_start_all_goes_by_needs(owner: Owner, tmp_path: Path) -> None:
    """In whatever order they are given; they are returned in that order."""

    def telling(name: str, *needs: str) -> Process:
        script = f"sleep 0.1; echo {name} >> order; echo up; sleep 60"
        return Process(["sh", "-c", script], name=name, needs=needs, cwd=tmp_path, ready=tether.log("up"))

    resources = owner.start_all([telling("api", "db", "cache"), telling("cache", "db"), telling("db")])
    assert [resource.name for resource in resources] == ["api", "cache", "db"]
    assert (tmp_path / "order").read_text().split() == ["db", "cache", "api"]


def test_start_all_is_all_or_nothing(owner: Owner) -> None:
    """One that does not come up takes the others along; its error says what else went wrong."""
    fails = Process(["sh", "-c", "sleep 0.2; exit 3"], name="fails", ready=tether.log("up"))
    before = set(tree.descendants(os.getpid()))
    with pytest.raises(StartError, match="cannot start fails: .*exit code 3"):
        owner.start_all([Process(["sleep", "60"], name=f"job-{n}") for n in range(10)] + [fails])
    assert owner.resources == []
    eventually(lambda: set(tree.descendants(os.getpid())) <= before)


def test_start_all_of_many(owner: Owner) -> None:
    """More than are started in step at once, beside one with a probe: each is on record and told of, and no shim is left over."""
    told: list[str] = []
    specs = [Process(["sleep", "60"], name=f"job-{n}") for n in range(70)]
    specs.append(Process(["sh", "-c", "echo up; sleep 60"], name="probed", ready=tether.log("up")))
    resources = owner.start_all(specs, held=lambda resource: told.append(resource.name))
    assert [resource.name for resource in resources] == [spec.name for spec in specs]
    assert sorted(told) == sorted(str(spec.name) for spec in specs)
    assert {row.name: row.state for row in Reading(owner.state_dir).resources()} == dict.fromkeys(told, State.READY)
    shims = tree.children(owner.status()["hub"])
    eventually(lambda: len([pid for pid in shims if not tree.children(pid)]) <= 2)
    owner.shutdown()
    ended = Reading(owner.state_dir).resources(ended=True)
    assert {row.state for row in ended} == {State.GONE}


def test_start_all_goes_on_with_another_guard(owner: Owner) -> None:
    """The hub is killed in the middle of the starts in step."""
    owner.start(Process(["sleep", "60"]))
    hub = int(owner.status()["hub"])
    count = 0

    def kill_hub(_: object) -> None:
        nonlocal count
        count += 1
        if count == 3:
            os.kill(hub, signal.SIGKILL)

    resources = owner.start_all([Process(["sleep", "60"]) for _ in range(40)], held=kill_hub)
    assert {resource.state for resource in resources} == {State.READY}
    assert owner.status()["hub"] != hub


def test_one_that_can_not_be_executed_takes_the_others_in_step_along(owner: Owner) -> None:
    """Of those that were being created just then nothing is left, and each is on record as ended."""
    specs = [Process(["sleep", "60"], name=f"job-{n}") for n in range(20)]
    specs.insert(10, Process(["/no/such/program"], name="missing"))
    before = set(tree.descendants(os.getpid()))
    with pytest.raises(FileNotFoundError, match="/no/such/program"):
        owner.start_all(specs)
    assert owner.resources == []
    assert Reading(owner.state_dir).resources() == []
    eventually(lambda: set(tree.descendants(os.getpid())) <= before)
    hub = owner.status()["hub"]
    eventually(lambda: all(not tree.children(shim) for shim in tree.children(hub)))
    assert owner.start(Process(["true"])).wait(10) == 0


def test_start_all_refuses_before_it_starts(owner: Owner, private_state: Path) -> None:
    """Two of one name; a circle."""
    with pytest.raises(SpecError, match="two of these are called it"):
        owner.start_all([Process(["true"], name="it"), Process(["true"], name="it")])
    with pytest.raises(SpecError, match="circle: a, b"):
        owner.start_all([Process(["true"], name="a", needs=["b"]), Process(["true"], name="b", needs=["a"])])
    assert Reading(private_state).resources(ended=True) == []


def test_start_all_waits_for_nothing_once_one_has_failed(owner: Owner) -> None:
    """What comes up slowly is killed at once, whatever its probe would wait; what was adopted stays."""
    fails = Process(["sh", "-c", "sleep 0.3; exit 3"], name="fails", ready=tether.log("up"))
    slow = Process(DEAF, name="slow", ready=tether.log("never", timeout=100), stop_grace=100)
    with pytest.raises(StartError, match="cannot start fails"):
        owner.start_all([slow, fails, Process(["sleep", "60"], name="waits", needs=["slow"])])
    assert owner.resources == []


MANY = """
import os, signal, sys
import tether
from tether import Owner, Process
owner = Owner("many", state_dir=sys.argv[1])
def end(signum, frame):
    if sys.argv[2] == "shutdown":
        owner.shutdown(grace=1)
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, end)
slow = Process(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"], ready=tether.log("never", timeout=100), stop_grace=100)
try:
    # One write, since they are held side by side, and print() is two where Python doesn't buffer.
    owner.start_all([Process(["sleep", "60"]), slow, Process(["sleep", "60"])], held=lambda resource: os.write(1, b"on record\\n"))
except KeyboardInterrupt:
    print("interrupted", owner.resources, flush=True)
"""


@pytest.mark.parametrize("how", ["alone", "shutdown"])
def test_an_interrupted_start_of_many_leaves_nothing(runner: Runner, how: str) -> None:
    """By Ctrl-C, and by a signal handler that shuts down: what is still starting is killed, not waited for."""
    folder = runner.new_folder()
    with runner.popen(MANY, folder, how, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == ["on record\n"] * 3
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, ("interrupted []\n", ""))
    eventually(lambda: Reading(folder).resources() == [])


def test_start_all_leaves_what_was_adopted(make_owner: Callable[..., Owner]) -> None:
    """It was not begun there, so it is not ended there."""
    kept = Process(["sleep", "60"], name="kept", on_death="keep", keep_for=60)
    first = make_owner("app")
    pid = first.start(kept).pid
    first.shutdown()
    second = make_owner("app")
    with pytest.raises(FileNotFoundError):
        second.start_all([kept, Process(["no-such-program"], needs=["kept"])])
    assert [(each.name, each.pid) for each in second.resources] == [("kept", pid)]
    second.resource("kept").kill()
