"""What is printed: text from outside is text, tables fit, and outputs that can't be written end it quietly."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from commandline import TETHER, on_terminal, table, tether
from support import eventually
from tether import Owner, Process, State
from tether.cli import text

HOSTILE = "\x1b]0;owned\x07\x1b[31m[bold]red[/bold]\x1b[0m\u202egnp.exe\x9b2J\r\n\x00\x7f"


def _record(owner: Owner, reason: str, url: str | None = None) -> None:
    """Put a resource on record that an outsider had a say in."""
    tag = os.urandom(4).hex()
    owner._ledger.add_resource(tag, owner.id, f"it-{tag}", "process", {"argv": [reason]}, "kill", 0)
    owner._ledger.write(tag, 1, State.FAILED, [(reason, reason)], reason=reason, url=url)


@pytest.mark.parametrize("command", ["ps -a", "ps -a --wide", "events", "tree", "reap --dry-run", "where", "stats"])
@pytest.mark.parametrize("terminal", [True, False])
def test_text_from_outside_is_text(owner: Owner, command: str, terminal: bool) -> None:
    """Reasons, events, commands and URLs: no control character acts, no markup is taken for one."""
    _record(owner, HOSTILE, HOSTILE)
    owner.start(Process(["sh", "-c", "sleep 60; : " + HOSTILE.replace("\0", "")], name="it"))
    said = on_terminal(*command.split(), columns=500) if terminal else tether(*command.split())
    plain = re.sub(r"\x1b\[\d+m", "", said) if terminal else said
    assert all(character.isprintable() or character == "\n" for character in plain)
    if command in ("ps -a --wide", "events"):
        assert "[bold]red[/bold]" in plain
    if terminal:
        assert "\x1b[31m[bold]" not in said


def test_proofs_and_extras_are_shown(owner: Owner) -> None:
    """What stands in square brackets is no markup."""
    _record(owner, "install it with: pip install 'tether[docker]' [shim 12 ended it in order: ECHILD]")
    for said in (on_terminal("events", columns=300), on_terminal("ps", "-a", columns=300), tether("ps", "-aw")):
        assert "'tether[docker]' [shim 12 ended it in order: ECHILD]" in said


def test_tables_fit_80_columns(owner: Owner) -> None:
    """However long names, URLs and reasons are; --wide cuts nothing."""
    long = "x" * 100
    owner.start(Process(["sleep", "60"], name="n" * 128))
    _record(owner, f"because {long}", f"http://127.0.0.1:8000/{long}")
    for command in ("ps -a", "stats", "reap --dry-run", "doctor"):
        assert max(map(text.cells, tether(*command.split()).splitlines())) <= 80, command
    assert max(map(len, tether("ps", "-a", env={**os.environ, "COLUMNS": "60"}).splitlines())) <= 60
    shown = re.sub(r"\x1b\[\d+m", "", on_terminal("ps", "-a", columns=70))
    assert max(map(len, shown.splitlines())) <= 70
    assert "because" in tether("ps", "-a", "--wide")
    assert long in tether("ps", "-a", "--wide")


def test_a_url_and_a_reason_stand_in_80_columns(owner: Owner) -> None:
    """For names as people give them."""
    _record(owner, "ended by itself, exit code 3", "http://127.0.0.1:41873")
    (line,) = [line for line in tether("ps", "-a").splitlines() if "failed" in line]
    assert "http://127.0.0.1:41873" in line
    assert re.match(r"test +it-\w+ +failed +\ds ", line)


def test_colours_on_a_terminal_only(owner: Owner) -> None:
    """And not where NO_COLOR is set, or the terminal has none."""
    owner.start(Process(["sleep", "60"], name="it"))
    assert "\x1b[32mready\x1b[0m" in on_terminal("ps")
    assert "\x1b" not in on_terminal("ps", NO_COLOR="1")
    assert "\x1b" not in on_terminal("ps", TERM="dumb")
    assert "\x1b" not in tether("ps")


def test_a_terminal_without_unicode(owner: Owner) -> None:
    """Drawings are of ASCII there."""
    owner.start(Process(["sleep", "60"], name="it"))
    said = tether("tree", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert said.isascii()
    assert "`-- it  process  ready" in said


@pytest.mark.parametrize(
    "command", ["ps", "tree", "events", "logs it", "--help", "ps -h", "run -h", "completion bash", "where"]
)
def test_an_output_that_cant_be_written(owner: Owner, command: str) -> None:
    """A full disk and a closed descriptor are said in a line, with exit code 1; a reader that has gone is SIGPIPE."""
    resource = owner.start(Process(["sh", "-c", "echo up; sleep 60"], name="it"))
    eventually(lambda: resource.logs() == "up\n")
    line = " ".join([*TETHER, command])
    for redirected, said in ((">/dev/full", "No space left"), (">&-", "Bad file descriptor")):
        for buffered in ("", "1"):
            environ = {**os.environ, "PYTHONUNBUFFERED": buffered}
            done = subprocess.run(
                ["sh", "-c", f"{line} {redirected}"],
                capture_output=True,
                text=True,
                timeout=60,
                env=environ,
                check=False,
            )
            assert done.returncode == (125 if command.startswith("run") else 1), done.stderr
            if command.startswith("run") and redirected == ">&-":
                continue
            assert done.stderr.startswith("tether: can't write the output: ")
            assert said in done.stderr
            assert len(done.stderr.splitlines()) == 1
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*TETHER, *command.split()], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full", "<&-"])
def test_other_streams_that_are_closed(owner: Owner, redirected: str) -> None:
    """Nothing but the words is lost: the exit code is what it would have been."""
    line = " ".join(TETHER)
    assert (
        subprocess.run(["sh", "-c", f"{line} ps {redirected}"], capture_output=True, timeout=60, check=False).returncode
        == 0
    )
    assert (
        subprocess.run(
            ["sh", "-c", f"{line} nonsense {redirected}"], capture_output=True, timeout=60, check=False
        ).returncode
        == 2
    )


@pytest.mark.parametrize("command", ["ps --watch", "events -f", "logs -f it", "stats --watch"])
def test_ctrl_c_ends_it_without_a_word(owner: Owner, command: str) -> None:
    """As every program that does nothing about it: a shell sees 130."""
    resource = owner.start(Process(["sh", "-c", "echo up; sleep 60"], name="it"))
    eventually(lambda: resource.logs() == "up\n")
    process = subprocess.Popen([*TETHER, *command.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (-signal.SIGINT, "")


def test_ctrl_c_while_it_starts() -> None:
    """From the moment on when it is tether that runs."""
    code = "import os; from tether import cli; cli._end_quietly_if_interrupted(); os.kill(os.getpid(), 2); import time; time.sleep(9)"
    done = subprocess.run([TETHER[0], "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_watch_shows_again(owner: Owner) -> None:
    """What has changed meanwhile."""
    resource = owner.start(Process(["sleep", "60"], name="it"))
    with subprocess.Popen([*TETHER, "ps", "--watch", "0.1"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "OWNER" in process.stdout.readline()
        resource.kill()
        deadline = time.monotonic() + 20
        while "nothing runs" not in process.stdout.readline():
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)


def test_filters_and_quiet(owner: Owner) -> None:
    """Of one key any may fit, of several keys each must."""
    with Owner("other") as other:
        web = [owner.start(Process(["sleep", "60"], name=f"web-{number}")) for number in range(2)]
        db = other.start(Process(["sleep", "60"], name="db"))
        assert tether("ps", "-q").split() == [web[0].id, web[1].id, db.id]
        assert tether("ps", "-q", "-f", "name=web*").split() == [web[0].id, web[1].id]
        assert tether("ps", "-q", "-f", "name=web-0", "-f", "name=db").split() == [web[0].id, db.id]
        assert tether("ps", "-q", "-f", "name=web-0", "-f", "owner=other").split() == []
        assert tether("ps", "-q", "-f", "state=ready", "-f", "kind=process", "other/").split() == [db.id]
        assert [each["id"] for each in table("ps", "-f", "state=failed")] == []


def test_sizes_and_ages() -> None:
    """In their largest unit."""
    assert [text.size(number) for number in (None, 0, 999, 1000, 1 << 20, 3 << 30)] == [
        "-",
        "0B",
        "999B",
        "1.0K",
        "1.0M",
        "3.0G",
    ]
    assert [text.span(number) for number in (-1, 59, 60, 7200, 200_000)] == ["0s", "59s", "1m", "2h", "2d"]
    assert text.cells("日本") == 4
    assert text.cut("日本語の名前", 6) == "日本…"


def test_a_deleted_working_directory(tmp_path: Path) -> None:
    """Commands run there; a relative state directory is said to be none."""
    folder = tmp_path / "deleted"
    script = f"mkdir {folder}; cd {folder}; rmdir {folder}; {' '.join(TETHER)}"
    assert subprocess.run(["sh", "-c", f"{script} ps"], capture_output=True, timeout=60, check=False).returncode == 0
    done = subprocess.run(
        ["sh", "-c", f"{script} ps"], env={**os.environ, "TETHER_STATE_DIR": "here"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, "working directory was deleted" in done.stderr) == (1, True)
