"""Speeds, each side by side with a peer or with the kernel's own floor, measured in one run.

    make bench

Every line names what is compared, both medians, their ratio and the ratio that the project set itself as a limit. Nothing
here asserts: figures of one machine on one day are for reading.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tether import Owner, Process
from tether.linux import cgroup, tree

TREE = """
import os, sys, time
def grow(widths):
    for _ in range(widths[0] if widths else 0):
        if os.fork() == 0:
            grow(widths[1:])
            while time.time() < end: time.sleep(5)
            os._exit(0)
end = time.time() + 100
grow([int(width) for width in sys.argv[1:]])
print("grown", flush=True)
while time.time() < end: time.sleep(5)
"""


def say(what: str, ours: float, theirs: float, unit: str, limit: str, peer: str) -> None:
    """Print one comparison."""
    print(
        f"{what:<46} {ours:9.3f} {unit}   {peer:<34} {theirs:9.3f} {unit}   ratio {ours / theirs:6.2f}   limit {limit}",
        flush=True,
    )


def timed(action: Callable[[], object]) -> float:
    """Return how many milliseconds ``action`` takes."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def argv_of_tree(*widths: int) -> list[str]:
    """Return a command that grows a tree with so many children at each level."""
    return [sys.executable, "-I", "-S", "-c", TREE, *map(str, widths)]


def size(*widths: int) -> int:
    """Return how many processes that tree has."""
    total, level = 1, 1
    for width in widths:
        level *= width
        total += level
    return total


def start_tree(owner: Owner, *widths: int) -> tuple[object, int]:
    """Start a tree and return its resource and the pid of its root, when it is grown."""
    resource = owner.start(Process(argv_of_tree(*widths), name=f"tree-{time.monotonic_ns()}"))
    while len(resource.pids()) < size(*widths):
        time.sleep(0.02)
    assert resource.pid is not None
    return resource, resource.pid


def bench_spawn(owner: Owner) -> None:
    """Spawns in a row, the started processes living on: through a warm owner with its record, and by subprocess, in turn."""
    owner.start(Process(["true"])).wait(10)
    ours, theirs = [], []
    for _ in range(5):
        processes: list[subprocess.Popen[bytes]] = []
        ours += [timed(lambda: owner.start(Process(["sleep", "60"]))) for _ in range(30)]
        for resource in owner.resources:
            resource.kill()
        theirs += [
            timed(lambda: processes.append(subprocess.Popen(["sleep", "60"], start_new_session=True)))  # noqa: B023
            for _ in range(30)
        ]
        for process in processes:
            process.kill()
            process.wait()
        time.sleep(0.1)
    say(
        "spawn, 30 in a row",
        statistics.median(ours),
        statistics.median(theirs),
        "ms",
        "2.0",
        "subprocess.Popen(new session)",
    )


def bench_first_start() -> None:
    """The first start of an owner, which starts its guard, beside a later one."""
    first, later = [], []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as state, Owner("first", state_dir=state) as owner:
            first.append(timed(lambda: owner.start(Process(["true"]))))
            later += [timed(lambda: owner.start(Process(["true"]))) for _ in range(5)]
    say("first start of an owner", statistics.median(first), statistics.median(later), "ms", "+ 10 ms", "a later start")


def bench_descendants(owner: Owner, limit: str, *widths: int) -> None:
    """List a tree, and have psutil list it."""
    resource, root = start_tree(owner, *widths)
    process = psutil.Process(root)
    rounds = 5 if size(*widths) > 1000 else 50
    assert set(tree.descendants(root)) == {child.pid for child in process.children(recursive=True)}
    ours = statistics.median(timed(lambda: tree.descendants(root)) for _ in range(rounds))
    theirs = statistics.median(timed(lambda: process.children(recursive=True)) for _ in range(rounds))
    resource.kill()  # type: ignore[attr-defined]
    say(f"descendants of {size(*widths)}", ours, theirs, "ms", limit, "psutil children(recursive=True)")


