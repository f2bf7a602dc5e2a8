"""The command line answers at once: it imports what a command needs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from commandline import TETHER
from tether import Owner, Process

NEVER = {
    "typer", "click", "rich", "pydantic", "docker", "asyncssh", "rattler", "http.client", "ssl", "asyncio", "importlib.metadata",
    "platformdirs", "shutil", "tempfile", "concurrent.futures", "subprocess",
}  # fmt: skip
FOR_NO_READER = {"tether.life.driver", "tether.drivers", "tether.owner.owner", "tether.guard.launch", "logging"}
LIMIT_S = 0.080


@pytest.mark.parametrize(
    "command", ["--version", "--help", "ps", "ps -q", "tree", "events", "logs it", "where", "stop -h"]
)
def test_nothing_is_imported_that_a_command_does_not_need(owner: Owner, command: str) -> None:
    """No client, no driver for a process, and not the entry points of every installed package."""
    owner.start(Process(["sh", "-c", "echo up; sleep 60"], name="it"))
    code = (
        "import sys; sys.argv[1:] = sys.argv[1].split()\n"
        "from tether.cli import main\n"
        "try: main()\nfinally: print('LOADED', *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stderr.partition("LOADED ")[2].split())
    unwanted = NEVER if command.startswith("stop") else NEVER | FOR_NO_READER
    assert loaded & unwanted == set()


def _cpu_s(command: list[str]) -> float:
    """The processor time of a command, which other load on the machine hardly changes."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environ)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.slow  # several Pythons are started in turn, since one start says little
def test_it_answers_within_80_ms_over_bare_python(owner: Owner) -> None:
    """``--version``, ``--help``, and ``ps`` of what runs."""
    for number in range(3):
        owner.start(Process(["sleep", "60"], name=f"it-{number}"))
    commands = {"--version": ["--version"], "--help": ["--help"], "ps": ["ps"]}
    bare: list[float] = []
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(8):
        bare.append(_cpu_s([sys.executable, "-c", "pass"]))
        for name, args in commands.items():
            took[name].append(_cpu_s([*TETHER, *args]))
    over = {name: min(times) - min(bare) for name, times in took.items()}
    assert max(over.values()) <= LIMIT_S, over
