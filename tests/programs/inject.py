"""Injected faults: a kill or an error at one system call of an owner, hub, shim or adopter; then what lives is compared with what should.

    make inject SAMPLES=300
    .venv/bin/python tests/programs/inject.py --role hub --call recvmsg --nth 3 --what ENOMEM     # one again

strace(1) attaches to who is meant, and has its n-th call of one name fail, or kills it there. Everything is done under that: start,
run, polite end, kill, restart, a kept resource, an owner's orderly end or death, adoption. After it must hold:

- no member of any tree lives but those of a neighbour, an owner of the same state directory, and bystanders, which all do;
- what was said to have ended, or not to have started, had no members any more;
- who was not killed can start again: no error that passes ends starts for good;
- no method raised anything but TetherError or OSError;
- after a sweep no row of the ledger is open, and each has an event of its end.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tether.estate import settle
from tether.ledger.store import Ledger
from tether.linux import proc, tree

ROLES = ("owner", "hub", "shim", "adopter", "everyone")
PASSES = ("EAGAIN", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ENOSPC", "EPIPE")
MAKES_FD = "openat socket socketpair pipe2 eventfd2 epoll_create1 pidfd_open dup fcntl accept4 signalfd4 inotify_init1"
CAN_FAIL = {
    "EAGAIN": "clone clone3 fork vfork recvmsg sendmsg recvfrom sendto read accept4 fcntl flock",
    "EMFILE": MAKES_FD,
    "ENFILE": MAKES_FD,
    "ENOBUFS": "sendmsg sendto recvmsg recvfrom socket",
    "ENOMEM": f"{MAKES_FD} clone clone3 fork vfork mmap poll epoll_ctl sendmsg recvmsg recvfrom sendto mkdir readlink newfstatat "
    "read write pwrite64 getdents64 fsync unlink execve",
    "ENOSPC": "write pwrite64 openat mkdir ftruncate fsync fdatasync inotify_add_watch",
    "EPIPE": "write sendmsg sendto",
}
HARMLESS = {"exit", "exit_group", "rt_sigreturn", "restart_syscall"}

# The words that it hears are lines; what it says are lines of JSON. It never ends by an error of these two.
OWNER = """
import ctypes, json, os, sqlite3, subprocess, sys
import tether, tether.owner.owner, tether.drivers.process
from tether import Owner, Process, TetherError
state, mark, name = sys.argv[1:4]
out = int(sys.argv[4])
os.set_inheritable(out, False)
held = {}

def say(what):
    data = json.dumps(what).encode() + b"\\n"
    while data:
        try: data = data[os.write(out, data):]
        except OSError: pass

def hear():
    line = b""
    while not line.endswith(b"\\n"):
        try: byte = os.read(0, 1)
        except OSError: continue
        if not byte: os._exit(0)
        line += byte
    return line.decode().split()

def spec(what, **more):
    sleep = f"sleep {mark}{what}"
    return Process(["sh", "-c", f"setsid {sleep} & trap '' HUP; {sleep} & {sleep} & wait"], name=f"r{what}", stop_grace=0.3, **more)

def do(verb, what="0"):
    if verb == "begin": held["owner"] = Owner(name, state_dir=state)
    elif verb == "start": held[what] = held["owner"].start(spec(what))
    elif verb == "keep": held[what] = held["owner"].start(spec(what, on_death="keep", keep_for=60))
    elif verb == "adopt": held[what] = held["owner"].adopt(f"r{what}")
    elif verb == "look": return [held["owner"].status()["hub"], held["owner"].pids()][0]
    elif verb == "shutdown": held["owner"].shutdown()
    elif what in held: getattr(held[what], verb)()
    else: return "absent"

say({"done": "up"})
while True:
    words = hear()
    try: say({"done": words, "value": do(*words)})
    except BaseException as error:
        import traceback
        parts = getattr(error, "exceptions", [error])
        fair = all(isinstance(each, (TetherError, OSError)) and type(each).__name__ != "IllegalTransition" for each in parts)
        say({"done": words, "error": "; ".join(f"{type(each).__name__}: {each}"[:300] for each in parts), "fair": fair,
             "trace": "" if fair else "".join(traceback.format_exception(error))[-1500:]})
