"""The ledger: durable, private, shared by many processes, and never in the way."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from support import Runner
from tether import Owner, Process, State
from tether.errors import Busy, LedgerError, StateDirError, TetherError
from tether.ledger import place, prune
from tether.ledger.schema import MIGRATIONS
from tether.ledger.store import Ledger
from tether.linux import identity
from tether.model import Handle, Identity

ME = identity.identify() or Identity("", 0, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state directory."""
    return place.prepare(tmp_path / "state")


def add(ledger: Ledger, tag: str, owner: str = "o1") -> None:
    """Record a resource."""
    ledger.add_resource(tag, owner, f"name-{tag}", "process", {"argv": ["x"]}, "kill", 1.0)


def test_what_is_written_is_read_back(folder: Path) -> None:
    """Owners, resources with their handles, and events, in order."""
    ledger = Ledger(folder)
    ledger.add_owner("o1", "app", ME, "/cg")
    add(ledger, "r1")
    handle = Handle("process", "r1", {"main": [1, 2]}, 3)
    assert ledger.write("r1", 1, State.READY, [("created", ""), ("ready", "x")], url="http://x", handle=handle)
    assert ledger.write("r1", 1, State.STOPPING, [("stop", "why")], reason="why")
    other = Ledger(folder)
    (row,) = other.resources("o1")
    assert (row.state, row.reason, row.url, row.handle, row.fence) == (State.STOPPING, "why", "http://x", handle, 1)
    assert row.spec == {"argv": ["x"]}
    assert [(event.what, event.detail) for event in other.events() if event.resource] == [
        ("created", ""),
        ("ready", "x"),
        ("stop", "why"),
    ]
    assert other.owner("o1") == other.owners()[0]
    assert [event.what for event in other.events(last=1)] == ["stop"]
    ledger.write("r1", 1, State.GONE, [("gone", "")])
    ledger.end_owner("o1", "in order")
    ledger.end_owner("o1", "twice")
    assert (other.resources(), other.owners(), len(other.owners(ended=True))) == ([], [], 1)
    ledger.close()
    other.close()


def test_claims_are_exclusive(folder: Path) -> None:
    """Whoever comes second does not get it, unless the first is known to be dead."""
    ledger = Ledger(folder)
    ledger.add_owner("o1", "app", ME, None)
    assert ledger.claim("o1", "a", None)
    assert not ledger.claim("o1", "b", None)
    assert ledger.claim("o1", "b", "a")
    ledger.unclaim("o1", "a")
    assert not ledger.claim("o1", "c", None)
    ledger.unclaim("o1", "b")
    assert ledger.claim("o1", "c", None)
    ledger.close()


WRITER = """
import sys
from pathlib import Path
from tether.ledger.store import Ledger
from tether.model import State
ledger = Ledger(Path(sys.argv[1]))
for number in range(50):
    tag = f"{sys.argv[2]}-{number}"
    ledger.add_resource(tag, "o1", tag, "process", {}, "kill", 1.0)
    assert ledger.write(tag, 1, State.READY, [("ready", "")])
"""


def test_many_processes_write_at_once(folder: Path) -> None:
    """Nothing is lost, and nobody has to try again."""
    ledger = Ledger(folder)
    ledger.add_owner("o1", "app", ME, None)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(number)]) for number in range(4)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    assert len(ledger.resources("o1")) == 200
    ledger.close()


def _scramble(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def _truncate(path: Path) -> None:
    os.truncate(path, 1500)


def _garble_pages(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_scramble, _truncate, _garble_pages])
def test_a_damaged_ledger_is_set_aside_by_name(folder: Path, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The owner begins with a new one, and says where the old one is."""
    with Owner("before", state_dir=folder) as owner:
        for _ in range(5):
            owner.start(Process(["true"])).wait(10)
    for suffix in ("-wal", "-shm"):
        Path(f"{folder}/ledger.db{suffix}").unlink(missing_ok=True)
    damage(folder / "ledger.db")
    with caplog.at_level(logging.ERROR, "tether"), Owner("after", state_dir=folder) as owner:
        assert owner.start(Process(["true"])).wait(10) == 0
    (aside,) = [path for path in folder.glob("ledger.db.damaged-*") if path.suffix == path.suffix.rstrip("-walshm")]
    assert str(aside) in caplog.text


def test_damage_while_running_stops_no_cleanup(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What runs is ended all the same; a new start is refused and says why."""
    owner = Owner("app", state_dir=folder)
    resource = owner.start(Process(["sleep", "60"]))
    for path in folder.glob("ledger.db*"):
        path.write_bytes(os.urandom(8192))
    with pytest.raises(LedgerError, match=r"ledger .*ledger.db"):
        owner.start(Process(["sleep", "60"]))
    resource.stop()
    assert resource.state is State.GONE
    owner.shutdown()


def test_a_state_directory_that_is_removed_while_running(folder: Path) -> None:
    """Starts are refused with a reason, ends work."""
    import shutil

    owner = Owner("app", state_dir=folder)
    resource = owner.start(Process(["sleep", "60"]))
    shutil.rmtree(folder)
    with pytest.raises((LedgerError, StateDirError)):
        owner.start(Process(["sleep", "60"]))
    resource.stop()
    assert resource.state is State.GONE
    owner.shutdown()


def test_a_newer_schema_is_refused(folder: Path) -> None:
    """Never guessed, never set aside: a newer tether is using it."""
    Ledger(folder).close()
    with sqlite3.connect(folder / "ledger.db") as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(LedgerError, match="written by a newer one; upgrade tether"):
        Owner("app", state_dir=folder)
    assert list(folder.glob("*.damaged-*")) == []


def test_an_older_schema_is_migrated(folder: Path) -> None:
    """From version 0, an empty file, on; every migration is run once, also by two at a time."""
    openers = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from pathlib import Path; from tether.ledger.store import Ledger; Ledger(Path(sys.argv[1]))",
                str(folder),
            ]
        )
        for _ in range(4)
    ]
    assert [opener.wait(60) for opener in openers] == [0, 0, 0, 0]


