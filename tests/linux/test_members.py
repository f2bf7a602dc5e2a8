"""Ending what is recognised by marks."""

from __future__ import annotations

import os
import subprocess
from itertools import count

import pytest

from tether.linux import members, proc
from tether.managed import new_id


def test_forks_are_counted() -> None:
    """Each that is made raises the number, whoever made it."""
    before = proc.forks()
    for _ in range(3):
        subprocess.run(["true"], check=True)
    assert proc.forks() >= before + 3


@pytest.mark.parametrize(
    ("forks", "looks"), [(lambda: 7, 1), (count(1).__next__, 2), (lambda: 0, 2)], ids=["still", "busy", "not counted"]
)
def test_one_look_is_enough_where_nothing_was_forked(
    monkeypatch: pytest.MonkeyPatch, forks: object, looks: int
) -> None:
    """Else a second one must find what the first may have missed."""
    seen: list[members.Marks] = []
    find = members.find

    def look(marks: members.Marks) -> list[tuple[int, int]]:
        seen.append(marks)
        return find(marks)

    monkeypatch.setattr(members, "find", look)
    monkeypatch.setattr(proc, "forks", forks)
    assert members.end(members.Marks(tags=[new_id()]), 5.0) == []
    assert len(seen) == looks


def test_members_are_ended_and_nobody_else() -> None:
    """By the tag in the environment."""
    tag = new_id()
    environ = {**os.environ, members.RESOURCE: tag}
    theirs = [subprocess.Popen(["sleep", "60"], env=environ) for _ in range(2)]
    other = subprocess.Popen(["sleep", "60"])
    try:
        members.end(members.Marks(tags=[tag]), 5.0)
        assert [process.wait(5) for process in theirs] == [-9, -9]
        assert other.poll() is None
    finally:
        for process in (*theirs, other):
            process.kill()
            process.wait()
