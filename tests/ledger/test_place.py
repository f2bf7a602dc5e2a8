"""The state directory: tether's own, or left as it is; and nothing of it changes for who only looks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tether import Owner, Process, State
from tether.errors import StateDirError
from tether.ledger import place
from tether.ledger.reading import Reading


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file below a folder, with its size, mode and owner."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        found[str(path)] = (status.st_size if path.is_file() else 0, status.st_mode, status.st_uid)
    return found


@pytest.mark.parametrize("mode", [0o755, 0o777, 0o1777])
def test_a_folder_that_others_use_is_left_as_it_is(tmp_path: Path, mode: int) -> None:
    """Refused with what to do, and neither made private nor filled: /tmp, a home, a project."""
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "theirs").write_text("x")
    folder.chmod(mode)
    before = listing(folder)
    with pytest.raises(StateDirError, match="set TETHER_STATE_DIR to a folder of its own"):
        Owner("app", state_dir=folder)
    assert listing(folder) == before


def test_an_empty_folder_for_all_is_no_state_directory(tmp_path: Path) -> None:
    """The sticky bit says that many users use it."""
    tmp_path.chmod(0o1777)
    with pytest.raises(StateDirError):
        place.prepare(tmp_path)
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777


def test_tethers_own_is_made_private_again(tmp_path: Path) -> None:
    """Also with what drivers have put there, should somebody have opened it."""
    folder = place.prepare(tmp_path / "state")
    Owner("app", state_dir=folder).shutdown()
    (folder / "envs").mkdir()
    folder.chmod(0o755)
    place.prepare(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_reading_changes_nothing(tmp_path: Path) -> None:
    """With an owner at work, after its end, after its death, and without a ledger; whoever reads it."""
    folder = tmp_path / "state"
    assert Reading(folder).resources(ended=True) == []
    assert not folder.exists()
    owner = Owner("app", state_dir=folder)
    owner.start(Process(["sleep", "60"], name="it"))
    before = listing(folder)
    assert [row.name for row in Reading(folder).resources()] == ["it"]
    assert listing(folder) == before
    owner.shutdown()
    before = listing(folder)
    assert [row.name for row in Reading(folder).resources(ended=True)] == ["it"]
    assert [event.what for event in Reading(folder).events(last=1)] == ["owner ended"]
    assert listing(folder) == before
    code = (
        "import os, sys; from pathlib import Path; from tether.ledger.store import Ledger; from tether.linux import identity\n"
        "Ledger(Path(sys.argv[1])).add_owner('dead', 'app', identity.identify(), None); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    assert (folder / "ledger.db-wal").stat().st_size > 0
    before = listing(folder)
    assert [each.id for each in Reading(folder).owners()] == ["dead"]
    assert listing(folder) == before


def test_root_leaves_nothing_of_its_own_in_a_users_state(tmp_path: Path) -> None:
    """A look at a state directory of another user, open or closed, makes no file there."""
    if os.getuid() != 0:
        pytest.skip("only root can look at another user's")
    folder = tmp_path / "state"
    Owner("app", state_dir=folder).shutdown()
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 65533, 65533)
    before = listing(folder)
    for command in (["ps"], ["ps", "--all"], ["tree"], ["events"]):
        subprocess.run(
            [sys.executable, "-m", "tether", *command],
            env={**os.environ, "TETHER_STATE_DIR": str(folder)},
            check=True,
            capture_output=True,
        )
    assert listing(folder) == before


def test_a_log_that_is_just_removed_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who closes the ledger last removes the index and then the log; whoever looks between the two looks again."""
    folder = tmp_path / "state"
    owner = Owner("app", state_dir=folder)
    owner.start(Process(["sleep", "60"], name="it"))
    copyfile = shutil.copyfile
    asked: list[str] = []

    def end_first(source: Path, target: str) -> object:
        asked.append(source.name)
        if len(asked) == 1:
            owner.shutdown()
            source.with_name("ledger.db-wal").unlink(missing_ok=True)
        return copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", end_first)
    index = folder / "ledger.db-shm"
    monkeypatch.setattr(Path, "exists", lambda path: False if path == index else os.path.exists(path))
    assert [(row.name, row.state) for row in Reading(folder).resources(ended=True)] == [("it", State.GONE)]
    assert asked == ["ledger.db", "ledger.db-wal"]
