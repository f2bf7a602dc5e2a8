"""Two namespaces, two boots, one state directory: what can't be judged from here is not dead, and left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from support import eventually
from tether import Owner, Process
from tether.errors import StateDirError
from tether.estate import settle as estate
from tether.estate.standing import Standing, standing
from tether.ledger import place, proof
from tether.ledger.proof import Proof
from tether.ledger.store import Ledger
from tether.linux import identity, whereabouts
from tether.linux.whereabouts import Whereabouts
from tether.model import Identity, State

NAMESPACE = ["unshare", "-pf", "--mount-proc", "--kill-child"]
ANOTHER_BOOT = (
    'mount -t proc proc /proc && mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'  # in a mount namespace
)

LIVING = """
import sys
from tether import Owner, Process
owner = Owner("there", state_dir=sys.argv[1])
resource = owner.start(Process(["sleep", "90"], name="svc"))
kept = owner.start(Process(["sleep", "90"], name="kept", on_death="keep", keep_for=60))
print("up", flush=True)
for line in sys.stdin:
    print(resource.state.value, len(resource.pids()), kept.state.value, flush=True)
    if line.strip() == "end":
        break
kept.kill()
owner.shutdown()
"""

SWEEP = """
import sys, json
from pathlib import Path
from tether import Owner
from tether.estate import settle as estate
from tether.ledger.store import Ledger
Owner("here", state_dir=sys.argv[1]).shutdown()
ledger = Ledger(Path(sys.argv[1]))
print(json.dumps([each.what for each in estate.sweep(ledger, Path(sys.argv[1]), patient=True, kept_too=True)]))
ledger.close()
"""


@pytest.fixture(params=["namespace", "boot"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """What a command is run under to be elsewhere."""
    if os.getuid() != 0:
        pytest.skip("only root can make namespaces here")
    if request.param == "namespace":
        return NAMESPACE
    boot = tmp_path / "boot_id"
    boot.write_text("00000000-aaaa-bbbb-cccc-000000000001\n")
    return ["unshare", "-mpf", "--kill-child", "sh", "-c", ANOTHER_BOOT, str(boot)]


class Living:
    """An owner in a process of its own."""

    def __init__(self, under: list[str], state: Path) -> None:
        self.process = subprocess.Popen(
            [*under, sys.executable, "-c", LIVING, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"

    def ask(self, what: str = "") -> str:
        """Have it say how its resources are."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def end(self) -> None:
        """Let it end."""
        if self.process.poll() is None:
            self.ask("end")
        self.process.communicate(timeout=30)


