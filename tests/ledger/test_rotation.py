"""Logs are kept small, and read as one over every rotation."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import eventually
from tether import Owner, Process, SpecError, log
from tether.ledger import logs, rotation
from tether.linux import shorten

MOST = 1 << 16

WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
for number in range(int(sys.argv[2])):
    os.write(fd, b"%07d\\n" % number)
"""


def _numbers(data: bytes) -> list[int]:
    return [int(line) for line in data.split()]


@pytest.fixture(params=["collapse", "copy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of rotating; the second where the file system can do no better."""
    if request.param == "copy":
        monkeypatch.setattr(shorten, "collapse", lambda fd, length: False)
    return str(request.param)


def _can_collapse(folder: Path) -> bool:
    with (folder / "probe").open("wb+") as file:
        file.write(bytes(3 * os.fstatvfs(file.fileno()).f_bsize))
        file.flush()
        return shorten.collapse(file.fileno(), os.fstatvfs(file.fileno()).f_bsize)


def _written(path: Path, lines: int, first: int = 0) -> None:
    with path.open("ab") as file:
        file.writelines(b"%07d\n" % number for number in range(first, first + lines))


def _files(path: Path) -> Iterator[Path]:
    return (each for each in (path, logs.aside(path)) if each.exists())


def test_what_is_rotated_out_is_read_before_the_rest(tmp_path: Path, way: str) -> None:
    """As one log; what had been rotated out before goes, and both files stay small."""
    path = tmp_path / "it.log"
    for first in range(0, 60_000, 10_000):
        _written(path, 10_000, first)
        assert rotation.rotate(path, MOST)
        assert not rotation.rotate(path, MOST)
        assert path.stat().st_size < MOST
        assert sum(each.stat().st_size for each in _files(path)) <= 2 * MOST + os.statvfs(tmp_path).f_bsize
        kept = _numbers(logs.read(path).partition(b"\n")[2])
        assert kept == list(range(kept[0], first + 10_000))
        assert logs.tail(path, 3).split() == [f"{number:07}" for number in range(first + 9_997, first + 10_000)]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["it.log", "it.log.1"]
    assert logs.aside(path).stat().st_mode & 0o7777 == 0o600


@pytest.mark.slow  # a program writes much, as fast as it can
def test_no_line_is_lost_while_a_program_writes(tmp_path: Path) -> None:
    """Neither in the files nor for who reads meanwhile, where the file system can take the head out in one step."""
    if not _can_collapse(tmp_path):
        pytest.skip("this file system can't: a copy is made, which may lose lines")
    path = tmp_path / "it.log"
    path.touch()
    count = 300_000
    done = threading.Event()
    rotations = []

    def rotate() -> None:
        while not done.is_set():
            if rotation.rotate(path, 8 * MOST):
                rotations.append(logs.aside(path).stat().st_ino)
                # Slower than the reader, as it is with an owner.
                done.wait(0.02)

    rotating = threading.Thread(target=rotate)
    seen = b""
    reader = logs.Log(path)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(count)]) as writer:
        rotating.start()
        while True:
            has_ended = writer.poll() is not None
            data = reader.news()
            seen += data
            if has_ended and not data:
                break
        done.set()
        rotating.join()
    reader.close()
    assert len(rotations) > 2
    assert _numbers(seen) == list(range(count))


def test_who_reads_too_slowly_is_told(tmp_path: Path, way: str) -> None:
    """Two rotations later what was not read is gone: that is said, and it goes on with what is kept."""
    path = tmp_path / "it.log"
    _written(path, 10_000)
    reader = logs.Log(path)
    assert reader.read(0, 8)[1] == b"0000000\n"
    for first in (10_000, 20_000):
        assert rotation.rotate(path, MOST)
        _written(path, 10_000, first)
    said = reader.news()
    assert said.startswith(logs.LOST)
    while data := reader.news():
        said += data
    assert said.endswith(b"0029999\n")
    reader.close()


def test_a_log_that_somebody_emptied_is_followed(tmp_path: Path) -> None:
    """As by ``> it.log``: it goes on with what is written since."""
    path = tmp_path / "it.log"
    _written(path, 1000)
    reader = logs.Log(path)
    assert b"".join(reader.last(1)) == b"0000999\n"
    path.write_bytes(b"new\n")
    assert reader.news() == b"new\n"
    assert reader.news() == b""
    reader.close()


def test_a_rotation_that_died_half_way_is_read_and_made_again(tmp_path: Path) -> None:
    """Its mark does not hold up readers for long, nor the next one."""
    path = tmp_path / "it.log"
    _written(path, 10_000)
    logs.aside(path).write_bytes(path.read_bytes()[:8000])
    logs.aside(path).chmod(0o600 | logs.BEING_ROTATED)
    (tmp_path / "it.log.new").write_bytes(b"half")
    assert _numbers(logs.read(path)) == [*range(1000), *range(10_000)]
    assert rotation.rotate(path, MOST)
    assert logs.tail(path, 1) == "0009999"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["it.log", "it.log.1"]


