"""Ctrl-C anywhere in starts and ends: nothing is left that nobody knows of, no lock is held, and what was asked for can be asked again."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from interruptions import interrupted
from support import eventually
from tether import LedgerError, Owner, Process, Resource, State, TetherError
from tether.ledger.reading import Reading
from tether.linux import proc, tree

EVERY = int(os.environ.get("TETHER_EVERY", "61"))
"""Each so many-th call is interrupted; 1 takes minutes."""


def calls(every: int = EVERY) -> Iterator[int]:
    """Which calls are interrupted: a prime apart, so that loops are met at each of their steps."""
    return iter(range(1, 100_000, every))


def alive(mark: str) -> list[int]:
    """Processes with this on their command line."""
    found = []
    for pid in proc.all_pids():
        try:
            if mark.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and tree.is_running(pid):
                found.append(pid)
        except OSError:
            continue
    return found


def elsewhere(work: Callable[[], object]) -> None:
    """Do it in another thread, which a lock that is held would stop."""
    said: list[BaseException | None] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            said.append(error)
        else:
            said.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert said == [None]


def use(owner: Owner, name: str, mark: str) -> None:
    """Start and end something of this name."""
    owner.start(Process(["sleep", mark], name=name)).kill()


@pytest.mark.slow
def test_an_interrupted_start_leaves_nothing(make_owner: Callable[..., Owner]) -> None:
    """No process, no name, no lock. Slow: a start for each call."""
    owner = make_owner()
    mark = f"61.{os.getpid()}"
    count = 0
    for after in calls():
        if interrupted(lambda: owner.start(Process(["sleep", mark], name="it")), after) is None:
            break
        count += 1
        eventually(lambda: not owner.resources and not alive(mark), what=f"after {after} calls nothing is left")
        elsewhere(lambda: use(owner, "it", mark))
    assert count > 10


@pytest.mark.slow
def test_an_interrupted_stop_can_be_asked_again(make_owner: Callable[..., Owner]) -> None:
    """Slow: a start and a stop for each call."""
    owner = make_owner()
    mark = f"62.{os.getpid()}"
    count = 0
    for after in calls((EVERY + 4) // 5):
        resource = owner.start(Process(["sleep", mark], name="it", stop_grace=1))
        done = interrupted(resource.stop, after) is None
        elsewhere(resource.stop)
        assert (resource.state.is_final, owner.resources, alive(mark)) == (True, [], [])
        if done:
            break
        count += 1
    assert count > 5


@pytest.mark.slow
def test_an_interrupted_restart_leaves_what_is_said(make_owner: Callable[..., Owner]) -> None:
    """It runs and is live, or has ended and its name is free. Slow: a start for each call."""
    owner = make_owner()
    mark = f"63.{os.getpid()}"
    count = 0
    for after in calls():
        resource = owner.start(Process(["sleep", mark], name="it", stop_grace=1))
        done = interrupted(resource.restart, after) is None

        def is_settled(resource: Resource = resource) -> bool:
            return (len(owner.resources), len(alive(mark))) == ((0, 0) if resource.state.is_final else (1, 1))

        eventually(is_settled, what=f"after {after} calls it is as it is said")
        elsewhere(resource.stop)
        elsewhere(lambda: use(owner, "it", mark))
        assert alive(mark) == []
        if done:
            break
        count += 1
    assert count > 10


@pytest.mark.slow
def test_an_interrupted_shutdown_goes_on_anywhere(tmp_path: Path) -> None:
    """The second call ends what is left, lets go of everything, and the record says so. Slow: an owner for each call."""
    mark = f"64.{os.getpid()}"
    count = 0
    for after in calls():
        owner = Owner("interrupted", state_dir=tmp_path)
        owner.start(Process(["sleep", mark], name="it", stop_grace=1))
        hub = owner.status()["hub"]
        done = interrupted(owner.shutdown, after) is None
        elsewhere(owner.shutdown)
        assert alive(mark) == []
        eventually(lambda: not tree.is_running(hub), what=f"after {after} calls the hub ends")  # noqa: B023
        assert [each.id for each in Reading(tmp_path).owners()] == []
        assert [each.id for each in Reading(tmp_path).resources()] == []
        assert not [each for each in threading.enumerate() if each.name == "tether-interrupted"]
        if done:
            break
        count += 1
    assert count > 10


def test_a_shutdown_from_a_handler_waits_for_no_other_thread(make_owner: Callable[..., Owner]) -> None:
    """Another thread shuts down, and waits for the start that the handler interrupted: the handler's ends what is left by itself."""
    owner = make_owner()
    other = owner.start(Process(["sleep", "60"], name="other"))
    first = threading.Thread(target=owner.shutdown, daemon=True)

    def handle(resource: Resource) -> None:
        first.start()
        eventually(lambda: resource.state is State.STOPPING)
        owner.shutdown()
        assert other.state is State.GONE
        # It could not have ended: it waits for this very thread.
        assert first.is_alive()

    with pytest.raises(TetherError):
        owner.start(Process(["sleep", "60"], name="it"), held=handle)
    first.join(30)
    assert not first.is_alive()
    assert owner.resources == []


def test_a_shutdown_from_a_handler_ends_what_it_holds(make_owner: Callable[..., Owner]) -> None:
    """It interrupted the thread where that holds the resource, so that nobody else can tell of its end, while another shuts down."""
    owner = make_owner()
    resource = owner.start(Process(["sleep", "60"], name="it"))
    first = threading.Thread(target=owner.shutdown, daemon=True)
    with resource._managed.lock:
        first.start()
        eventually(lambda: owner._is_closing)
        owner.shutdown()
        assert resource.state is State.GONE
    first.join(30)
    assert not first.is_alive()


def test_a_restart_that_cannot_be_recorded_ends_nothing(
    make_owner: Callable[..., Owner], private_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else holds the ledger: the error says so, and the resource goes on; it is restarted when he lets go."""
    monkeypatch.setattr("tether.ledger.writer.BUSY_S", 0.2)
    owner = make_owner()
    resource = owner.start(Process(["sleep", "60"], name="it"))
    pid = resource.pid
    holder = sqlite3.connect(private_state / "ledger.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError):
        resource.restart()
    assert (resource.state, resource.pid) == (State.READY, pid)
    holder.execute("ROLLBACK")
    holder.close()
    resource.restart()
    assert resource.state is State.READY
    assert resource.pid != pid
