"""Completion, in the shells themselves."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from commandline import tether
from tether import Owner, Process
from tether.cli.commands import COMMANDS
from tether.cli.completion import _OPTIONS


@pytest.fixture
def names(owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Owner]:
    """Two owners with resources, and a ``tether`` that shells find."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "tether"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tether "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in ("web", "database"):
        owner.start(Process(["sleep", "60"], name=name))
    owner.start(Process(["true"], name="job")).wait(10)
    with Owner("other") as other:
        other.start(Process(["sleep", "60"], name="web"))
        yield owner


def _asked(*words: str) -> list[str]:
    return [line.partition("\t")[0] for line in tether("__complete", *words).splitlines()]


def test_what_may_come_next(names: Owner) -> None:
    """Commands, options, values, names: live ones to end, ended ones too to look at; OWNER/NAME where a name is not enough."""
    assert set(_asked("")) == set(COMMANDS)
    assert _asked("sto") == ["stop"]
    assert _asked("logs", "--ti") == ["--timestamps"]
    assert set(_asked("stop", "")) == {"test/web", "database", "other/web"}
    assert set(_asked("logs", "")) == {"test/web", "database", "other/web", "job"}
    assert _asked("stop", "database", "d") == []
    assert set(_asked("stop", "test/")) == {"test/web", "test/database"}
    assert _asked("ps", "--filter", "st") == ["state="]
    assert _asked("stop", "--grace", "") == []
    assert set(_asked("completion", "")) == {"bash", "zsh", "fish"}
    assert _asked("nonsense", "") == []


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_options_are_those_of_the_command(command: str) -> None:
    """What is completed stands in its help, and the reverse."""
    import re

    said = tether(command, "--help")
    assert set(re.findall(r"(?<![\w-])--[a-z-]+", said)) - {"--"} == set(_OPTIONS[command].split())


def test_bash(names: Owner) -> None:
    """Without the package bash-completion, too."""
    script = """
    eval "$(tether completion bash)"
    try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _tether; echo "${COMPREPLY[@]}"; }
    try tether ev; try tether stop da; try tether stop other/; try tether logs jo; try tether logs --fo
    """
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["events", "database", "other/web", "job", "--follow"]
    assert done.stderr == ""


def test_fish(names: Owner, tmp_path: Path) -> None:
    """With what each is; and the command of run is completed as that command."""
    if shutil.which("fish") is None:
        pytest.skip("no fish here")
    script = "tether completion fish | source; complete -C 'tether ev'; complete -C 'tether stop da'; complete -C 'tether run -- ls /etc/host'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.startswith(
        "events\twhat happened: who ended what, why, and the proof\ndatabase\tprocess, ready\n"
    )
    assert "/etc/hosts" in done.stdout


@pytest.mark.slow  # a shell on a terminal says when it is ready by its prompt alone
def test_zsh(names: Owner, tmp_path: Path) -> None:
    """On a terminal, since zsh completes only there."""
    if shutil.which("zsh") is None:
        pytest.skip("no zsh here")
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**os.environ, "TERM": "dumb", "PS1": "%%%% ", "HOME": str(tmp_path)})

    def answer(typed: str, wanted: str) -> str:
        os.write(fd, typed.encode())
        seen, deadline = "", time.monotonic() + 30
        while wanted not in seen and time.monotonic() < deadline:
            if select.select([fd], [], [], 0.2)[0]:
                seen += os.read(fd, 65536).decode(errors="replace")
        return seen

    try:
        answer("", "%")
        set_up = "autoload -Uz compinit; compinit -u -D; eval \"$(tether completion zsh)\"; echo re''ady\n"
        assert "ready" in answer(set_up, "ready")
        assert "events" in answer("tether ev\t", "events")
        assert "database" in answer("\x15tether stop da\t", "database")
        assert "other/web" in answer("\x15tether stop other/\t", "other/web")
    finally:
        os.close(fd)
        os.waitpid(pid, 0)