"""

BEFORE = ("start 1", "keep 2", "look", "stop 1", "start 3", "kill 3", "start 4", "restart 4")
AGAIN = ("start 7", "look", "kill 7")


class Hangs(Exception):
    """A step was not over in time."""


class Actor:
    """A process that does what it is told, one thing after the other."""

    def __init__(self, state: Path, mark: str, name: str) -> None:
        heard, said = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(state), mark, name, str(said)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(said,),
        )
        os.close(said)
        self.heard = heard
        self.pending = b""
        self.pid = self.process.pid
        assert self.answer(30) is not None, "the actor did not come up"

    def answer(self, within: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + within
        while b"\n" not in self.pending:
            if not select.select([self.heard], [], [], max(0, deadline - time.monotonic()))[0]:
                raise Hangs
            data = os.read(self.heard, 65536)
            if not data:
                self.process.wait()
                return None
            self.pending += data
        line, self.pending = self.pending.split(b"\n", 1)
        said: dict[str, Any] = json.loads(line)
        return said

    def do(self, words: str, within: float = 45) -> dict[str, Any] | None:
        """Have it do one thing; its answer, None if it has died."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(words.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            self.process.wait()
            return None
        return self.answer(within)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.heard)
        for stream in (self.process.stdin, self.process.stderr):
            if stream is not None:
                stream.close()


