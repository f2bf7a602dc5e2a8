"""``tether-guard hold`` itself, spoken with over pipes: what it serves to a login on another host, in a container or a pod."""

from __future__ import annotations

import errno
import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import eventually
from tether.guard import binary, wire
from tether.guard.wire import Kind, Message
from tether.linux import proc

MARK = b"0123456789abcdef#"


class Login:
    """One process that serves a folder, and its pipes."""

    def __init__(self, folder: Path) -> None:
        argv = [binary.path(), "hold", "--serve", str(folder), "--mark", MARK.decode(), "--umask", "22"]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._have = b""
        self._number = 0
        self.events: list[Message] = []
        self.hello = self.message()

    def message(self, within: float = 10.0) -> Message:
        """Return the next message."""
        deadline = time.monotonic() + within
        assert self.process.stdout is not None
        while True:
            at = self._have.find(MARK) + len(MARK)
            size = int.from_bytes(self._have[at : at + 4], "little")
            if at >= len(MARK) and len(self._have) >= at + 4 + size and len(self._have) >= at + 4:
                body, self._have = self._have[at + 4 : at + 4 + size], self._have[at + 4 + size :]
                return wire.decode(body)
            assert select.select([self.process.stdout], [], [], deadline - time.monotonic())[0], "no word from it"
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            assert data, "it ended"
            self._have += data

    def ask(self, kind: Kind, **fields: Any) -> Message:
        """Have one thing done, and return the answer."""
        self._number += 1
        assert self.process.stdin is not None
        self.process.stdin.write(wire.encode(kind, {"id": self._number, **fields}))
        self.process.stdin.flush()
        while True:
            message = self.message()
            if message.kind == Kind.ANSWER:
                assert message.number("id") == self._number
                return message
            self.events.append(message)

    def spawn(self, tag: str, *argv: str, lease: float = 60.0, **more: Any) -> Message:
        """Start a command."""
        fields = {"lease_ms": int(lease * 1000), "step_signal": 15, "step_ms": 1000, "fence": 1, **more}
        return self.ask(Kind.SPAWN, tag=tag, arg=list(argv), **fields)

    def event(self, kind: Kind) -> Message:
        """Return the next event of a kind."""
        while True:
            message = self.events.pop(0) if self.events else self.message()
            if message.kind == kind:
                return message

    def end(self) -> None:
        """End as a broken connection ends it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture
def logins(tmp_path: Path) -> Iterator[list[Login]]:
    """Two logins to one host."""
    made = [Login(tmp_path / "far") for _ in range(2)]
    yield made
    for login in made:
        if login.process.poll() is None:
            login.end()


def is_alive(message: Message) -> bool:
    """Whether the command of an answer lives."""
    stat = proc.read_stat(message.number("pid") or 0)
    return stat is not None and stat.start == message.number("start") and stat.state != "Z"


def test_a_command_from_beginning_to_end(logins: list[Login]) -> None:
    """Its environment, umask, log, exit code and receipt; cleared, nothing is known of it."""
    login = logins[0]
    env = ["A=it's", "B=two\nlines"]
    born = login.spawn("one", "sh", "-c", 'echo "$A $B $TETHER_RESOURCE $(umask)"; exit 3', env=env, cwd="/")
    assert (born.text("tier"), born.text("boot")) == ("shim", login.hello.text("boot"))
    assert login.event(Kind.EXITED).number("status") == 3
    ended = login.event(Kind.ENDED)
    assert (ended.text("tag"), ended.number("status"), "ECHILD" in ended.text("said")) == ("one", 3, True)
    log = login.ask(Kind.LOG, tag="one", offset=0, size=1000)
    assert log.text("data") == "it's two\nlines one 0022\n"
    assert '"status": 3' in logins[1].ask(Kind.LOOK, tag="one").text("receipt")
    login.ask(Kind.CLEAR, tag="one")
    assert not login.ask(Kind.LOOK, tag="one").fields.get("boot")


def test_errors_of_the_exec(logins: list[Login]) -> None:
    """The number, and what it is about; nothing is left."""
    for argv, cwd, number, about in (
        (["no-such-program"], "/", errno.ENOENT, "no-such-program"),
        (["true"], "/no/such", errno.ENOENT, "/no/such"),
        (["/etc/passwd"], "/", errno.EACCES, "/etc/passwd"),
    ):
        refused = logins[0].spawn("bad", *argv, cwd=cwd)
        assert (refused.number("errno"), refused.text("filename")) == (number, about)
    assert logins[0].ask(Kind.DIAGNOSE).texts("running") == []


def test_the_lease_ends_it_when_nobody_serves(logins: list[Login]) -> None:
    """Also when the serving process was killed; what has left the session goes with it."""
    born = logins[0].spawn("one", "sh", "-c", "setsid sleep 60 & exec sleep 60", lease=1)
    members = logins[0].ask(Kind.LOOK, tag="one").numbers("member")
    logins[0].process.kill()
    logins[0].end()
    time.sleep(0.5)
    assert is_alive(born)
    eventually(lambda: not any(proc.read_stat(pid) for pid in members), 2)
    assert "lease was over" in logins[1].ask(Kind.LOOK, tag="one").text("receipt")


def test_another_login_renews_adopts_and_ends(logins: list[Login]) -> None:
    """By the socket that the first one left; an owner that was replaced changes nothing any more."""
    first, second = logins
    born = first.spawn("one", "sleep", "60", lease=1)
    for _ in range(3):
        time.sleep(0.5)
        assert second.ask(Kind.RENEW, lease_ms=1000, fence=1, tag=["one", "none"]).texts("tag") == ["one"]
    assert second.ask(Kind.ADOPT, tag="one", lease_ms=60000, fence=1).number("errno") == errno.EBUSY
    assert second.ask(Kind.ADOPT, tag="one", lease_ms=60000, fence=2).number("fence") == 2
    assert first.ask(Kind.RENEW, lease_ms=1, fence=1, tag="one").texts("tag") == []
    assert first.ask(Kind.STOP, tag="one", step_ms=0, fence=1).number("errno") == errno.EBUSY
    time.sleep(0.2)
    assert is_alive(born)
    assert second.ask(Kind.STOP, tag="one", step_ms=0, fence=2).number("ending") == 1
    assert second.event(Kind.ENDED).number("status") == -9
    assert first.event(Kind.ENDED).number("status") == -9
    assert second.ask(Kind.ADOPT, tag="one", lease_ms=60000, fence=3).number("errno") == errno.ESRCH


@pytest.mark.parametrize("on_death", [0, 1, 2])
def test_what_becomes_of_it_when_the_lease_is_over(logins: list[Login], on_death: int) -> None:
    """Killed, stopped politely, or kept for a while and adopted within that."""
    script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    born = logins[0].spawn("one", "sh", "-c", script, lease=0.5, on_death=on_death, keep_ms=3000)
    if on_death == 2:
        time.sleep(1.5)
        assert is_alive(born)
        logins[1].ask(Kind.ADOPT, tag="one", lease_ms=60000, fence=2)
        time.sleep(2.5)
        assert is_alive(born)
        logins[1].ask(Kind.STOP, tag="one", step_ms=2000)
    ended = logins[0].event(Kind.ENDED)
    assert ended.number("status") == (-9 if on_death == 0 else 0)
    assert ("bye" in logins[0].ask(Kind.LOG, tag="one", offset=0, size=100).text("data")) == (on_death != 0)


def test_a_killed_shim(logins: list[Login]) -> None:
    """Said at once; what carries its marks is ended on request."""
    born = logins[0].spawn("one", "sh", "-c", "setsid sleep 60 & exec sleep 60")
    os.kill(born.number("shim") or 0, signal.SIGKILL)
    assert logins[0].event(Kind.LOST).text("tag") == "one"
    assert is_alive(born)
    logins[0].ask(Kind.STOP, tag="one", step_ms=0)
    eventually(lambda: not is_alive(born))
    assert "killed" in logins[0].ask(Kind.LOOK, tag="one").text("receipt")


def test_a_held_tree_is_small(logins: list[Login]) -> None:
    """At most 96 kB of its own for a shim, with what it shared with the login's process while that lived."""
    if binary.VARIABLE in os.environ:
        pytest.skip("another build of the guard")
    shims = [logins[0].spawn(f"t{number}", "sleep", "60", lease=3).number("shim") or 0 for number in range(3)]
    logins[0].end()
    for shim in shims:
        rows = Path(f"/proc/{shim}/smaps_rollup").read_text().splitlines()[1:]
        own = sum(int(row.split()[1]) for row in rows if row.startswith("Private"))
        assert own <= 96, own
    eventually(lambda: not any(proc.read_stat(shim) for shim in shims), 5)


