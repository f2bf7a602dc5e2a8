"""Reading changes nothing: what only looks creates, chmods and writes nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
from pathlib import Path

import pytest

from commandline import tether
from support import Runner, eventually
from tether import Owner, Process
from tether.ledger import place
from tether.ledger.store import Ledger

READERS = [
    "ps", "ps -a", "ps -q", "ps -w --json", "tree", "tree --json", "events", "logs it", "stats", "inspect it", "where", "where it",
    "reap --dry-run", "reap --install", "prune --dry-run", "doctor --json", "__complete stop i",
]  # fmt: skip


def _snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_size)
    return found


@pytest.mark.parametrize("command", [each for each in READERS if " it" not in each])
def test_a_state_directory_that_is_not_there_is_not_made(private_state: Path, command: str) -> None:
    """Nor anything above it."""
    before = _snapshot(private_state.parent)
    tether(*command.split())
    assert _snapshot(private_state.parent) == before


@pytest.mark.parametrize("command", [each for each in READERS if " it" not in each])
def test_nothing_is_made_in_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Where the state directory would be, and the caches of the clients that are asked."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in [name for name in os.environ if name.startswith("XDG_") or name == "TETHER_STATE_DIR"]:
        monkeypatch.delenv(name)
    tether(*command.split())
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("command", READERS)
def test_nothing_of_a_living_owner_is_changed(owner: Owner, private_state: Path, command: str) -> None:
    """Not even the mode of a directory that is open to others, which the next owner makes private."""
    resource = owner.start(Process(["sh", "-c", "echo up; sleep 60"], name="it"))
    eventually(lambda: resource.logs() == "up\n")
    private_state.chmod(0o755)
    before = _snapshot(private_state)
    tether(*command.split())
    assert _snapshot(private_state) == before


@pytest.mark.parametrize("companion", ["", "-shm"])
def test_what_a_dead_owner_wrote_last_is_read(runner: Runner, private_state: Path, companion: str) -> None:
    """It is in the log of writes only; read where nobody keeps the index of that, and where somebody removed it."""
    place.prepare(private_state)
    code = (
        "import os; from pathlib import Path; from tether.ledger.store import Ledger; from tether.linux import identity\n"
        f"ledger = Ledger(Path({str(private_state)!r})); ledger.add_owner('o', 'dead', identity.identify(), None)\n"
        "ledger.add_resource('cafe1234', 'o', 'it', 'process', {}, 'kill', 0); print('up', flush=True)\n"
        f"os.kill(os.getpid(), {int(signal.SIGKILL)})"
    )
    with runner.popen(code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
    if companion:
        (private_state / f"ledger.db{companion}").unlink()
    before = _snapshot(private_state)
    assert tether("ps", "-q") == "cafe1234\n"
    assert "orphaned" in tether("ps", "--wide")
    assert _snapshot(private_state) == before


def test_a_damaged_ledger_is_left_for_whoever_writes(private_state: Path) -> None:
    """It is said in a line, and nothing is set aside."""
    place.prepare(private_state)
    (private_state / "ledger.db").write_bytes(b"no database" * 1000)
    before = _snapshot(private_state)
    assert "ledger.db can't be read" in tether("ps", code=1)
    assert _snapshot(private_state) == before


def test_a_ledger_of_a_newer_tether_is_refused(private_state: Path) -> None:
    """With what to do."""
    Ledger(place.prepare(private_state)).close()
    database = sqlite3.connect(private_state / "ledger.db")
    database.execute("PRAGMA user_version=999")
    database.close()
    assert "upgrade tether" in tether("ps", code=1)


def test_the_ledger_of_another_user_can_be_said_to_be_unreadable(
    user_runner: Runner, owner: Owner, private_state: Path
) -> None:
    """No traceback, and not an empty table."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    import subprocess

    done = subprocess.run(
        [*user_runner.command, "-m", "tether", "ps"],
        env={**user_runner.environ, "TETHER_STATE_DIR": str(private_state)},
        capture_output=True, text=True, timeout=60, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 1
    assert "can't be read: Permission denied" in done.stderr


def test_a_follower_sees_what_comes_after_it_began(private_state: Path) -> None:
    """Though the ledger that it opened first was one that nobody had open."""
    from tether.ledger.reading import Reading

    with Owner("first"):
        pass
    reading = Reading(private_state)
    assert [row.what for row in reading.events()] == ["owner began", "owner ended"]
    reading.close()
    with Owner("second"):
        reading = Reading(private_state)
        assert [row.name for row in reading.events()] == ["first", "first", "second"]
        assert [row.name for row in reading.events(of=([], [reading.owners()[-1].id]))] == ["second"]
        reading.close()


def test_a_tree_that_is_held_weakly_is_said_to_be(private_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In `ps`, wide or not; one that is held as usual has no such word."""
    with Owner("app") as owner:
        owner.start(Process(["sleep", "60"], name="usual", stop_grace=0))
        assert "held weakly" not in tether("ps", "--wide")
    monkeypatch.setenv("TETHER_TIER", "portable")
    with Owner("app") as owner:
        owner.start(Process(["sleep", "60"], name="weak", stop_grace=0))
        assert "held weakly (portable)" in tether("ps")
        assert "held weakly (portable): its members are followed by their marks" in tether("ps", "--wide")
    assert "held weakly" not in tether("ps", "--all", "--wide")