def test_a_ledger_that_is_locked_for_long_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds it is for the user to find; what runs is ended all the same."""
    from tether.ledger import writer

    monkeypatch.setattr(writer, "BUSY_S", 0.2)
    owner = Owner("app", state_dir=folder)
    resource = owner.start(Process(["sleep", "60"]))
    blocker = sqlite3.connect(folder / "ledger.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="another process has held it"):
        owner.start(Process(["sleep", "60"]))
    resource.kill()
    assert resource.state is State.GONE
    blocker.execute("ROLLBACK")
    blocker.close()
    owner.shutdown()


def fill(path: Path) -> None:
    """Leave no room."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def start_many(owner: Owner) -> None:
    """Start until the ledger needs room."""
    for _ in range(200):
        owner.start(Process(["true"]))


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """On a real file system without room: starts are refused, ends work."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)], check=True)
    try:
        owner = Owner("app", state_dir=small / "state")
        resource = owner.start(Process(["sleep", "60"]))
        filler = small / "filler"
        fill(filler)
        with pytest.raises(LedgerError, match=r"full|disk I/O"):
            start_many(owner)
        resource.kill()
        assert resource.state is State.GONE
        filler.unlink()
        owner.shutdown()
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("name", ["ledger.db", "guard.log", "key"])
def test_a_planted_link_is_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    """A symbolic link in the place of a file of ours."""
    target = tmp_path / "target"
    target.write_text("precious")
    (folder / name).symlink_to(target)
    with contextlib.suppress(TetherError, OSError), Owner("app", state_dir=folder) as owner:
        owner.start(Process(["true"], name="it", on_death="keep"))
        pytest.fail("a link was taken for the file")
    assert target.read_text() == "precious"


def test_old_records_and_logs_go(folder: Path) -> None:
    """What ended over two weeks ago is forgotten, with its log."""
    with Owner("app", state_dir=folder) as owner:
        resource = owner.start(Process(["echo", "x"]))
        resource.wait(10)
        log = Path(resource.info()["log"])
    with sqlite3.connect(folder / "ledger.db") as db:
        db.execute("UPDATE resources SET changed = 0")
        db.execute("UPDATE owners SET ended = 1")
    db.close()
    assert log.exists()
    Owner("app", state_dir=folder).shutdown()
    assert not log.exists()
    ledger = Ledger(folder)
    assert ledger.resources(ended=True) == []
    ledger.close()


class Machine(RuleBasedStateMachine):
    """Two connections, any order of writes and adoptions: what is read is what was written last by who has the fence."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        path = place.prepare(Path(self.folder.name) / "state")
        self.ledgers = [Ledger(path), Ledger(path)]
        self.ledgers[0].add_owner("o1", "app", ME, None)
        self.ledgers[0].add_owner("o2", "app", ME, None)
        self.rows: dict[str, tuple[State, int, str]] = {}

    @rule(which=st.integers(0, 1))
    def add(self, which: int) -> None:
        tag = f"r{len(self.rows)}"
        add(self.ledgers[which], tag)
        self.rows[tag] = (State.PENDING, 1, "o1")

    @rule(which=st.integers(0, 1), number=st.integers(0, 5), fence=st.integers(1, 3), state=st.sampled_from(State))
    def write(self, which: int, number: int, fence: int, state: State) -> None:
        tag = f"r{number}"
        written = self.ledgers[which].write(tag, fence, state, [("x", "")])
        assert written == (tag in self.rows and self.rows[tag][1] == fence)
        if written:
            self.rows[tag] = (state, *self.rows[tag][1:])

    @rule(which=st.integers(0, 1), number=st.integers(0, 5), fence=st.integers(1, 3))
    def take_over(self, which: int, number: int, fence: int) -> None:
        tag = f"r{number}"
        taken = self.ledgers[which].take_over(tag, fence, "o2")
        assert taken == (tag in self.rows and self.rows[tag][1] == fence)
        if taken:
            self.rows[tag] = (self.rows[tag][0], fence + 1, "o2")

    @invariant()
    def both_read_the_same(self) -> None:
        for ledger in self.ledgers:
            rows = {row.id: (row.state, row.fence, row.owner) for row in ledger.resources(ended=True)}
            assert rows == self.rows
            assert {row.id for row in ledger.resources()} == {
                tag for tag, row in self.rows.items() if not row[0].is_final
            }

    def teardown(self) -> None:
        for ledger in self.ledgers:
            ledger.close()
        self.folder.cleanup()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


