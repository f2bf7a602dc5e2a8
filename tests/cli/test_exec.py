"""``tether exec``: in containers and environments; what has no inside says so."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import channel
import support
from commandline import TETHER, tether
from engine import IMAGE, Engine
from tether import CondaEnv, Container, Owner, Process


def test_in_a_container(owner: Owner, engine: Engine) -> None:
    """With input, environment, folder, user and exit code; output and errors apart, and when they are written."""
    owner.start(Container(IMAGE, ["sleep", "100"], name="box", engine=engine.url, stop_grace=0))
    script = "cat; echo $A $B; pwd; id -u; echo bad >&2; exit 3"
    done = subprocess.run(
        [*TETHER, "exec", "-i", "-e", "A=b", "--env=B", "-w", "/bin", "-u", "1000", "box", "--", "sh", "-c", script],
        input="sent\n", capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "B": "here"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (3, "sent\nb here\n/bin\n1000\n", "bad\n")
    assert tether("exec", "box", "--", "echo", "--", "-u", "{port}") == "-- -u {port}\n"
    # Standard input is not passed on unasked.
    assert tether("exec", "box", "--", "cat", input="not asked for") == ""
    command = [*TETHER, "exec", "test/box", "--", "sh", "-c", "echo up; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.kill()
    # By the engine's word, which is one or the other.
    assert subprocess.run([*TETHER, "exec", "box", "--", "no-such-program"], timeout=60, check=False).returncode in (
        126,
        127,
    )


def test_in_an_environment(owner: Owner, tmp_path: Path) -> None:
    """Activated, with variables on top; it becomes the command."""
    address = channel.make(tmp_path / "channel")
    env = owner.start(CondaEnv(["tool"], [address], name="env"))
    said = tether(
        "exec", "-e", "A=b", "env", "--", "sh", "-c", "echo $CONDA_PREFIX $A; command -v tool; exit 4", code=4
    )
    prefix = env.details["conda_env"]
    assert said.splitlines()[:2] == [f"{prefix} b", f"{prefix}/bin/tool"]
    assert "--user and --workdir are for containers" in tether("exec", "-u", "me", "env", "--", "true", code=125)
    assert "no-such-program" in tether("exec", "env", "--", "no-such-program", code=125)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["web"], "put '--' before the command"),
        (["web", "--"], "there is no command"),
        (["--", "ls"], "NAME"),
        (["web", "ls", "--", "-l"], "one argument too many: ls"),
        (["nothing", "--", "ls"], "there is no resource 'nothing'"),
        (["web", "--", "ls"], "of kind process; its files, network and programs are this machine's"),
        (["job", "--", "ls"], "has ended (gone)"),
        (["test/*", "--", "ls"], "means 2 resources"),
        (["-e", "NO_SUCH_VARIABLE", "web", "--", "ls"], "there is no variable of this name here"),
    ],
)
def test_what_can_not_be_is_said(owner: Owner, words: list[str], said: str) -> None:
    """With 125, so that no exit code is taken for that of a command."""
    owner.start(Process(["sleep", "60"], name="web"))
    owner.start(Process(["sleep", "60"], name="other"))
    owner.start(Process([sys.executable, "-c", ""], name="job")).wait(10)
    assert said in tether("exec", *words, code=125)


class Typing:
    """``tether exec`` at a terminal, which this is the other end of."""

    def __init__(self, *words: str) -> None:
        self._ours, self.its = os.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(self.its)
        command = ["setsid", "--ctty", *TETHER, "exec", *words]
        self.process = subprocess.Popen(command, stdin=self.its, stdout=self.its, stderr=self.its)
        self._shown = ""

    def resize(self, rows: int, columns: int) -> None:
        """As somebody who pulls at the window."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        """As somebody at the keys."""
        os.write(self._ours, text.encode())

    def wait_for(self, text: str) -> None:
        """Wait until the terminal shows it."""

        def seen() -> bool:
            if select.select([self._ours], [], [], 0.05)[0]:
                self._shown += os.read(self._ours, 65536).decode()
            return text in self._shown

        support.eventually(seen, 30, text)

    def end(self) -> int:
        """Wait until it has ended; the terminal is as it was."""
        code = self.process.wait(30)
        assert termios.tcgetattr(self.its) == self.before
        os.close(self._ours)
        os.close(self.its)
        return code


def test_a_terminal_in_a_container(owner: Owner, engine: Engine) -> None:
    """What is typed is typed there, Ctrl-C too; it has this terminal's size, also when that changes."""
    owner.start(Container(IMAGE, ["sleep", "100"], name="box", engine=engine.url, stop_grace=0))
    script = (
        "trap 'echo caught; exit 5' INT; busybox tty; "
        'until [ "$(busybox stty size)" = "24 80" ]; do sleep 0.1; done; echo sized; read line; echo got $line $A; '
        'until [ "$(busybox stty size)" = "30 100" ]; do sleep 0.1; done; echo larger; while :; do sleep 0.1; done'
    )
    typing = Typing("-it", "-e", "A=b", "box", "--", "sh", "-c", script)
    typing.wait_for("/dev/pts/")
    typing.wait_for("sized")
    typing.type("hello\n")
    typing.wait_for("got hello b")
    typing.resize(30, 100)
    typing.wait_for("larger")
    typing.type("\x03")
    typing.wait_for("caught")
    assert typing.end() == 5


def test_the_terminal_is_given_back(owner: Owner, engine: Engine) -> None:
    """Somebody ends the command by a signal."""
    owner.start(Container(IMAGE, ["sleep", "100"], name="box", engine=engine.url, stop_grace=0))
    typing = Typing("-i", "-t", "box", "--", "sh", "-c", "echo up; sleep 100")
    typing.wait_for("up")
    typing.process.send_signal(signal.SIGTERM)
    assert typing.end() == 128 + signal.SIGTERM


def test_a_terminal_that_is_not_there(owner: Owner, engine: Engine) -> None:
    """It is said, and nothing is executed."""
    owner.start(Container(IMAGE, ["sleep", "100"], name="box", engine=engine.url, stop_grace=0))
    assert "-t: standard input is no terminal" in tether("exec", "-it", "box", "--", "sh", code=125, input="")
    assert "-t: standard output is no terminal" in tether("exec", "-t", "box", "--", "sh", code=125)


def test_a_terminal_in_an_environment(owner: Owner, tmp_path: Path) -> None:
    """It is that of here."""
    address = channel.make(tmp_path / "channel")
    owner.start(CondaEnv(["tool"], [address], name="env"))
    typing = Typing("-it", "env", "--", "sh", "-c", "tty; read line; echo got $line")
    typing.wait_for(os.ttyname(typing.its))
    typing.type("hello\n")
    typing.wait_for("got hello")
    assert typing.end() == 0
