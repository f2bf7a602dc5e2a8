"""``tether exec``: in containers and environments; what has no inside says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import channel
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
