"""Servers of MCP clients under ``tether run``: the SDK's own clients and servers, and clients that end in every way."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import PROGRAMS, Runner, eventually, is_alive, survivors
from tether.linux import proc, signals, tree

pytestmark = pytest.mark.slow  # the SDK takes a second to import, twice

CLIENT = """
import asyncio, os, sys
from mcp import ClientSession, StdioServerParameters, stdio_client

async def main():
    # The SDK's servers get a handful of variables of the client's.
    state = {"TETHER_STATE_DIR": os.environ["TETHER_STATE_DIR"]}
    server = StdioServerParameters(command=sys.argv[1], args=sys.argv[2:], env=state)
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        await session.initialize()
        said = await session.call_tool("pid", {})
        print(said.content[0].text, flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""

KINDS = [("well-behaved", []), ("helpers", ["helpers"]), ("deaf", ["deaf"]), ("deaf helpers", ["deaf", "helpers"])]


@contextmanager
def client_of(
    runner: Runner, folder: Path, how: list[str], before: tuple[str, ...]
) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """Run a client whose server answers and whose helpers have begun; yield it with the server's pid and start."""
    command = [*before, sys.executable, str(PROGRAMS / "mcp_server.py"), str(folder), *how]
    with runner.popen(CLIENT, *command, stdin=subprocess.PIPE) as client:
        assert client.stdout is not None
        pid = int(client.stdout.readline())
        start = proc.start_time(pid) or 0
        if "helpers" in how:
            eventually((folder / "all").exists, 60.0)
            assert len(survivors(folder)) == 13
        try:
            yield client, pid, start
        finally:
            client.kill()


def run_words(grace: str = "1") -> tuple[str, ...]:
    """What is put before the command of a server."""
    return (sys.executable, "-m", "tether", "run", "--grace", grace, "--")


@pytest.mark.parametrize("how", [how for _, how in KINDS], ids=[name for name, _ in KINDS])
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=["KILL", "TERM"])
def test_a_killed_client_leaves_nothing(runner: Runner, tmp_path: Path, how: list[str], signum: int) -> None:
    """Neither the server, whatever it ignores, nor what it started, nor tether."""
    with client_of(runner, tmp_path, how, run_words()) as (client, pid, start):
        below = [(each, proc.start_time(each) or 0) for each in tree.descendants(client.pid)]
        assert below
        client.send_signal(signum)
        client.wait(20)
        eventually(lambda: not is_alive(pid, start) and survivors(tmp_path) == [], 20.0)
        eventually(lambda: not any(is_alive(*each) for each in below), 20.0)


@pytest.mark.parametrize("how", [how for _, how in KINDS], ids=[name for name, _ in KINDS])
def test_a_client_that_ends_in_order_leaves_nothing(runner: Runner, tmp_path: Path, how: list[str]) -> None:
    """The SDK closes the pipe, and two seconds later signals the group: tether and what the server has left in it."""
    with client_of(runner, tmp_path, how, run_words()) as (client, pid, start):
        client.communicate("\n", timeout=30)
        eventually(lambda: not is_alive(pid, start) and survivors(tmp_path) == [], 20.0)


def test_without_tether_they_stay(runner: Runner, tmp_path: Path) -> None:
    """So that the tests above prove something: a deaf server of a killed client goes on."""
    with client_of(runner, tmp_path, ["deaf"], ()) as (client, pid, start):
        client.kill()
        client.wait(20)
        assert is_alive(pid, start)
        signals.send(pid, start, signal.SIGKILL)
        assert signals.wait_end(pid, start, 10.0)
