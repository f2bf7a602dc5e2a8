"""What the tests share: owners in processes of their own, what survives them, and other users."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import tether
from tether.linux import proc

PROGRAMS = Path(__file__).parent / "programs"
ESCAPE = PROGRAMS / "escape.py"
NOBODY = 65534


# Before the command of a service that many tests share: it ends with the tests, however those end, and else after an hour.
# The tests as a whole take longer than the two minutes that any other process of theirs may live.
SERVICE = (*("setpriv", "--pdeathsig", "TERM"), *("timeout", "--signal=TERM", "--kill-after=20", "3600"))


def eventually(condition: Callable[[], Any], within: float = 10.0, what: str = "") -> Any:
    """Wait until ``condition`` returns something true, and return that; the test fails if it does not in time."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            message = f"not within {within} s: {what or condition}"
            raise AssertionError(message)
        time.sleep(0.005)


def is_alive(pid: int, start: int) -> bool:
    """Whether this very process runs; zombies, which may be waiting for somebody else's attention, do not."""
    stat = proc.read_stat(pid)
    return stat is not None and stat.start == start and stat.running


def survivors(folder: Path) -> list[str]:
    """Return the kinds of escapees that live, of those that escape.py made in this folder."""
    alive = []
    for path in folder.glob("*.pid"):
        pid, start = map(int, path.read_text().split())
        if is_alive(pid, start):
            alive.append(path.stem)
    for path in folder.glob("*.lock"):
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                alive.append(path.stem)
    return sorted(alive)


class Program(subprocess.Popen[str]):
    """A program of a test: it doesn't outlive the block that failed, which would wait for it."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, value, trace)


@dataclass
class Runner:
    """How to run Python as somebody: the command, its environment, and a folder that this user can write."""

    command: list[str]
    environ: dict[str, str]
    folder: Path
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(10**6)))

    def new_folder(self) -> Path:
        """Return a new folder that the user can write."""
        folder = self.folder / f"run-{next(self.numbers)}"
        folder.mkdir()
        if "setpriv" in self.command[0]:
            os.chown(folder, NOBODY, NOBODY)
        return folder

    def popen(self, code: str, *args: str | Path, **more: Any) -> Program:
        """Run a piece of Python; its standard output is a pipe."""
        return Program(
            [*self.command, "-c", code, *map(str, args)],
            stdout=subprocess.PIPE,
            text=True,
            env={**self.environ, **more.pop("env", {})},
            **more,
        )


def let_in(folder: Path) -> None:
    """Have every user come as far as this folder."""
    for parent in folder.parents:
        if parent != Path("/") and parent.stat().st_uid == os.getuid():
            parent.chmod(parent.stat().st_mode | 0o055)


def this_user(folder: Path) -> Runner:
    """Run as the user of the tests, with this very interpreter."""
    return Runner([sys.executable], dict(os.environ), folder)


def ordinary_user(folder: Path) -> Runner:
    """Run as nobody, with Debian's Python and a copy of tether, since neither root's home nor this folder may be readable."""
    library = folder / "library"
    shutil.copytree(Path(tether.__file__).parent, library / "tether", ignore=shutil.ignore_patterns("__pycache__"))
    distribution = library / f"tether-{tether.__version__}.dist-info"
    distribution.mkdir()
    for name in ("METADATA", "entry_points.txt"):
        (distribution / name).write_text(metadata.distribution("tether").read_text(name) or "")
    programs = folder / "programs"
    shutil.copytree(PROGRAMS, programs)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    let_in(folder)
    ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(library), "HOME": str(folder)}
    return Runner(["/usr/bin/setpriv", *ids, "/usr/bin/python3"], environ, folder)


ESCAPING_OWNER = """
import json, sys, time
from pathlib import Path
from tether import Owner, Process

folder, script, kinds = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
owner = Owner("escaping", state_dir=folder / "state")
resource = owner.start(Process([sys.executable, script, folder, *kinds], name="escape"))
deadline = time.monotonic() + 60
while not (folder / "all").exists() and time.monotonic() < deadline:
    time.sleep(0.005)
handle = resource._managed.handle
print(json.dumps({
    "shim": handle.data["shim"][0],
    "reaper": owner.status()["reaper"],
    "main": resource.pid,
    "id": resource.id,
    "tier": owner.status()["tier"],
}), flush=True)
order = sys.stdin.readline().strip()
if order == "stop":
    resource.stop(grace=0.2)
elif order == "kill":
    resource.kill()
elif order == "shutdown":
    owner.shutdown(grace=0.2)
print("done", flush=True)
sys.stdin.readline()
"""


@dataclass
class Escaping:
    """An owner in a process of its own, whose one resource has escaping descendants, all of them begun."""

    process: subprocess.Popen[str]
    folder: Path
    pids: dict[str, int]
    tier: str

    def survivors(self) -> list[str]:
        """Return the kinds that live."""
        return survivors(self.folder)

    def order(self, what: str) -> None:
        """Have the owner do something, and wait until it has."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == "done"

    def signal(self, signum: int, *who: str) -> None:
        """Signal owner, shim or reaper."""
        for each in who:
            os.kill(self.pids[each], signum)

    def starts(self) -> dict[str, int]:
        """Return the start times of owner, shim and reaper."""
        return {who: proc.start_time(pid) or 0 for who, pid in self.pids.items()}


@contextmanager
def escaping(runner: Runner, kinds: Sequence[str] = (), env: dict[str, str] | None = None) -> Iterator[Escaping]:
    """Start an owner with escaping descendants; at the end its process is killed, should it still be there."""
    folder = runner.new_folder()
    script = runner.folder / "programs/escape.py"
    process = runner.popen(
        ESCAPING_OWNER, folder, script if script.exists() else ESCAPE, *kinds, stdin=subprocess.PIPE, env=env or {}
    )
    assert process.stdout is not None
    try:
        said = json.loads(process.stdout.readline())
        pids = {"owner": process.pid, **{who: said[who] for who in ("shim", "reaper", "main")}}
        yield Escaping(process, folder, pids, said["tier"])
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
