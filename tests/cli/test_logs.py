"""``tether logs`` and ``events``: of several, since when, with times."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commandline import TETHER, on_terminal, tether
from support import eventually
from tether import Owner, Process
from tether.cli.outputs import _File
from tether.ledger.logs import CUT, LONGEST_LINE, aside, tail


def _wrote(owner: Owner, name: str, script: str) -> str:
    resource = owner.start(Process(["sh", "-c", script], name=name))
    resource.wait(10)
    return resource.id


def test_several_have_the_name_before_each_line(owner: Owner) -> None:
    """And what has no line end gets one; what has no log is said, and keeps nobody from the rest."""
    _wrote(owner, "a", "echo one; echo two")
    _wrote(owner, "bb", "printf three")
    owner.start(Process(["true"], name="none", stdout="null", stderr="null")).wait(10)
    assert tether("logs", "a", "bb") == "test/a  | one\ntest/a  | two\ntest/bb | three\n"
    assert tether("logs", "test/", "-n", "1", code=1).splitlines()[:2] == ["test/a    | two", "test/bb   | three"]
    assert "resource test/none has no log here" in tether("logs", "test/", code=1)


def test_of_one_it_is_as_it_was_written(owner: Owner) -> None:
    """Byte for byte into a pipe; on a terminal with its colours, and nothing else acts."""
    _wrote(owner, "a", r"printf '\033[31mred\033[0m\033]0;title\007\377\r\tend'")
    raw = subprocess.run([*TETHER, "logs", "a"], capture_output=True, timeout=60, check=True).stdout
    assert raw == b"\x1b[31mred\x1b[0m\x1b]0;title\x07\xff\r\tend"
    assert "\x1b[31mred\x1b[0m\\x1b]0;title\\x07\\xff\r" in on_terminal("logs", "a").replace("\n", "")


@pytest.mark.parametrize(
    ("end", "code", "said"), [("exit 0", 0, "gone"), ("exit 7", 7, "failed"), ("kill -TERM $$", 143, "failed")]
)
def test_attach_follows_until_the_end(owner: Owner, end: str, code: int, said: str) -> None:
    """Beginning with the last lines; it ends with the resource's exit code, and says how that ended."""
    owner.start(Process(["sh", "-c", f"seq 20; read go; echo went; {end}"], name="a", stdin="pipe"))
    job = owner.resource("a")
    eventually(lambda: "20" in job.logs())
    with subprocess.Popen(
        [*TETHER, "attach", "a"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as attached:
        assert attached.stdout is not None
        assert [attached.stdout.readline() for _ in range(10)] == [f"{number}\n" for number in range(11, 21)]
        assert job.stdin is not None
        job.stdin.write(b"go\n")
        job.stdin.flush()
        output, errors = attached.communicate(timeout=60)
    assert (output, attached.returncode) == ("went\n", code)
    assert errors.startswith(f"tether: test/a: {said}")
    assert tether("attach", "a", "-n", "1", code=code).startswith("went\n")


def test_attach_lets_go_by_ctrl_c(owner: Owner) -> None:
    """The resource goes on; several can't be attached to."""
    job = owner.start(Process(["sh", "-c", "echo up; exec sleep 60"], name="a"))
    owner.start(Process(["sleep", "60"], name="b"))
    with subprocess.Popen(
        [*TETHER, "attach", "a"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as attached:
        assert attached.stdout is not None
        assert attached.stdout.readline() == "up\n"
        # It can be interrupted when it waits.
        eventually(lambda: _sleeps(attached.pid))
        attached.send_signal(signal.SIGINT)
        _, errors = attached.communicate(timeout=60)
    assert (attached.returncode, errors) == (0, "tether: test/a goes on\n")
    assert job.pids()
    assert "means 2 resources" in tether("attach", "test/", code=1)


def _sleeps(pid: int) -> bool:
    syscall = Path(f"/proc/{pid}/wchan").read_text()
    return "nanosleep" in syscall


def test_standard_error_with_a_log_of_its_own_comes_last(owner: Owner) -> None:
    """It is neither forgotten nor counted twice; followed, each comes as it is written."""
    script = "echo out; echo careful >&2; echo end"
    owner.start(Process(["sh", "-c", script], name="a", stderr="own-log")).wait(10)
    assert tether("logs", "a") == "out\nend\ncareful\n"
    assert tether("logs", "a", "-n", "2") == "end\ncareful\n"
    assert tether("logs", "-f", "a") == "out\nend\ncareful\n"


def test_the_last_lines_are_found_from_the_end(tmp_path: Path) -> None:
    """Whatever their lengths, with and without a last line end."""
    path = tmp_path / "log"
    for end in (b"", b"\n"):
        for lines in (
            [b"a"],
            [b"x" * 70_000, b"y" * 200_000, b"z"],
            [b""] * 100_000,
            [b"%d" % n for n in range(50_000)],
        ):
            data = b"\n".join(lines) + end
            path.write_bytes(data)
            for number in (0, 1, 2, 3, 99_999, 10**6):
                expected = b"".join(data.splitlines(keepends=True)[-number:] if number else [])
                output = _File("tag", 0, path)
                assert b"".join(output.begin(number)) == expected
                output._file.close()


def test_since_goes_by_the_times_in_the_lines(owner: Owner) -> None:
    """A line without one is as old as the one above it; a log that was last written before is left out."""
    _wrote(
        owner,
        "a",
        "echo '2020-01-01 00:00:00 old'; echo ' of old'; echo \"[INFO] $(date '+%FT%T') new\"; echo ' of new'",
    )
    said = tether("logs", "a", "--since", "1h")
    assert said.splitlines()[0].endswith(" new")
    assert said.splitlines()[1:] == [" of new"]
    assert tether("logs", "a", "--since", "2019-12-31").splitlines()[0] == "2020-01-01 00:00:00 old"
    tag = _wrote(owner, "b", "echo no time")
    assert tether("logs", "b", "--since", "1h") == "no time\n"
    assert tag
    assert tether("logs", "b", "--since", "@99999999999") == ""


def test_timestamps(owner: Owner) -> None:
    """The line's own; a dash where it is not known; with -f when it came."""
    resource = owner.start(
        Process(["sh", "-c", "echo '2020-01-02T03:04:05 old'; echo none; read x; echo came"], name="a", stdin="pipe")
    )
    eventually(lambda: "none" in resource.logs())
    assert tether("logs", "-t", "a").splitlines() == [
        "2020-01-02T03:04:05 2020-01-02T03:04:05 old", "-                   none",
    ]  # fmt: skip
    with subprocess.Popen([*TETHER, "logs", "-tf", "a"], stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        for _ in range(2):
            follower.stdout.readline()
        assert resource.stdin is not None
        resource.stdin.write(b"\n")
        resource.stdin.close()
        line = follower.stdout.readline()
    assert line.startswith(time.strftime("%Y-%m-%dT"))
    assert line.endswith(" came\n")


def test_several_are_followed_until_all_have_ended(owner: Owner) -> None:
    """With whole lines, whoever writes them."""
    first = owner.start(Process(["sh", "-c", "echo a1; read x; echo a2"], name="a", stdin="pipe"))
    second = owner.start(Process(["sh", "-c", "echo b1; read x; printf b2"], name="b", stdin="pipe"))
    with subprocess.Popen([*TETHER, "logs", "-f", "a", "b"], stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert {follower.stdout.readline() for _ in range(2)} == {"test/a | a1\n", "test/b | b1\n"}
        for resource in (second, first):
            assert resource.stdin is not None
            resource.stdin.write(b"\n")
            resource.stdin.close()
        assert set(follower.stdout.read().splitlines()) == {"test/a | a2", "test/b | b2"}
        assert follower.wait(20) == 0


def test_events_of_some(owner: Owner) -> None:
    """Of a resource, of a pattern, of an owner with all that is its; not before a time."""
    with Owner("other") as other:
        _wrote(owner, "a", "true")
        _wrote(owner, "b", "true")
        _wrote(other, "a", "true")
        assert {line.split()[2] for line in tether("events", "test/a").splitlines()} == {"a"}
        assert len(tether("events", "a").splitlines()) == 8
        assert {line.split()[2] for line in tether("events", "test/").splitlines()} == {"test", "a", "b"}
        assert len(tether("events", "test/?", "-n", "3").splitlines()) == 3
        assert len(tether("events", "--since", "1h").splitlines()) == 14
        assert tether("events", "--since", "@99999999999") == ""
        assert "there is no resource 'never'" in tether("events", "never", code=1)


def test_inspect_and_where(owner: Owner, private_state: Path) -> None:
    """All that is known, as JSON; where the log is; also of what has ended."""
    import json

    tag = _wrote(owner, "a", "echo out")
    lives = owner.start(Process(["sh", "-c", "sleep 60"], name="b", env={"TOKEN": "secret-value"}))
    ended, running = json.loads(tether("inspect", "a", "b"))
    assert (ended["id"], ended["state"], ended["exit_code"]) == (tag, "gone", 0)
    assert Path(ended["log"]).read_text() == "out\n"
    assert [event["what"] for event in ended["events"]] == ["created", "ready", "exited", "gone"]
    assert (running["pid"], running["processes"][0]["pid"]) == (lives.pid, lives.pid)
    assert "secret-value" not in tether("inspect", "b")
    assert ended["log"] in tether("where", "a")
    assert str(private_state) in tether("where")


SMALL = """
import resource, runpy, sys
import tether.cli.logs, tether.cli.text
size = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (size + (20 << 20), size + (20 << 20)))
sys.argv[:1] = ["tether"]
runpy.run_module("tether", run_name="__main__")
"""


def _with_little_memory(*arguments: str) -> bytes:
    """Run a command that gets no more than 20 MB over what its imports take."""
    command = [sys.executable, "-c", SMALL, *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, check=True).stdout


@pytest.mark.slow  # programs that read much
def test_a_log_of_1_gb_takes_little_memory(owner: Owner) -> None:
    """Its last lines, those of several, and those since a time."""
    resource = owner.start(Process(["true"], name="a", log_max=None))
    resource.wait(10)
    path = Path(resource.info()["log"])
    lines = b"".join(b"2020-01-01 00:00:00 line %07d\n" % number for number in range(30_000))
    with path.open("ab") as file:
        file.truncate(1 << 30)
        file.seek(1 << 30)
        file.write(b"\n" + lines)
    assert _with_little_memory("logs", "a", "-n", "2").splitlines() == lines.splitlines()[-2:]
    assert _with_little_memory("logs", "a", "-n", "2", "-t").splitlines()[-1].endswith(b" line 0029999")
    assert tail(path, 1) == "2020-01-01 00:00:00 line 0029999"


@pytest.mark.slow  # programs that read much
def test_a_line_of_1_gb_is_cut(owner: Owner) -> None:
    """It takes no memory without bound, and that is said; where nothing is counted or put before it, it is printed as it is."""
    resource = owner.start(Process(["true"], name="a", log_max=None))
    resource.wait(10)
    _wrote(owner, "b", "echo b")
    path = Path(resource.info()["log"])
    with path.open("ab") as file:
        file.truncate(1 << 30)
        file.seek(1 << 30)
        file.write(b"end\nlast\n")
    said = _with_little_memory("logs", "a", "-n", "3")
    assert said.startswith(CUT + b"\0")
    assert said.endswith(b"\0end\nlast\n")
    assert len(said) < 2 * LONGEST_LINE
    assert len(tail(path, 3)) < 2 * LONGEST_LINE
    path.write_bytes(b"first\n" + bytes(50 << 20) + b"\nlast\n")
    prefixed = _with_little_memory("logs", "a", "b").splitlines()
    assert prefixed[0] == b"test/a | first"
    assert prefixed[1].endswith(b"\0 [tether: a line of more than 1 MB; the rest of it is left out]")
    assert len(prefixed[1]) < 2 * LONGEST_LINE
    assert prefixed[2:] == [b"test/a | last", b"test/b | b"]
    assert len(_with_little_memory("logs", "a", "--since", "1h")) == path.stat().st_size


@pytest.mark.slow  # it is written so slowly that it is rotated several times
def test_a_rotated_log_is_followed(owner: Owner) -> None:
    """Every line once, until its end."""
    code = "import time\nfor n in range(60_000):\n print('%07d' % n, flush=n % 100 == 0)\n if n % 6000 == 0: time.sleep(0.6)"
    resource = owner.start(Process([sys.executable, "-c", code], name="a", log_max=1 << 16))
    with subprocess.Popen([*TETHER, "logs", "-f", "a"], stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert list(map(int, follower.stdout)) == list(range(60_000))
    assert follower.returncode == 0
    assert aside(Path(resource.info()["log"])).exists()
