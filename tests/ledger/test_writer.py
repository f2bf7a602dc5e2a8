"""What an owner records of its own: nobody who ends something waits for it, and it is complete in the end."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from interruptions import Interrupted, interrupted
from support import Runner, eventually
from tether import Owner, Process, State
from tether.errors import LedgerError
from tether.ledger import place, proof, writer
from tether.ledger.reading import Reading
from tether.ledger.store import Ledger
from tether.ledger.writer import Writer
from tether.linux import identity
from tether.model import Handle, Identity

ME = identity.identify() or Identity("", 0, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state directory."""
    return place.prepare(tmp_path / "state")


@pytest.fixture
def record(folder: Path) -> Iterator[Writer]:
    """The writer of an owner on record."""
    made = Writer(folder, "o1")
    made.add_owner("app", ME, None)
    yield made
    made.close()


def add(record: Writer, tag: str) -> None:
    """Record a resource."""
    record.add_resource(tag, "o1", f"name-{tag}", "process", {"argv": ["x"]}, "kill", 1.0)


class Blocker:
    """Somebody who holds the ledger."""

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / "ledger.db", isolation_level=None)
        self._db.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        """Let it go."""
        self._db.execute("ROLLBACK")
        self._db.close()


def test_what_is_waited_for_is_on_record(folder: Path, record: Writer) -> None:
    """A start's row when it returns; what nobody waits for soon after, in the order in which it happened."""
    add(record, "r1")
    assert [row.state for row in Reading(folder).resources()] == [State.PENDING]
    record.write("r1", 1, State.STARTING, [("created", "")], handle=Handle("process", "r1", {}))
    record.write("r1", 1, State.READY, [("ready", "")], url="http://x")
    eventually(lambda: [row.state for row in Reading(folder).resources()] == [State.READY])
    assert [event.what for event in record.events()] == ["owner began", "created", "ready"]


def test_ends_do_not_wait_for_who_holds_the_ledger(folder: Path) -> None:
    """stop() of one and shutdown() of twenty do not wait (they took 31 s); the record is complete when it can be written."""
    owner = Owner("app", state_dir=folder)
    first, *_ = [owner.start(Process(["sleep", "60"])) for _ in range(21)]
    blocker = Blocker(folder)
    began = time.monotonic()
    first.stop()
    assert first.state is State.GONE
    assert time.monotonic() - began < 10
    began = time.monotonic()
    owner.shutdown()
    assert time.monotonic() - began < 15
    assert len(Reading(folder).resources()) == 21
    blocker.release()
    eventually(lambda: Reading(folder).resources() == [] and Reading(folder).owners() == [], 20)
    rows = Reading(folder).resources(ended=True)
    assert {row.state for row in rows} == {State.GONE}


ENDS_AND_LEAVES = """
import sys, sqlite3
from tether import Owner, Process
owner = Owner("leaves", state_dir=sys.argv[1])
for _ in range(3): owner.start(Process(["sleep", "60"]))
print("up", flush=True); sys.stdin.readline()
owner.shutdown()
print("over", flush=True)
"""


def test_who_writes_late_is_not_taken_for_dead(folder: Path) -> None:
    """Its hub leaves the record to an owner that lives and still writes it (it said "nothing was found", without exit codes)."""
    owner = Owner("app", state_dir=folder)
    owner.start_all([Process(["sleep", "60"]) for _ in range(5)])
    blocker = Blocker(folder)
    owner.shutdown()
    lives = proof.path(folder, owner.id)
    assert proof.is_held(lives)
    # What the hub executes, once more.
    settler = subprocess.Popen([sys.executable, "-m", "tether.estate", str(folder), owner.id])
    try:
        blocker.release()
        assert settler.wait(60) == 0
    finally:
        settler.kill()
        settler.wait()
    eventually(lambda: not lives.exists())
    assert Reading(folder).owners() == []
    assert [row.exit_code for row in Reading(folder).resources(ended=True)] == [-signal.SIGTERM] * 5
    assert "shut down in order" in {event.detail for event in Reading(folder).events() if event.what == "owner ended"}