def sweep(under: list[str], state: Path) -> str:
    """Make an owner and a patient sweep."""
    return subprocess.run(
        [*under, sys.executable, "-c", SWEEP, str(state)], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


@pytest.mark.slow
def test_a_living_owner_elsewhere_is_left_alone(elsewhere: list[str], private_state: Path) -> None:
    """From here and from there: nothing of the other is touched, nor put on record as gone. Slow: owners in namespaces."""
    for there, here in ((elsewhere, []), ([], elsewhere)):
        living = Living(there, private_state)
        try:
            assert sweep(here, private_state) == '["elsewhere", "elsewhere"]'
            assert living.ask() == "ready 1 ready\n"
        finally:
            living.end()
        ledger = Ledger(private_state)
        assert ledger.resources() == []
        ledger.close()


@pytest.mark.slow
def test_the_command_line_refuses_what_is_elsewhere(private_state: Path) -> None:
    """Shown as that; stop, kill and reap do nothing to it without --force, and with it find it by its tag. Slow: a namespace."""
    if os.getuid() != 0:
        pytest.skip("only root can make namespaces here")

    def tether(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tether", *arguments], capture_output=True, text=True, check=False, timeout=60
        )

    living = Living(NAMESPACE, private_state)
    try:
        assert tether("ps").stdout.count("elsewhere") == 2
        for command in ("stop", "kill"):
            refused = tether(command, "svc")
            assert refused.returncode == 1
            assert "elsewhere" in refused.stderr
        assert tether("reap", "--dry-run").stdout.count("elsewhere") == 2
        assert living.ask() == "ready 1 ready\n"
        assert tether("kill", "--force", "svc").returncode == 0
        eventually(lambda: living.ask().split()[0] in ("gone", "failed"))
    finally:
        living.end()


@pytest.mark.slow
def test_an_owner_that_died_elsewhere_is_settled_from_here(private_state: Path) -> None:
    """Its whole namespace was killed, with all its guards: its lock is free, so it is dead. Slow: a namespace."""
    if os.getuid() != 0:
        pytest.skip("only root can make namespaces here")
    living = Living(NAMESPACE, private_state)
    living.process.kill()
    living.process.communicate()
    ledger = Ledger(private_state)
    eventually(lambda: standing(ledger.owners()[0], private_state) is Standing.DEAD)
    outcomes = {each.name: each.what for each in estate.sweep(ledger, private_state, patient=True, kept_too=True)}
    # The kernel may not be done with all of them yet.
    assert outcomes.keys() == {"svc", "kept"}
    assert set(outcomes.values()) <= {"already gone", "ended"}
    assert ledger.owners() == []
    ledger.close()


@pytest.fixture
def ledger(private_state: Path) -> Iterator[Ledger]:
    """A ledger with an owner whose process has gone."""
    made = Ledger(place.prepare(private_state))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("where", "lock", "shared", "known"),
    [
        ({}, None, False, Standing.DEAD),
        ({"pid_ns": "pid:[1]"}, "held", False, Standing.ELSEWHERE),
        ({"pid_ns": "pid:[1]"}, "free", False, Standing.DEAD),
        ({"pid_ns": "pid:[1]"}, None, False, Standing.ELSEWHERE),
        ({"time_ns": "time:[1]"}, "held", False, Standing.ELSEWHERE),
        ({"boot": "earlier"}, None, False, Standing.DEAD),
        ({"boot": "earlier"}, "held", False, Standing.ELSEWHERE),
        ({"boot": "other", "machine": "other"}, "free", True, Standing.ELSEWHERE),
        ({"boot": "other", "host": "other"}, "free", True, Standing.ELSEWHERE),
        ({"boot": "other", "machine": "other"}, None, True, Standing.ELSEWHERE),
        ({"boot": "earlier"}, "free", True, Standing.DEAD),
        ({"boot": "earlier"}, None, True, Standing.ELSEWHERE),
    ],
)
def test_what_is_known_of_an_owner(
    ledger: Ledger,
    private_state: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: dict[str, str],
    lock: str | None,
    shared: bool,
    known: Standing,
) -> None:
    """Where pids mean the same, its identity; elsewhere its lock; on another kernel only what a disk of one kernel allows."""
    monkeypatch.setattr(whereabouts, "is_shared", lambda _: shared)
    mine = replace(whereabouts.here(), machine="m")
    there = replace(mine, **where)
    ledger.add_owner("o1", "app", Identity(there.boot, 2**22 + 1, 1), None, there)
    held = Proof(private_state, "o1") if lock == "held" else None
    if lock == "free":
        proof.path(private_state, "o1").touch()
    (owner,) = ledger.owners()
    assert standing(owner, private_state, mine) is known
    if held is not None:
        held.drop()


def test_an_owner_holds_its_lock_and_its_forks_do_not(private_state: Path) -> None:
    """For as long as it lives, and no longer, whatever it forked."""
    owner = Owner("app")
    path = proof.path(private_state, owner.id)
    assert proof.is_held(path) is True
    pid = os.fork()
    if pid == 0:
        time.sleep(0.5)
        os._exit(0)
    owner.shutdown()
    assert proof.is_held(path) is None
    os.waitpid(pid, 0)
    with pytest.raises(StateDirError, match="can't be locked"):
        Proof(private_state / "missing", "x")


def test_what_cannot_be_looked_at_is_not_dead(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger, private_state: Path
) -> None:
    """Without descriptors or /proc every process looks as if it had gone."""
    me = identity.identify()
    assert me is not None
    ledger.add_owner("o1", "app", me, None)
    (owner,) = ledger.owners()
    assert standing(owner, private_state) is Standing.ALIVE

    def refuse(_: str) -> bytes:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("tether.linux.proc.read", refuse)
    assert standing(owner, private_state, Whereabouts(boot=me.boot)) is Standing.ELSEWHERE


def test_a_kept_resource_is_adopted_across_a_restart_here(private_state: Path) -> None:
    """The lock changes nothing for those that are here."""
    with Owner("app") as owner:
        owner.start(Process(["sleep", "60"], name="srv", on_death="keep", keep_for=60))
    with Owner("app") as owner:
        resource = owner.adopt("srv")
        assert resource.state is State.READY
        resource.kill()
