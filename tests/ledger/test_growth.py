"""However much has ended: what is done all the time looks at none of it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tether import NotFound, Owner, Process
from tether.cli.ps import ps
from tether.cli.records import Records
from tether.ledger import place
from tether.ledger.store import Ledger
from tether.ledger.writer import Writer

LIVE = ("owners_live", "resources_live")
"""Indices that have nothing in them of what has ended."""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that is executed from now on, with its values, by whatever connection."""
    statements: list[str] = []
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect

    def traced(*arguments: Any, **more: Any) -> sqlite3.Connection:
        made = connect(*arguments, **more)
        made.set_trace_callback(statements.append)
        return made

    monkeypatch.setattr(sqlite3, "connect", traced)
    return statements


def _scans(statements: list[str], state_dir: Path) -> list[tuple[str, str]]:
    """Return what looks at each row of a table, or of an index that has all of them."""
    found = []
    ledger = Ledger(place.prepare(state_dir))
    for statement in dict.fromkeys(statements):
        if not statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")) or "sqlite_" in statement:
            continue
        for step in ledger.database.select(f"EXPLAIN QUERY PLAN {statement}"):
            scan = re.match(r"SCAN (owners|resources|events)\b(?: USING (?:COVERING )?INDEX (\w+))?", step["detail"])
            if scan is not None and scan[2] not in LIVE and "LIMIT 1" not in statement:
                found.append((statement, step["detail"]))
    ledger.close()
    return found


def test_a_look_at_everything_would_be_seen(private_state: Path) -> None:
    """What the other tests here go by."""
    for statement in (
        "SELECT * FROM resources ORDER BY began",
        "SELECT name FROM resources",
        "DELETE FROM events WHERE at < 5",
    ):
        assert len(_scans([statement], private_state)) == 1


def test_an_owner_looks_at_nothing_that_has_ended(said: list[str], private_state: Path) -> None:
    """Neither when it begins, with the sweep that it makes, nor at a start, a kept start, an adoption, or its end."""
    with Owner("app") as owner:
        owner.start(Process(["true"])).wait(10)
        kept = owner.start(Process(["sleep", "60"], name="it", on_death="keep"))
        with pytest.raises(NotFound):
            owner.adopt("other")
        owner.status()
        kept.kill()
    assert any("resources_by_name" in statement for statement in said)
    assert _scans(said, private_state) == []


def test_a_command_looks_at_nothing_that_has_ended_and_is_not_meant(
    said: list[str], owner: Owner, private_state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``ps``, and each that takes a name, an id, or the beginning of one."""
    resource = owner.start(Process(["sleep", "60"], name="it"))
    said.clear()
    assert ps([]) == 0
    assert "it" in capsys.readouterr().out
    records = Records()
    for name in ("it", "test/it", resource.id, resource.id[:6], "i*", "test/"):
        assert [entry.row.id for entry in records.named([name])] == [resource.id]
    with pytest.raises(NotFound, match="running: test/it"):
        records.named(["nothing"])
    mine = [statement for statement in said if "SELECT" in statement]
    assert len(mine) > 8
    assert _scans(mine, private_state) == []


def test_pruning_looks_at_what_it_removes(said: list[str], private_state: Path) -> None:
    """Though it goes on all the time."""
    writer = Writer(place.prepare(private_state), "o1")
    writer._pruning.step()
    writer.close()
    assert any("DELETE" in statement for statement in said)
    assert _scans(said, private_state) == []
