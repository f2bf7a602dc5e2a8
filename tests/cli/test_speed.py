"""The command line answers at once: it imports what a command needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tether import Owner, Process

NEVER = {
    "typer", "click", "rich", "pydantic", "docker", "asyncssh", "rattler", "http.client", "ssl", "asyncio", "importlib.metadata",
    "platformdirs", "shutil", "tempfile", "concurrent.futures", "subprocess",
}  # fmt: skip
FOR_NO_READER = {"tether.life.driver", "tether.drivers", "tether.owner.owner", "tether.guard.launch", "logging"}


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