def kernel_kill(folder: str, *widths: int) -> float:
    """Return how long writing cgroup.kill takes for such a tree, until all of it has ended."""
    assert cgroup.make(folder)
    process = subprocess.Popen(
        ["sh", "-c", f'echo $$ > {folder}/cgroup.procs; exec "$@"', "sh", *argv_of_tree(*widths)],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    while len(cgroup.pids(folder)) < size(*widths):
        time.sleep(0.02)
    populated = Path(folder) / "cgroup.events"

    def end() -> None:
        cgroup.kill(folder)
        while "populated 1" in populated.read_text():
            time.sleep(0.0005)

    took = timed(end)
    process.wait()
    process.stdout.close()
    cgroup.remove(folder)
    return took


def bench_kill(owner: Owner, *widths: int) -> None:
    """Kill a tree through its resource, and by the kernel's own means."""
    folder = cgroup.owner_folder(f"bench-{os.getpid()}")
    if folder is None or not cgroup.make(folder):
        print("kill: skipped, no writable cgroup v2 here to compare with")
        return
    cgroup.remove(folder)
    ours, theirs = [], []
    for _ in range(5):
        resource, _ = start_tree(owner, *widths)
        ours.append(timed(resource.kill))  # type: ignore[attr-defined]
        theirs.append(kernel_kill(folder, *widths))
    say(
        f"kill a tree of {size(*widths)}",
        statistics.median(ours),
        statistics.median(theirs),
        "ms",
        "1.5",
        "cgroup.kill",
    )


OWNER_OF_TREE = """
import sys, time
from tether import Owner, Process
owner = Owner("dying", state_dir=sys.argv[1])
resource = owner.start(Process(sys.argv[3:]))
while len(resource.pids()) < int(sys.argv[2]): time.sleep(0.01)
print(*resource.pids(), flush=True)
time.sleep(60)
"""


def bench_death(*widths: int) -> None:
    """From SIGKILL of the owner until its tree is gone, and the kernel's own means for such a tree."""
    folder = cgroup.owner_folder(f"bench-{os.getpid()}")
    if folder is None:
        return
    ours, theirs = [], []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as state:
            command = [sys.executable, "-c", OWNER_OF_TREE, state, str(size(*widths)), *argv_of_tree(*widths)]
            owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert owner.stdout is not None
            pids = list(map(int, owner.stdout.readline().split()))

            def end(owner: subprocess.Popen[str] = owner, pids: list[int] = pids) -> None:
                os.kill(owner.pid, signal.SIGKILL)
                while any(tree.is_running(pid) for pid in pids):
                    time.sleep(0.0005)

            ours.append(timed(end))
            owner.wait()
            owner.stdout.close()
            # The hub has it settled: let it, before its folder goes.
            time.sleep(0.5)
        theirs.append(kernel_kill(folder, *widths))
    what = f"owner killed until a tree of {size(*widths)} is gone"
    say(what, statistics.median(ours), statistics.median(theirs), "ms", "2.0 + 20 ms", "cgroup.kill")


def bench_import() -> None:
    """What ``import tether`` adds to bare Python, by its own account."""

    def cost() -> float:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import tether"], capture_output=True, text=True, check=True
        )
        found = re.search(r"\|\s+(\d+) \| tether$", done.stderr, re.MULTILINE)
        return int(found.group(1)) / 1000 if found else 0.0

    bare = statistics.median(timed(lambda: subprocess.run([sys.executable, "-c", ""], check=True)) for _ in range(10))
    ours = statistics.median(cost() for _ in range(10))
    say("import tether", ours, bare, "ms", "(15 ms)", "starting bare Python")


def bench_commands() -> None:
    """What the command line takes beside bare Python."""
    with tempfile.TemporaryDirectory() as state, Owner("bench", state_dir=state) as owner:
        for number in range(3):
            owner.start(Process(["sleep", "60"], name=f"it-{number}"))
        # A user's Python keeps what it compiled.
        environ = {**os.environ, "TETHER_STATE_DIR": state, "PYTHONDONTWRITEBYTECODE": ""}

        def cost(*command: str) -> float:
            run = [sys.executable, *command]
            return statistics.median(
                timed(lambda: subprocess.run(run, env=environ, stdout=subprocess.DEVNULL, check=True)) for _ in range(9)
            )

        bare = cost("-c", "")
        for words in (["--version"], ["--help"], ["ps"], ["run", "--", "true"]):
            what = f"tether {' '.join(words)}"
            say(what, cost("-m", "tether", *words), bare, "ms", "(+ 80 ms)", "starting bare Python")


