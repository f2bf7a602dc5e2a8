"""Ending what is recognised by marks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import count

import pytest

from support import eventually
from tether.life.managed import new_id
from tether.linux import members, proc, tree


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


_DEAD_LEADER = """
import ctypes, subprocess, threading, time
child = subprocess.Popen(["sleep", "60"])
threading.Thread(target=time.sleep, args=(60,)).start()
print(child.pid, flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_whose_first_thread_has_ended_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process table shows a zombie, with other threads: it has children, and its tag."""
    tag = new_id()
    process = subprocess.Popen(
        [sys.executable, "-c", _DEAD_LEADER], env={**os.environ, members.RESOURCE: tag}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        eventually(lambda: (stat := proc.read_stat(process.pid)) is not None and stat.state == "Z")
        assert tree.is_running(process.pid)
        assert {process.pid, child} <= set(tree.descendants(os.getpid()))
        monkeypatch.setattr(tree, "_MANY", 0)
        monkeypatch.setattr(tree, "_TABLE_COSTS", 1 << 30)
        assert {process.pid, child} <= set(tree.descendants(os.getpid()))
        assert {pid for pid, _ in members.find(members.Marks(tags=[tag]))} == {process.pid, child}
        assert members.end(members.Marks(tags=[tag]), 5.0) == []
        assert process.wait(5) == -signal.SIGKILL
        assert not tree.is_running(child)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


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
