"""Reading /proc, whatever names processes give themselves."""

from __future__ import annotations

import ctypes
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.linux import proc, sockets

numbers = st.integers(min_value=0, max_value=2**63)
names = st.binary(max_size=15).filter(lambda name: b"\0" not in name)


@given(pid=numbers, name=names, state=st.sampled_from("RSDTZXI"), fields=st.lists(numbers, min_size=49, max_size=49))
def test_any_name_is_parsed(pid: int, name: bytes, state: str, fields: list[int]) -> None:
    """Brackets, spaces and newlines in a name move no field."""
    line = b"%d (%s) %s %s\n" % (pid, name, state.encode(), b" ".join(b"%d" % each for each in fields))
    stat = proc.parse_stat(line)
    assert (stat.pid, stat.name, stat.state) == (pid, name, state)
    assert (stat.ppid, stat.pgrp, stat.session) == tuple(fields[:3])
    assert stat.start == fields[18]
    assert stat.cpu == fields[10] + fields[11]
    assert stat.threads == fields[16]
    assert stat.running == (state not in "ZX" or stat.threads > 1)


@pytest.mark.parametrize("name", [b"a b", b") R 1 1 1", b"((", b"x\ny", b"\xff\xfe", b"a) Z 0"])
def test_a_real_process_with_an_odd_name(name: bytes) -> None:
    """The kernel writes the name as it is."""
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(15, name, 0, 0, 0)
        os.kill(os.getpid(), 19)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    stat = proc.read_stat(pid)
    assert stat is not None
    assert (stat.pid, stat.name, stat.state, stat.ppid) == (pid, name, "T", os.getpid())
    assert proc.start_time(pid) == stat.start
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert proc.read_stat(pid) is None
    assert proc.start_time(pid) is None


@given(data=st.binary(max_size=64))
def test_nonsense_is_refused_not_guessed(data: bytes) -> None:
    """A line that is none raises ValueError or IndexError, never returns numbers."""
    with pytest.raises((ValueError, IndexError)):
        proc.parse_stat(data)


def test_the_newest_pid_is_the_newest() -> None:
    """A child just forked has it, or somebody forked meanwhile."""
    process = subprocess.Popen(["true"])
    assert proc.newest_pid() >= process.pid or proc.newest_pid() < 1000
    process.wait()


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 65535), st.sampled_from([b"0A", b"01", b"06"]), st.integers(1, 2**32)), max_size=20
    ),
    port=st.integers(0, 65535),
)
def test_listeners_are_told_from_connections(rows: list[tuple[int, bytes, int]], port: int) -> None:
    """Only sockets in state LISTEN on that port count."""
    table = b"  sl  local_address rem_address   st\n" + b"".join(
        b"   0: 0100007F:%04X 00000000:0000 %s 00000000:00000000 00:00000000 00000000     0        0 %d 1 0 100\n"
        % (number, state, inode)
        for number, state, inode in rows
    )
    expected = {inode for number, state, inode in rows if number == port and state == b"0A"}
    assert sockets.parse_listeners(table, port) == expected