@pytest.mark.slow
def test_what_an_owner_that_has_left_could_not_record_is_settled(runner: Runner, folder: Path) -> None:
    """Its process ends while the ledger is held: its hub writes down what it knows when it can. Slow: it waits for the ledger."""
    with runner.popen(ENDS_AND_LEAVES, folder, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        blocker = Blocker(folder)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "over\n"
        process.wait(10)
    blocker.release()
    eventually(lambda: Reading(folder).owners() == [], 30)
    assert Reading(folder).resources() == []


def test_a_start_that_is_refused_leaves_no_row(folder: Path, record: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be recorded in time is not recorded later either."""
    monkeypatch.setattr(writer, "BUSY_S", 0.1)
    blocker = Blocker(folder)
    with pytest.raises(LedgerError, match="another process has held it"):
        add(record, "r1")
    blocker.release()
    add(record, "r2")
    assert [row.id for row in Reading(folder).resources(ended=True)] == ["r2"]


def _remove(folder: Path) -> None:
    for path in folder.glob("ledger.db*"):
        path.unlink()


def _replace(folder: Path) -> None:
    _remove(folder)
    other = Ledger(folder)
    other.add_owner("o2", "neighbour", ME, None)
    other.close()


def _set_aside(folder: Path) -> None:
    for path in list(folder.glob("ledger.db*")):
        path.rename(path.with_name(path.name.replace("ledger.db", "ledger.db.damaged-1")))


@pytest.mark.parametrize("change", [_remove, _replace, _set_aside])
def test_another_file_under_the_name_is_noticed(folder: Path, change: Callable[[Path], None]) -> None:
    """By an owner that does nothing: it and what lives are written anew, what a neighbour wrote stays, and work goes on."""
    with Owner("app", state_dir=folder) as owner:
        resource = owner.start(Process(["sleep", "60"], name="srv"))
        change(folder)
        eventually(lambda: (folder / "ledger.db").exists() and Reading(folder).resources(), 10)
        (row,) = Reading(folder).resources()
        assert (row.id, row.name, row.state, row.handle is not None) == (resource.id, "srv", State.READY, True)
        names = {each.name for each in Reading(folder).owners()}
        assert names == {"app", "neighbour"} if change is _replace else names == {"app"}
        owner.start(Process(["sleep", "60"], name="more"))
        resource.stop()
        assert [each.name for each in Reading(folder).resources()] == ["more"]
    assert len(list(folder.glob("ledger.db.damaged-*"))) == (1 if change is _set_aside else 0) or change is _set_aside
    assert Reading(folder).resources() == []


def test_neighbours_set_damage_aside_once(folder: Path) -> None:
    """Two that have the damaged file open, and meet the damage one after the other: the good new one stays."""
    first, second = Ledger(folder), Ledger(folder)
    first.add_owner("o1", "app", ME, None)
    for name in ("ledger.db", "ledger.db-wal"):
        path = folder / name
        with path.open("r+b") as file:
            size = path.stat().st_size
            file.seek(100 if name == "ledger.db" else 0)
            file.write(b"\xa5" * (size - 100))
    third = None
    for ledger in (first, second, first, second):
        try:
            ledger.add_owner(f"o{time.monotonic_ns()}", "again", ME, None)
        except LedgerError:
            third = third or Ledger(folder)
    assert third is not None
    third.add_owner("o3", "third", ME, None)
    for ledger in (first, second):
        ledger.add_event("o3", None, "third", "seen")
    assert len([path for path in folder.glob("ledger.db.damaged-*") if not path.name.endswith(("-wal", "-shm"))]) == 1
    assert "o3" in {owner.id for owner in Reading(folder).owners()}
    for ledger in (first, second, third):
        ledger.close()


def test_what_is_no_json_spoils_nothing_else(folder: Path, record: Writer) -> None:
    """A driver that returns nonsense is that resource's error; what others recorded with it is written."""
    add(record, "r1")
    add(record, "r2")
    record.write("r1", 1, State.READY, [], handle=Handle("process", "r1", {"x": object()}))
    record.write("r2", 1, State.READY, [("ready", "name \udcff")])
    assert record.flush()
    assert {row.id: row.state for row in Reading(folder).resources()} == {"r1": State.PENDING, "r2": State.READY}
    with pytest.raises(LedgerError, match="can't be recorded"):
        record.add_resource("r3", "o1", "n", "process", {"x": object()}, "kill", 1.0)


def test_steps_of_one_commit_change_its_row_once(folder: Path, record: Writer) -> None:
    """The row is as after the last step, with what only an earlier one said; each event is there, in the order of all of them."""
    add(record, "r1")
    add(record, "r2")
    statements: list[str] = []
    record._ledger.database._current().set_trace_callback(statements.append)

    def end_both() -> None:
        for tag in ("r1", "r2"):
            record.write(tag, 1, State.STOPPING, [("stop", f"of {tag}")], url="http://x")
        for tag in ("r2", "r1"):
            record.write(tag, 1, State.GONE, [("exited", "0"), ("gone", tag)], reason="asked", exit_code=0)
        record.write("r1", 0, State.FAILED, [("failed", "by who had it before")])

    record.at_once(end_both)
    record._ledger.database._current().set_trace_callback(None)
    rows = Reading(folder).resources(ended=True)
    assert [(row.state, row.url, row.reason, row.exit_code) for row in rows] == 2 * [
        (State.GONE, "http://x", "asked", 0)
    ]
    told = [(event.resource, event.what) for event in record.events()]
    assert told[1:] == [
        *(("r1", "stop"), ("r2", "stop")),
        *(("r2", "exited"), ("r2", "gone"), ("r1", "exited"), ("r1", "gone")),
    ]
    # One for each row, and one that found another owner there.
    assert sum(each.startswith("UPDATE resources") for each in statements) == 3
    assert sum(each.startswith("INSERT INTO events") for each in statements) == 1


def test_resources_that_are_entered_together_share_a_commit(folder: Path, record: Writer) -> None:
    """Each is on record when it was waited for, by whoever waits first."""
    statements: list[str] = []
    record._ledger.database._current().set_trace_callback(statements.append)
    waits = [record.enter_resource(f"r{n}", "o1", f"n{n}", "process", {}, "kill", 1.0) for n in range(5)]
    for wait in waits:
        wait()
    record._ledger.database._current().set_trace_callback(None)
    assert [row.id for row in Reading(folder).resources()] == [f"r{n}" for n in range(5)]
    assert sum(each.startswith("COMMIT") for each in statements) == 1


def test_many_threads_share_commits(folder: Path, record: Writer) -> None:
    """Nothing is lost, whoever commits."""

    def work(number: int) -> None:
        for each in range(20):
            add(record, f"{number}-{each}")
            record.write(f"{number}-{each}", 1, State.GONE, [("gone", "")])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert record.flush()
    rows = Reading(folder).resources(ended=True)
    assert len(rows) == 160
    assert {row.state for row in rows} == {State.GONE}
    assert record._known._rows == {}


def test_a_signal_handler_may_record(folder: Path, record: Writer) -> None:
    """One that interrupts a commit of the same thread is not locked out."""
    seen = 0

    def handler(*_: object) -> None:
        nonlocal seen
        seen += 1
        record.add_event("o1", None, "app", "signal")
        record.flush()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for number in range(200):
            add(record, f"r{number}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert record.flush()
    assert seen > 0
    assert len([event for event in record.events() if event.what == "signal"]) == seen
    assert len(Reading(folder).resources()) == 200


def test_old_rows_go_while_an_owner_lives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In small steps, with their logs and receipts, and the file gets smaller."""
    monkeypatch.setattr("tether.ledger.prune._FIRST_ROUND_S", 0.0)
    monkeypatch.setattr("tether.ledger.prune._BETWEEN_STEPS_S", 0.0)
    ledger = Ledger(folder)
    ledger.add_owner("old", "app", ME, None)

    def change(db: sqlite3.Connection) -> None:
        db.executemany(
            "INSERT INTO resources (id, owner, name, kind, state, spec, on_death, keep_for, began, changed) "
            "VALUES (?, 'old', 'it', 'process', 'gone', ?, 'kill', 1, 1, 1)",
            [(f"t{number}", '{"argv": "' + "x" * 500 + '"}') for number in range(3000)],
        )
        db.execute("UPDATE owners SET ended = 1 WHERE id = 'old'")

    ledger.database.transact(change)
    ledger.close()
    for path in (folder / "logs/t7.log", folder / "logs/t7.log.1", folder / "run/t7.ended"):
        path.write_text("x")
    size = (folder / "ledger.db").stat().st_size
    with Owner("app", state_dir=folder) as owner:
        owner.start(Process(["sleep", "60"]))
        eventually(lambda: len(Reading(folder).resources(ended=True)) == 1, 20)
        eventually(lambda: [each.name for each in Reading(folder).owners(ended=True)] == ["app"])
    assert not [*folder.glob("logs/t7*"), *folder.glob("run/t7*")]
    assert (folder / "ledger.db").stat().st_size < size / 2


def test_a_folder_that_is_removed_stays_removed(folder: Path) -> None:
    """An owner that only waits does not fill it again under the hands of who removes it."""
    owner = Owner("app", state_dir=folder)
    owner.start(Process(["sleep", "60"]))
    shutil.rmtree(folder)
    owner.shutdown()
    assert not folder.exists()
    assert sys.exc_info() == (None, None, None)


def test_an_interruption_anywhere_leaves_the_ledger_to_others(record: Writer, folder: Path) -> None:
    """No transaction stays open and no lock held, though the exception is kept, as a notebook does."""
    kept: list[Interrupted] = []
    plan = Handle("process", "r", {})

    def start() -> None:
        tag = f"r{len(kept)}"
        record.add_resource(tag, "o1", tag, "process", {"argv": ["x"]}, "kill", 1.0, plan)
        record.at_once(lambda: record.write(tag, 1, State.READY, [("ready", "")]))

    def flushes() -> bool:
        done: list[bool] = []
        other = threading.Thread(target=lambda: done.append(record.flush()), daemon=True)
        other.start()
        other.join(10)
        return done == [True]

    while (error := interrupted(start, len(kept) + 1)) is not None:
        kept.append(error)
        record.add_event("o1", None, "", f"after {len(kept)}")
        assert flushes()
    said = [event.what for event in Reading(folder).events()]
    assert [what for what in said if what.startswith("after")] == [f"after {n + 1}" for n in range(len(kept))]
    assert len(kept) > 50
    assert [row.state for row in Reading(folder).resources() if row.id == f"r{len(kept)}"] == [State.READY]
