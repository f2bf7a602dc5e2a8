"""A hundred processes on five other hosts, side by side with as many plain asyncssh commands over five connections, in one run.

    make bench

The hosts are sshd servers in network namespaces of this machine, so root is needed. Nothing here asserts.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import asyncssh

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import hosts
from tether import Owner, RemoteProcess

HOSTS, PROCESSES, ROUNDS = 5, 100, 5


def plain(net: hosts.Net, addresses: list[str]) -> tuple[float, float]:
    """Time as many commands, eight at once on each connection: sshd allows ten by default.

    Returns:
        Seconds with the making of the connections, and without.
    """

    async def run() -> tuple[float, float]:
        options = {"username": hosts.USER, "client_keys": [str(net.key)], "known_hosts": str(net.known_hosts)}
        began = time.perf_counter()
        connections = await asyncio.gather(*(asyncssh.connect(address, **options) for address in addresses))
        connected = time.perf_counter()
        gates = [asyncio.Semaphore(8) for _ in connections]

        async def one(number: int) -> None:
            index = number % len(connections)
            async with gates[index]:
                await connections[index].run("true", check=True)

        await asyncio.gather(*(one(number) for number in range(PROCESSES)))
        ended = time.perf_counter()
        for connection in connections:
            connection.close()
            await connection.wait_closed()
        return ended - began, ended - connected

    return asyncio.run(run())


def ours(net: hosts.Net, addresses: list[str]) -> tuple[float, float]:
    """Time as many starts, each on record and synced before anything is created, until all are READY.

    Returns:
        Seconds with the making of the connections, and on connections that are there.
    """
    with tempfile.TemporaryDirectory() as state, Owner("bench", state_dir=state) as owner:

        def start(number: int) -> None:
            host = addresses[number % len(addresses)]
            owner.start(
                RemoteProcess(f"{hosts.USER}@{host}", ["sleep", "60"], key=net.key, known_hosts=net.known_hosts)
            )

        def all_started() -> float:
            with ThreadPoolExecutor(PROCESSES) as pool:
                began = time.perf_counter()
                list(pool.map(start, range(PROCESSES)))
                return time.perf_counter() - began

        times = all_started(), all_started()
        owner.shutdown(grace=1)
        return times


def say(what: str, mine: list[float], theirs: list[float], limit: str) -> None:
    """Print one comparison."""
    a, b = 1000 * statistics.median(mine), 1000 * statistics.median(theirs)
    print(
        f"{what:<46} {a:9.3f} ms   {'as many plain asyncssh commands':<34} {b:9.3f} ms   ratio {a / b:6.2f}   limit {limit}"
    )


def main() -> None:
    """Print the comparisons."""
    missing = hosts.why_not()
    if missing:
        print(f"remote processes: not measured, {missing}")
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tether-bench-")))
        net = stack.enter_context(hosts.made(folder))
        addresses = [stack.enter_context(hosts.running(net, number)).address for number in range(11, 11 + HOSTS)]
        plain(net, addresses)
        pairs = [(ours(net, addresses), plain(net, addresses)) for _ in range(ROUNDS)]
    for index, what, limit in (
        (0, "100 remote processes on 5 hosts, connecting", "3"),
        (1, "the same, connected already", "-"),
    ):
        say(what, [mine[index] for mine, _ in pairs], [theirs[index] for _, theirs in pairs], limit)


if __name__ == "__main__":
    main()