def test_a_hole_takes_no_room(tmp_path: Path) -> None:
    """A program that opened its output anew, without appending, leaves one: that alone is no reason to rotate."""
    path = tmp_path / "it.log"
    with path.open("wb") as file:
        file.seek(100 * MOST)
        file.write(b"end\n")
    assert not rotation.is_over(path, MOST)
    with path.open("r+b") as file:
        file.seek(100 * MOST)
        file.writelines(b"%07d\n" % number for number in range(10_000))
    assert rotation.rotate(path, MOST)
    assert logs.aside(path).stat().st_blocks * 512 <= 2 * MOST


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy fails: everything is where it was."""
    path = tmp_path / "it.log"
    _written(path, 10_000)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "sendfile", full)
    with pytest.raises(OSError, match="No space"):
        rotation.rotate(path, MOST)
    assert [each.name for each in tmp_path.iterdir()] == ["it.log"]
    assert _numbers(logs.read(path)) == list(range(10_000))


# -- of an owner -------------------------------------------------------------------------------------------------------

CHATTER = "import sys, time\nfor n in range(%d): print('%%07d' %% n, flush=n %% 100 == 0)\nsys.stdin.read()"


@pytest.mark.slow  # logs are looked at each second
def test_an_owner_caps_the_logs_of_its_processes(owner: Owner) -> None:
    """While they run, without a thread or a look while nothing is written; its probe and ``logs()`` go on over it."""
    resource = owner.start(
        Process(
            [sys.executable, "-c", CHATTER % 100_000],
            stdin="pipe",
            log_max=MOST,
            ready=log("^0099999$", timeout=60),
        )
    )
    path = Path(resource.info()["log"])
    eventually(lambda: sum(each.stat().st_size for each in _files(path)) <= 3 * MOST, 30)
    assert resource.logs(2) == "0099998\n0099999"
    kept = _numbers(resource.logs().partition("\n")[2].encode())
    assert kept == list(range(kept[0], 100_000))
    eventually(lambda: not any(thread.name == "tether-logs" for thread in threading.enumerate()))
    assert resource.info()["spec"]["log_max"] == MOST


@pytest.mark.slow  # logs are looked at each second
def test_what_was_written_last_is_capped_too(owner: Owner) -> None:
    """By a command that ends before anybody looks."""
    resource = owner.start(Process([sys.executable, "-c", CHATTER % 100_000], log_max=MOST))
    resource.wait(60)
    path = Path(resource.info()["log"])
    eventually(lambda: sum(each.stat().st_size for each in _files(path)) <= 3 * MOST, 30)
    assert resource.logs(1) == "0099999"


@pytest.mark.slow  # logs are looked at each second
def test_who_adopts_caps_what_was_written_meanwhile(owner: Owner) -> None:
    """Nobody did while it had no owner."""
    kept = owner.start(
        Process(
            [sys.executable, "-c", f"{CHATTER % 100_000}; time.sleep(60)"], name="it", log_max=MOST, on_death="keep"
        )
    )
    path = Path(kept.info()["log"])
    owner._supervisor.drivers.close()
    eventually(lambda: logs.tail(path, 1) == "0099999" or kept.state.is_final, 60)
    owner.shutdown()
    with Owner("test") as other:
        adopted = other.adopt("it")
        eventually(lambda: sum(each.stat().st_size for each in _files(path)) <= 3 * MOST, 30)
        assert adopted.logs(1) == "0099999"
        adopted.kill()


@pytest.mark.parametrize("wrong", [0, -1, 1000, True, 1e9, "50MB"])
def test_limits_that_can_be_none_are_refused(wrong: object) -> None:
    """Before anything is created."""
    with pytest.raises(SpecError, match="log_max="):
        Process(["true"], log_max=wrong)  # type: ignore[arg-type]
    assert Process(["true"], log_max=None).log_max is None


def test_many_logs_cost_one_descriptor(owner: Owner) -> None:
    """And none of the kernel's watches once their commands have ended."""
    capping = owner._supervisor.drivers.of("process")._capping  # type: ignore[attr-defined]
    for _ in range(5):
        owner.start(Process(["true"])).wait(10)
    assert capping._told is not None
    fdinfo = Path(f"/proc/self/fdinfo/{capping._told.fileno()}")
    eventually(lambda: fdinfo.read_text().count("inotify wd") == 0)
    assert list(itertools.chain(capping._capped, capping._tags)) == []
