"""Servers of MCP clients under ``tether run``: the SDK's own clients and servers, and clients that end in every way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import PROGRAMS, Runner, eventually, is_alive, survivors
from tether.linux import proc, signals, tree

pytestmark = pytest.mark.slow  # the SDK takes two seconds to import, in the client and in each server

CLIENT = """
import asyncio, contextlib, json, os, sys
from mcp import ClientSession, StdioServerParameters, stdio_client

async def main():
    # The SDK's servers get a handful of variables of the client's.
    state = {"TETHER_STATE_DIR": os.environ["TETHER_STATE_DIR"]}
    async with contextlib.AsyncExitStack() as stack:
        for command, *args in json.loads(sys.argv[1]):
            streams = await stack.enter_async_context(
                stdio_client(StdioServerParameters(command=command, args=args, env=state))
            )
            session = await stack.enter_async_context(ClientSession(*streams))
            await session.initialize()
            said = await session.call_tool("pid", {})
            print(said.content[0].text, flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""

KINDS = {"well-behaved": [], "helped": ["helpers"], "deaf": ["deaf"], "deaf and helped": ["deaf", "helpers"]}
RUN = (sys.executable, "-m", "tether", "run", "--grace", "1", "--")


class Client:
    """A client in a process of its own, whose servers answer.

    Attributes:
        process: the client.
        servers: by kind, the identity of each.
        tether: the identities of what tether runs for them: what the client started, and the guards above the servers.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path, kinds: Sequence[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.servers = {kind: _identity(int(process.stdout.readline())) for kind in kinds}
        self.folders = [folder / kind for kind in kinds if "helpers" in KINDS[kind]]
        for each in self.folders:
            eventually((each / "all").exists, 60.0)
            assert len(survivors(each)) == 13
        guards = {pid for server in self.servers.values() for pid in _above(server[0])}
        self.tether = [_identity(pid) for pid in {*tree.descendants(process.pid), *guards} - {process.pid}]

    def left(self) -> list[object]:
        """Return what of it is alive."""
        servers = [kind for kind, server in self.servers.items() if is_alive(*server)]
        helpers = [helper for folder in self.folders for helper in survivors(folder)]
        return [*servers, *helpers, *(each for each in self.tether if is_alive(*each))]


def _above(pid: int) -> Iterator[int]:
    """Yield the guards above a process."""
    stat = proc.read_stat(pid)
    while stat is not None and (above := proc.read_stat(stat.ppid)) is not None and above.name.startswith(b"tether-"):
        yield above.pid
        stat = above


def _identity(pid: int) -> tuple[int, int]:
    return pid, proc.start_time(pid) or 0


@contextmanager
def client_of(runner: Runner, folder: Path, kinds: Sequence[str], before: Sequence[str]) -> Iterator[Client]:
    """Run a client, with ``before`` in front of the commands of its servers; it is killed at the end."""
    for kind in kinds:
        (folder / kind).mkdir()
    program = [sys.executable, str(PROGRAMS / "mcp_server.py")]
    commands = [[*before, *program, str(folder / kind), *KINDS[kind]] for kind in kinds]
    with runner.popen(CLIENT, json.dumps(commands), stdin=subprocess.PIPE) as process:
        try:
            yield Client(process, folder, kinds)
        finally:
            process.kill()


def test_a_killed_client_leaves_nothing(runner: Runner, tmp_path: Path) -> None:
    """Neither servers, whatever they ignore, nor what they started, nor tether."""
    with client_of(runner, tmp_path, list(KINDS), RUN) as client:
        # Of each a hub, a shim, and what runs in the place of the server.
        assert len(client.tether) == 3 * len(KINDS)
        client.process.kill()
        client.process.wait(20)
        eventually(lambda: client.left() == [], 20.0)


def test_a_client_that_ends_in_order_leaves_nothing(runner: Runner, tmp_path: Path) -> None:
    """The SDK closes a server's pipe, and two seconds later signals its group: tether, and what the server has left in it."""
    with client_of(runner, tmp_path, list(KINDS), RUN) as client:
        client.process.communicate("\n", timeout=60)
        assert client.process.returncode == 0
        eventually(lambda: client.left() == [], 20.0)


def test_without_tether_a_deaf_server_stays(runner: Runner, tmp_path: Path) -> None:
    """So that the tests above prove something."""
    with client_of(runner, tmp_path, ["deaf"], ()) as client:
        client.process.kill()
        client.process.wait(20)
        assert client.left() != []
        signals.send(*client.servers["deaf"], signal.SIGKILL)
        eventually(lambda: client.left() == [])