@given(st.text(max_size=20))
@settings(max_examples=30, deadline=None)
def test_any_text_can_be_an_event(text: str) -> None:
    """Whatever a plugin or program says."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(place.prepare(Path(folder) / "state"))
        ledger.add_owner("o1", "app", ME, None)
        ledger.add_event("o1", None, "app", "said", text)
        assert ledger.events()[-1].detail == text
        ledger.close()


OPENING = """
import os, sys, time
from pathlib import Path
from tether.ledger.store import Ledger
folder, at = Path(sys.argv[1]), float(sys.argv[2])
for number in range(20):
    each = folder / str(number)
    time.sleep(max(0.0, at + 0.03 * number - time.time()))
    Ledger(each).close()
print("ok")
"""


def test_a_new_ledger_is_opened_by_many_at_once(runner: Runner, tmp_path: Path) -> None:
    """None is told that it is locked."""
    for number in range(20):
        place.prepare(tmp_path / str(number))
    at = time.time() + 1.0
    openers = [runner.popen(OPENING, tmp_path, str(at)) for _ in range(6)]
    assert [opener.communicate(timeout=60)[0] for opener in openers] == ["ok\n"] * 6


def test_lives_are_numbered(folder: Path) -> None:
    """A restart begins another life; who has been replaced begins none."""
    ledger = Ledger(folder)
    ledger.add_owner("o1", "app", ME, None)
    add(ledger, "r1")
    assert [row.life for row in ledger.resources()] == [1]
    assert [ledger.begin_life("r1", 1), ledger.begin_life("r1", 1)] == [2, 3]
    assert ledger.take_over("r1", 1, "o2")
    with pytest.raises(Busy, match="another owner"):
        ledger.begin_life("r1", 1)
    (row,) = ledger.resources()
    assert (row.life, row.fence) == (3, 2)
    ledger.close()


def test_a_ledger_of_the_first_schema_is_brought_up_to_date(folder: Path) -> None:
    """What was written before lives were counted is in its first."""
    with sqlite3.connect(folder / "ledger.db") as db:
        for statement in MIGRATIONS[0]:
            db.execute(statement)
        db.execute("PRAGMA user_version=1")
        db.execute("INSERT INTO owners VALUES ('o1', 'app', 'boot', 1, 2, 3, NULL, 4.0, NULL, NULL)")
        db.execute(
            "INSERT INTO resources VALUES ('r1', 'o1', 'n', 'process', 'ready', '', NULL, NULL, '{}', NULL, 'kill', 1, 1, 4, 4)"
        )
    db.close()
    ledger = Ledger(folder)
    assert [(row.id, row.life) for row in ledger.resources()] == [("r1", 1)]
    ledger.close()


def test_what_has_not_ended_is_found_by_an_index(folder: Path) -> None:
    """However much has ended: no query that every owner, sweep and 'ps' makes looks at each row."""
    assert {state.value for state in State if state.is_final} == {"gone", "failed"}
    ledger = Ledger(folder)
    db = ledger.database._db
    assert db is not None
    planned: list[str] = []
    db.set_trace_callback(planned.append)
    ledger.owners()
    ledger.resources()
    ledger.resources("o1")
    ledger.kept("app", "name")
    ledger.events(owner="o1", last=5)
    ledger.claim("o1", "me", None)
    ledger.kept("app", "name", ended=True)
    ledger.named("name")
    ledger.named("name", "app")
    ledger.owners_by_id(["o1"])
    ledger.resource("r1")
    ledger.events(of=(["r1"], ["o1"]))
    ledger.resources_of(["o1"])
    prune._step(ledger, folder, 5.0)
    db.set_trace_callback(None)
    for query in planned:
        if query.startswith(("SELECT", "UPDATE", "DELETE")):
            steps = [row["detail"] for row in db.execute(f"EXPLAIN QUERY PLAN {query}")]
            assert not [step for step in steps if re.match(r"SCAN \w+(?! USING INDEX)$", step)], (query, steps)
    assert len(planned) > 7
    ledger.close()