class Tracer:
    """strace, attached to processes."""

    def __init__(self, pids: list[int], how: list[str], output: Path | str) -> None:
        command = ["strace", "-o", str(output), *how, *(word for pid in pids for word in ("-p", str(pid)))]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        said, deadline = b"", time.monotonic() + 20
        while said.count(b"attached") < len(pids):
            if not select.select([self.process.stderr], [], [], max(0, deadline - time.monotonic()))[0]:
                raise Hangs
            piece = os.read(self.process.stderr.fileno(), 65536)
            if not piece:
                raise RuntimeError(f"strace can't attach: {said.decode()}")
            said += piece

    def end(self) -> None:
        """Let go of everybody."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


def alive(mark: bytes) -> list[int]:
    """Who has this mark on its command line."""
    found = []
    for pid in proc.all_pids():
        try:
            if mark in Path(f"/proc/{pid}/cmdline").read_bytes() and tree.is_running(pid):
                found.append(pid)
        except OSError:
            continue
    return found


def soon_none(mark: bytes, within: float) -> bool:
    """Whether nobody has this mark any more, at the latest after a while."""
    deadline = time.monotonic() + within
    while alive(mark) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(mark)


class Fault:
    """Who fails how: a role, the name of a call, which one of it, and a signal or an error."""

    def __init__(self, role: str, call: str, nth: int, what: str) -> None:
        self.role, self.call, self.nth, self.what = role, call, nth, what

    def __str__(self) -> str:
        return f"--role {self.role} --call {self.call} --nth {self.nth} --what {self.what}"

    @property
    def how(self) -> list[str]:
        sort = "signal=KILL" if self.what == "KILL" else f"error={self.what}"
        return ["-s0", f"-etrace={self.call}", f"-einject={self.call}:{sort}:when={self.nth}"]


class Run:
    """One scenario under one fault, or under none, which counts the calls.

    Attributes:
        problems: what must not be.
        said: the errors that the methods raised.
    """

    def __init__(self, state: Path, role: str, how: list[str], orderly: bool, number: int, output: Path | str) -> None:
        self.state, self.role, self.how, self.orderly, self.output = state, role, how, orderly, output
        self.mark = f"77.{os.getpid()}{number:05d}"
        self.name = f"i{os.getpid()}-{number}"
        self.problems: list[str] = []
        self.said: list[str] = []
        self.tracer: Tracer | None = None

    def check(self, good: object, what: str) -> None:
        if not good:
            self.problems.append(what)

    def step(self, actor: Actor, words: str) -> bool:
        """Do one thing, and compare what is said of it with the process table. False if the actor has died."""
        try:
            answer = actor.do(words)
        except Hangs:
            self.problems.append(f"{words} hangs")
            return False
        if answer is None:
            self.note_death(actor, words)
            return False
        error = answer.get("error")
        if error:
            self.said.append(f"{words}: {error}")
            self.check(answer["fair"], f"{words} raised {error}\n{answer['trace']}")
        verb, _, what = words.partition(" ")
        ended = verb in ("stop", "kill") if not error else verb in ("start", "keep")
        if what and ended and answer.get("value") != "absent":
            # What could not be started is ended by whoever is left; what has been stopped is gone by now.
            mark = f"{self.mark}{what}".encode()
            self.check(soon_none(mark, 8.0 if error else 0.3), f"after {words} ({error or 'done'}) members of it live")
        return True

    def note_death(self, actor: Actor, words: str) -> None:
        code = actor.process.returncode
        if code != -signal.SIGKILL:
            assert actor.process.stderr is not None
            self.problems.append(f"{words}: the actor ended with {code}: {actor.process.stderr.read().decode()[-1500:]}")

    def attach(self, pids: list[int], *more: str) -> None:
        self.tracer = Tracer(pids, [*more, *self.how], self.output)

    def detach(self) -> None:
        if self.tracer is not None:
            self.tracer.end()
            self.tracer = None

    def carry_out(self) -> list[str]:
        """Go through all of it; returns what must not be."""
        actors: list[Actor] = []
        try:
            self.live(actors)
        except Hangs:
            self.problems.append("strace or an actor hangs")
        finally:
            self.detach()
            for actor in actors:
                actor.end()
            self.settle()
        return self.problems

    def live(self, actors: list[Actor]) -> None:
        actors.append(Actor(self.state, self.mark, self.name))
        owner = actors[0]
        if self.role == "owner":
            self.attach([owner.pid], "-f", "-bexecve")
        if self.role == "everyone":
            self.attach([owner.pid], "-f")
        if not self.begin(owner):
            return
        if self.role in ("hub", "shim"):
            self.step(owner, "start 0")
            hub = (owner.do("look") or {})["value"]
            self.attach([hub] if self.role == "hub" else tree.children(hub))
        goes_on = all(self.step(owner, words) for words in BEFORE)
        if self.role in ("owner", "everyone", "hub", "shim") and not self.orderly:
            owner.process.kill()
            owner.process.wait()
            goes_on = False
        if goes_on:
            self.detach()
            self.go_on(owner)
        actors.append(Actor(self.state, self.mark, self.name))
        heir = actors[1]
        if self.role == "adopter":
            self.attach([heir.pid], "-f", "-bexecve")
        if self.begin(heir) and all(self.step(heir, words) for words in ("adopt 2", "look", "stop 2", "start 5")):
            self.detach()
            self.go_on(heir)

    def begin(self, actor: Actor) -> bool:
        """Make its owner; one that could not be made must come about at the second try."""
        for _ in range(2):
            before = len(self.said)
            if not self.step(actor, "begin"):
                return False
            if len(self.said) == before:
                return True
        self.problems.append("an owner can't be made")
        return False

    def go_on(self, actor: Actor) -> None:
        """What passes has passed: it can start things, and end in order."""
        for words in AGAIN:
            before = len(self.said)
            if not self.step(actor, words):
                return
            self.check(len(self.said) == before, f"later, {'; '.join(self.said[before:])}")
        if self.step(actor, "shutdown") and any(each.startswith("shutdown") for each in self.said):
            self.step(actor, "shutdown")

    def settle(self) -> None:
        """A sweep leaves nothing, and the record says so."""
        deadline = time.monotonic() + 20
        mark = self.mark.encode()
        while True:
            ledger = Ledger(self.state)
            try:
                settle.sweep(ledger, self.state, kept_too=True, patient=True)
                mine = {each.id for each in ledger.owners(ended=True) if each.name == self.name}
                open_owners = [each for each in ledger.owners() if each.id in mine]
                rows = [each for each in ledger.resources(ended=True) if each.owner in mine]
                open_rows = [each for each in rows if not each.state.is_final]
                told = {each.resource for each in ledger.events() if each.what in ("gone", "failed")}
            finally:
                ledger.close()
            left = alive(mark)
            if not (left or open_owners or open_rows) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        self.check(not left, f"{len(left)} survivors: {left}")
        self.check(not open_owners, f"open owners: {open_owners}")
        self.check(not open_rows, f"open rows: {open_rows}")
        untold = [each for each in rows if each.id not in told]
        self.check(not untold, f"no event says how these ended: {[(each.name, each.state.value, each.reason) for each in untold]}")
        for pid in left:
            os.kill(pid, signal.SIGKILL)  # ours by its mark, which no other run has


class Sweep:
    """Many faults, on one state directory with a neighbour, and beside bystanders that look like members."""

    def __init__(self, folder: Path | str, lives_s: int = 110) -> None:
        self.state = Path(folder) / "state"
        self.mark = f"{lives_s}.{os.getpid()}"
        self.neighbour = Actor(self.state, self.mark, "neighbour")
        for words in ("begin", "start 1", "keep 2"):
            answer = self.neighbour.do(words)
            assert answer is not None and "error" not in answer, answer
        environ = {**os.environ, "TETHER_RESOURCE": "a" * 32, "TETHER_OWNER": "b" * 32}
        self.bystanders = [
            subprocess.Popen(["sleep", f"{self.mark}3"], env=environ if each else None, start_new_session=bool(each)) for each in range(2)
        ]
        self.counts: dict[str, dict[str, int]] = {}
        self.number = 0

    def run(self, role: str, how: list[str], orderly: bool = True, output: Path | str = "/dev/null") -> Run:
        self.number += 1
        run = Run(self.state, role, how, orderly, self.number, output)
        run.carry_out()
        lost = [n for n in (1, 2) if len(alive(f"{self.mark}{n}".encode())) < 4]
        run.check(not lost, f"the neighbour lost {lost}")
        run.check(all(each.poll() is None for each in self.bystanders), "a bystander was killed")
        return run

    def count(self, role: str) -> dict[str, int]:
        """How often each call is made by those of a role, by the one that makes it most often."""
        if role not in self.counts:
            output = self.state.parent / "calls"
            run = self.run(role, ["-s0"], output=output)
            assert not run.problems, run.problems
            most: collections.Counter[str] = collections.Counter()
            by_thread: dict[str | None, collections.Counter[str]] = collections.defaultdict(collections.Counter)
            for line in output.read_text(errors="replace").splitlines():
                found = re.match(r"(?:(\d+) +)?(\w+)\(", line)
                if found:
                    by_thread[found[1]][found[2]] += 1
            for each in by_thread.values():
                most |= each
            self.counts[role] = {call: count for call, count in most.items() if call not in HARMLESS}
        return self.counts[role]

    def choose(self, rng: random.Random, role: str | None = None, what: str | None = None) -> Fault | None:
        """A fault that is possible: rare calls as often as frequent ones, half of them among the first ones."""
        role = role or rng.choice(ROLES)
        counts = self.count(role)
        what = what or rng.choice(["KILL", "KILL", "KILL", *PASSES])
        calls = sorted(call for call in counts if what == "KILL" or call in CAN_FAIL[what].split())
        if not calls:
            return None
        call = rng.choice(calls)
        most = counts[call]
        return Fault(role, call, rng.randint(1, min(most, 6) if rng.random() < 0.5 else most), what)

    def carry_out(self, fault: Fault, orderly: bool) -> Run:
        return self.run(fault.role, fault.how, orderly)

    def end(self) -> None:
        self.neighbour.do("shutdown")
        self.neighbour.end()
        for each in self.bystanders:
            each.kill()
            each.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--role", choices=ROLES)
    parser.add_argument("--what", choices=("KILL", *PASSES))
    parser.add_argument("--call", help="one fault only: the name of the system call")
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--death", action="store_true", help="with --call: the owner dies instead of ending in order")
    arguments = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="tether-inject-") as folder:
        sweep = Sweep(folder, 7200)
        if arguments.call:
            faults: list[tuple[Fault | None, bool]] = [(Fault(arguments.role, arguments.call, arguments.nth, arguments.what), not arguments.death)]
        else:
            rngs = [random.Random(number) for number in range(arguments.first, arguments.first + arguments.samples)]
            faults = [(sweep.choose(rng, arguments.role, arguments.what), rng.random() < 0.6) for rng in rngs]
        for fault, orderly in faults:
            if fault is None:
                continue
            began = time.monotonic()
            run = sweep.carry_out(fault, orderly)
            how = "" if orderly else " --death"
            print(f"{fault}{how}: {time.monotonic() - began:.1f} s, {'; '.join(run.said)[:200]}", flush=True)
            for problem in run.problems:
                print(f"  PROBLEM {problem}", flush=True)
            wrong += bool(run.problems)
        sweep.end()
    print(f"{len(faults)} faults, {wrong} of them with problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