def test_a_log_in_pieces_beside_renewals(logins: list[Login]) -> None:
    """Any bytes, at any offset, counted from the end too; a piece is never larger than asked for."""
    login = logins[0]
    login.spawn("one", "sh", "-c", "head -c 3000000 /dev/zero; printf 'the end\\377'; exec sleep 60", lease=60)
    eventually(lambda: login.ask(Kind.LOG, tag="one", offset=0, size=0).number("size") == 3000008)
    offset = 0
    while data := login.ask(Kind.LOG, tag="one", offset=offset, size=32768).fields["data"][0]:
        assert len(data) <= 32768
        assert login.ask(Kind.RENEW, lease_ms=60000, fence=1, tag="one").texts("tag") == ["one"]
        offset += len(data)
    assert offset == 3000008
    assert login.ask(Kind.LOG, tag="one", offset=-8, size=100).fields["data"][0] == b"the end\xff"
    login.ask(Kind.STOP, tag="one", step_ms=0)
    login.event(Kind.ENDED)


@pytest.mark.parametrize("seed", range(5))
def test_what_makes_no_sense(tmp_path: Path, seed: int) -> None:
    """Requests that were damaged at random: it answers, or ends; it never crashes, and serves the next as before."""
    chance = random.Random(seed)
    login = Login(tmp_path / "far")
    assert login.process.stdin is not None
    kinds = [kind for kind in Kind if kind is not Kind.SPAWN]
    for _ in range(300):
        fields = {
            name: chance.choice([0, -1, 1 << 62, b"x" * chance.randrange(200)])
            for name in chance.sample(list(wire.FIELDS), 6)
        }
        packet = bytearray(
            wire.encode(chance.choice(kinds), {"id": 1, "tag": chance.choice(["a", "../..", ""]), **fields})
        )
        for _ in range(chance.randrange(4)):
            packet[chance.randrange(5, len(packet))] = chance.randrange(256)
        packet[4] = wire.VERSION
        login.process.stdin.write(packet)
    login.process.stdin.write(b"\xff" * 100)
    output, _ = login.process.communicate(timeout=30)
    assert login.process.returncode == 0
    assert output.count(MARK) >= 250
    other = Login(tmp_path / "far")
    assert other.ask(Kind.DIAGNOSE).texts("running") == []
    other.end()


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """Nothing is kept where others can read or write it."""
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("open", "link"):
        login = Login(tmp_path / name)
        assert (login.hello.kind, login.hello.number("errno")) == (Kind.REFUSED, errno.EPERM)
        login.end()
