"""Who is below a pid; the same answer from every source."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from support import eventually
from tether.linux import cgroup, members, proc, sockets, tree

NESTED = """
import os, sys, threading, time
def grow(depth, width):
    for _ in range(width if depth else 0):
        if os.fork() == 0:
            grow(depth - 1, width)
            time.sleep(60); os._exit(0)
thread = threading.Thread(target=grow, args=(1, 1)); thread.start(); thread.join()
grow(2, 3)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def nested() -> Iterator[int]:
    """A tree of 1 + 1 + 3 + 9 processes, one of which was forked by another thread that has ended."""
    process = subprocess.Popen([sys.executable, "-c", NESTED], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    eventually(lambda: len(psutil.Process(process.pid).children(recursive=True)) == 13)
    yield process.pid
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("tier", ["shim", "portable"])
def test_descendants_are_those_of_psutil(nested: int, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the children files, and from the table of all processes."""
    monkeypatch.setenv("TETHER_TIER", tier)
    expected = {process.pid for process in psutil.Process(nested).children(recursive=True)}
    found = tree.descendants(nested)
    assert set(found) == expected
    assert len(found) == len(expected)
    assert set(tree.children(nested)) == {process.pid for process in psutil.Process(nested).children()}
    ranks = {pid: index for index, pid in enumerate([nested, *found])}
    assert all(ranks[stat.ppid] < ranks[pid] for pid in found if (stat := proc.read_stat(pid)))


def test_what_has_gone_has_nobody_below_it() -> None:
    """A dead pid is no error."""
    assert tree.children(2**22 + 5) == tree.descendants(2**22 + 5) == []
    assert not tree.is_running(2**22 + 5)


def test_members_are_found_by_identity_tag_and_log(tmp_path: object) -> None:
    """Each mark alone is enough; none of them takes in a bystander."""
    log = f"{tmp_path}/log"
    with open(log, "wb") as file:
        plain = subprocess.Popen(["sleep", "60"])
        tagged = subprocess.Popen(["sleep", "60"], env={members.RESOURCE: "outer:tag-1"})
        logged = subprocess.Popen(["sleep", "60"], stdout=file)
    bystander = subprocess.Popen(["sleep", "60"], env={members.RESOURCE: "tag-10"})
    started = [plain, tagged, logged, bystander]
    try:
        eventually(lambda: members.carries(proc.environ(tagged.pid), {"tag-1"}))
        start = proc.start_time(plain.pid) or 0
        assert members.find(members.Marks([(plain.pid, start)])) == [(plain.pid, start)]
        assert members.find(members.Marks([(plain.pid, start + 1)])) == []
        assert [pid for pid, _ in members.find(members.Marks(tags=["tag-1"]))] == [tagged.pid]
        assert [pid for pid, _ in members.find(members.Marks(log=log))] == [logged.pid]
        assert members.find(members.Marks(tags=["tag-1"], uid=os.getuid() + 1)) == []
        assert members.end(members.Marks([(plain.pid, start)], ["tag-1"], log=log), 10) == []
        assert [process.wait(10) for process in started[:3]] == [-9, -9, -9]
        assert bystander.poll() is None
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_session_counts_only_while_its_leader_is_the_one_on_record() -> None:
    """With another start time on record the same number means another session."""
    script = "sleep 60 & echo $!; wait"
    leader = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True, text=True)
    assert leader.stdout is not None
    member = int(leader.stdout.readline())
    start = proc.start_time(leader.pid) or 0
    try:
        marks = members.Marks()
        marks.sessions = {leader.pid: start}
        assert [pid for pid, _ in members.find(marks)] == [leader.pid, member]
        marks = members.Marks()
        marks.sessions = {leader.pid: start - 1}
        assert members.find(marks) == []
    finally:
        os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()
        leader.stdout.close()


def test_a_cgroup_is_killed_as_a_whole() -> None:
    """What is in the folder, or below it, ends; then the folder can go."""
    folder = cgroup.owner_folder(f"test-{os.getpid()}")
    if folder is None or not cgroup.make(folder):
        pytest.skip("no writable cgroup v2 here")
    below = f"{folder}/below"
    assert cgroup.make(below)
    script = f"echo $$ > {below}/cgroup.procs; sleep 60 & echo ready; wait"
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert process.pid in cgroup.pids(folder)
    assert not cgroup.remove(folder)
    assert cgroup.kill(folder)
    assert process.wait(10) == -signal.SIGKILL
    process.stdout.close()
    eventually(lambda: cgroup.remove(folder))


def test_a_listening_socket_is_traced_to_its_process() -> None:
    """By the inode in /proc/net and the links in /proc/PID/fd; of IPv6 too."""
    import socket

    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as sock:
            sock.bind((host, 0))
            port = sock.getsockname()[1]
            assert sockets.listening_inodes(port) == set()
            sock.listen()
            inodes = sockets.listening_inodes(port)
            assert len(inodes) == 1
            assert sockets.holds_socket([os.getpid()], inodes)
            assert not sockets.holds_socket([1, 2**22 + 1], inodes)