def bench_many(count: int) -> None:
    """Many starts at once, and the end of all: beside as many Popen, and terminate and wait."""
    children: list[subprocess.Popen[bytes]] = []

    def start_children() -> None:
        children.extend(subprocess.Popen(["sleep", "100"]) for _ in range(count))

    def end_children() -> None:
        for each in children:
            each.terminate()
        for each in children:
            each.wait()

    began, ended = timed(start_children), timed(end_children)
    with tempfile.TemporaryDirectory() as state:
        owner = Owner("many", state_dir=state)
        starting = timed(lambda: owner.start_all(Process(["sleep", "100"]) for _ in range(count)))
        ending = timed(owner.shutdown)
    say(f"start_all() of {count}", starting, began, "ms", "1.5", "as many Popen")
    say(f"shutdown() of {count}", ending, ended, "ms", "4.0", "terminate() and wait() of all")


def bench_memory(owner: Owner) -> None:
    """What shims and hub need."""
    resources = [owner.start(Process(["sleep", "60"])) for _ in range(20)]

    def kilobytes(pid: int, *fields: str) -> int:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        table = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return sum(table[field] for field in fields)

    hub = owner.status()["hub"]
    shims = [psutil.Process(resource.pid).ppid() for resource in resources if resource.pid]
    own = max(kilobytes(pid, "Private_Clean", "Private_Dirty") for pid in shims)
    print(f"{'memory of its own, largest of 20 shims':<46} {own:9d} kB   limit 64 kB")
    private = kilobytes(hub, "Private_Clean", "Private_Dirty")
    print(f"{'memory of its own of the hub':<46} {private:9d} kB   limit 512 kB")
    for resource in resources:
        resource.kill()


def bench_logs() -> None:
    """The last lines of a log of 1 GB, and of one without a line end, beside those of one of a few bytes."""

    def cost(state: str) -> tuple[float, int]:
        environ = {**os.environ, "TETHER_STATE_DIR": state}
        command = [sys.executable, "-m", "tether", "logs", "it", "-n", "10"]
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        return (time.perf_counter() - began) * 1000, usage.ru_maxrss

    with tempfile.TemporaryDirectory() as state, Owner("logs", state_dir=state) as owner:
        resource = owner.start(Process(["echo", "hello"], name="it"))
        resource.wait(10)
        path = Path(resource.info()["log"])
        small = [cost(state) for _ in range(5)]
        for what, line in (("lines", b"%099d\n" % 0), ("one line", bytes(100))):
            with path.open("ab") as file:
                for _ in range(100):
                    file.write(line * 100_000)
            large = [cost(state) for _ in range(5)]
            took, least = min(each for each, _ in large), min(each for each, _ in small)
            say(f"tether logs -n 10 of 1 GB, {what}", took, least, "ms", "+ 100 ms", "of 6 bytes")
            more = (min(each for _, each in large) - min(each for _, each in small)) / 1000
            print(f"{'  memory beyond that':<46} {more:9.1f} MB   limit 20 MB")


def main() -> None:
    """Run everything."""
    machine = f"Linux {os.uname().release}, {os.cpu_count()} processors, {len(psutil.pids())} processes"
    print(f"Python {sys.version.split()[0]}, {machine}\n")
    with tempfile.TemporaryDirectory() as state, Owner("bench", state_dir=state) as owner:
        bench_spawn(owner)
        print(f"{'':<46} (tier {owner.status()['tier']})")
        bench_descendants(owner, "0.10", 6)
        bench_descendants(owner, "0.25", 10, 10, 10)
        bench_kill(owner, 10, 10, 10)
        bench_memory(owner)
    bench_first_start()
    bench_death(10, 10)
    bench_import()
    bench_commands()
    for count in (100, 1000, 3000):
        bench_many(count)
    bench_logs()


if __name__ == "__main__":
    main()
