"""What every driver must do, as tests. Authors of drivers run them with their real service.

    class TestBucket(DriverContract):
        def make_spec(self, name: str) -> Bucket:
            return Bucket(name=name, region="here")

Needs pytest. Every owner is a process of its own, so that it can be killed.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tether.drivers import Context, Driver, HasConnections, HasPlan
from tether.errors import StartError, TetherError
from tether.ledger import place
from tether.ledger.store import Ledger, ResourceRow
from tether.life import registry
from tether.linux.faults import POINTS
from tether.model import Spec, State, Usage
from tether.owner.owner import Owner
from tether.protocol import PluginExecutionMode

__all__ = ["DriverContract", "MarksContract", "OutageContract", "SilenceContract"]

_OWNER = """
import os, pickle, signal, sys
sys.path[:0] = pickle.load(sys.stdin.buffer)
spec = pickle.load(sys.stdin.buffer)
from tether import Owner
owner = Owner("contract", state_dir=sys.argv[1])
resource = owner.start(spec)
print(resource.id, flush=True)
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
signal.pause()
"""


class DriverContract:
    """The contract. Subclasses say how a spec is made, and what is special about the kind.

    Attributes:
        says: what a started resource has in its log; None if its kind has no log.
        stays: whether what was started stays when it is let go of (it was there before, or is for everybody).
        within_s: how long after its owner's death by SIGKILL it may still be there.
    """

    says: str | None = None
    stays: bool = False
    within_s: float = 2.0

    def make_spec(self, name: str) -> Spec:
        """Return the spec of a resource that stays up until it is ended, and can be pickled."""
        raise NotImplementedError

    def leftovers(self) -> list[str]:
        """Return what is to be seen of resources of tests, by other means than the driver's; must be empty in the end."""
        return []

    # -- what the tests use --------------------------------------------------------------------------------------------

    @pytest.fixture
    def state(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """A state directory of the test's own, also for commands."""
        folder = place.prepare(tmp_path / "contract")
        monkeypatch.setenv(place.VARIABLE, str(folder))
        self._drivers: list[Driver] = []
        yield folder
        for driver in self._drivers:
            if isinstance(driver, HasConnections):
                driver.close()

    def driver(self, state: Path) -> Driver:
        """A driver as another process has it: it owns nothing."""
        self._drivers.append(registry.driver_class(self.make_spec("any").kind)(Context(state)))
        return self._drivers[-1]

    @contextmanager
    def owner_process(self, state: Path, then: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start the resource in an owner of its own process, which is killed by itself or stays; in the end it is gone."""
        process = subprocess.Popen(
            [sys.executable, "-c", _OWNER, str(state), then],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environ},
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(pickle.dumps(sys.path) + pickle.dumps(self.make_spec("it")))
            process.stdin.close()
            yield process
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def command(self, *argv: str) -> str:
        """Run a command of tether in a process of its own, and return what it prints."""
        return subprocess.run(
            [sys.executable, "-m", "tether", *argv], stdout=subprocess.PIPE, text=True, check=True, timeout=90
        ).stdout

    def row(self, state: Path) -> ResourceRow:
        """The newest resource on record."""
        ledger = Ledger(state)
        try:
            return ledger.resources(ended=True)[-1]
        finally:
            ledger.close()

    def seen(self, state: Path, row: ResourceRow) -> list[State]:
        """How what is on record looks to another process."""
        driver = self.driver(state)
        handles = [row.handle] if row.handle is not None else driver.find(row.id)
        return [driver.inspect(handle).state for handle in handles]

    def is_gone(self, state: Path, row: ResourceRow) -> bool:
        """Whether neither the driver nor other means see anything of it."""
        gone = all(each is State.GONE for each in self.seen(state, row))
        return (gone or self.stays) and not self.leftovers()

    def await_settled(self, state: Path) -> ResourceRow:
        """Return the row of the resource when nothing of it is on record as live."""
        deadline = time.monotonic() + 60
        while not self.row(state).state.is_final:
            assert time.monotonic() < deadline, f"not settled: {self.row(state)}"
            time.sleep(0.02)
        return self.row(state)

    # -- the contract --------------------------------------------------------------------------------------------------

    def test_kind_and_modes_are_declared(self, state: Path) -> None:
        """The driver is found by its kind, and says which modes it stands for."""
        driver = self.driver(state)
        assert driver.kind == self.make_spec("any").kind
        assert driver.kind in registry.kinds()
        assert driver.modes
        assert all(isinstance(mode, PluginExecutionMode) for mode in driver.modes)

    def test_a_spec_can_be_recorded(self) -> None:
        """What goes into the ledger is ready for JSON; equal specs have equal fingerprints."""
        spec = self.make_spec("it")
        assert json.loads(json.dumps(spec.record())) == spec.record()
        assert spec.fingerprint(b"key") == self.make_spec("it").fingerprint(b"key")
        assert spec.fingerprint(b"key") != spec.fingerprint(b"other")

    def test_start_inspect_and_stop(self, state: Path) -> None:
        """It is READY after the start, and GONE after a stop with grace; both twice in a row are on record."""
        with Owner("contract", state_dir=state) as owner:
            resource = owner.start(self.make_spec("it"))
            assert resource.state is State.READY
            assert self.seen(state, self.row(state)) == [State.READY]
            assert json.loads(json.dumps(resource.info()))["kind"] == resource.kind
            assert isinstance(resource.usage(), Usage)
            resource.stop(grace=1)
            assert self.row(state).state is State.GONE
            assert self.is_gone(state, self.row(state))
            resource.stop()
            resource.kill()
        assert self.row(state).state is State.GONE

    def test_its_log_can_be_read(self, state: Path) -> None:
        """From its owner, by the command line, and after its end."""
        with Owner("contract", state_dir=state) as owner:
            resource = owner.start(self.make_spec("it"))
            if self.says is not None:
                deadline = time.monotonic() + 10
                while self.says not in resource.logs() and time.monotonic() < deadline:
                    time.sleep(0.02)
                assert self.says in resource.logs(tail=5)
                assert self.says in self.command("logs", "it")
            resource.kill()
        if self.says is not None:
            assert self.says in self.command("logs", "it")

    def test_another_process_finds_it(self, state: Path) -> None:
        """By the tag alone, or by the plan that was recorded before it was created; and commands show it."""
        with self.owner_process(state, "stay") as process:
            assert process.stdout is not None
            tag = process.stdout.readline().decode().strip()
            driver = self.driver(state)
            handles = driver.find(tag)
            if isinstance(driver, HasPlan):
                handles = [*handles, driver.plan(self.make_spec("it"), tag)]
            row = self.row(state)
            assert row.id == tag
            assert handles or self.stays
            assert all(handle.tag == tag for handle in handles)
            (shown,) = json.loads(self.command("ps", "--json"))
            assert (shown["id"], shown["state"]) == (tag, "ready")
        self.command("reap")
        self.await_settled(state)

    def test_destroy_is_idempotent(self, state: Path) -> None:
        """By another process, twice, also of what never was."""
        with self.owner_process(state, "stay") as process:
            assert process.stdout is not None
            process.stdout.readline()
            row = self.row(state)
            driver = self.driver(state)
            assert row.handle is not None
            for _ in range(2):
                driver.destroy(row.handle)
                assert self.is_gone(state, row)
            if isinstance(driver, HasPlan):
                driver.destroy(driver.plan(self.make_spec("it"), "0123456789abcdef"))
        self.command("reap")
        assert self.await_settled(state).state in (State.GONE, State.FAILED)

    def test_it_ends_with_its_owner(self, state: Path) -> None:
        """SIGKILL of the owner, without any sweep: the reaper sees to it, within the time limit, and puts it on record."""
        with self.owner_process(state, "stay") as process:
            assert process.stdout is not None
            process.stdout.readline()
            row = self.row(state)
            process.kill()
            process.wait()
            deadline = time.monotonic() + self.within_s
            while not self.is_gone(state, row):
                assert time.monotonic() < deadline, f"still there after {self.within_s} s: {self.leftovers()}"
                time.sleep(0.02)
        assert self.await_settled(state).state is State.GONE

    @pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("start.")])
    def test_an_owner_killed_while_starting_leaves_nothing(self, state: Path, point: str) -> None:
        """At each fault point; where a driver does not pass it, right after the start."""
        with self.owner_process(state, "kill", TETHER_FAULTS=f"{point}=kill") as process:
            assert process.wait(60) == -signal.SIGKILL
        self.command("reap")
        row = self.await_settled(state)
        assert row.reason
        assert self.is_gone(state, row)

    def test_a_stop_during_a_start_waits_for_it(self, state: Path) -> None:
        """Shutting down while another thread starts something leaves nothing."""
        import threading

        owner = Owner("contract", state_dir=state)
        errors: list[BaseException] = []

        def start() -> None:
            try:
                owner.start(self.make_spec("it"))
            except TetherError as error:
                errors.append(error)

        thread = threading.Thread(target=start)
        thread.start()
        deadline = time.monotonic() + 10
        while not owner.resources and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.0005)
        owner.shutdown(grace=1)
        thread.join(30)
        assert not thread.is_alive()
        row = self.await_settled(state)
        assert self.is_gone(state, row)


class OutageContract(DriverContract):
    """For kinds whose service may be down. Subclasses say how to take it down."""

    def outage(self) -> AbstractContextManager[None]:
        """Take the service down for the time of a block."""
        raise NotImplementedError

    def test_down_while_starting(self, state: Path) -> None:
        """One clear StartError; nothing is left on record as live."""
        with Owner("contract", state_dir=state) as owner:
            with self.outage(), pytest.raises(StartError, match="cannot start it"):
                owner.start(self.make_spec("it"))
            assert self.await_settled(state).state is State.FAILED
            owner.start(self.make_spec("it")).stop(grace=1)

    def test_down_while_stopping(self, state: Path) -> None:
        """Said clearly, kept on record, and settled when it is back: by the owner itself, which tries again."""
        with Owner("contract", state_dir=state) as owner:
            resource = owner.start(self.make_spec("it"))
            with self.outage():
                with pytest.raises(TetherError):
                    resource.stop(grace=1)
                assert self.row(state).state in (State.STOPPING, State.LOST)
                assert self.row(state).reason
            resource.wait(timeout=60)
            assert self.is_gone(state, self.row(state))

    def test_down_while_sweeping(self, state: Path) -> None:
        """The owner dies while it is down: a sweep says so and exits with 1; when it is back, the next one settles it."""
        with self.owner_process(state, "stay") as process:
            assert process.stdout is not None
            process.stdout.readline()
            with self.outage():
                process.kill()
                process.wait()
                swept = subprocess.run(
                    [sys.executable, "-m", "tether", "reap"], capture_output=True, text=True, check=False, timeout=90
                )
                assert swept.returncode == 1, swept.stdout
                assert "failed" in swept.stdout
                assert not self.row(state).state.is_final
            self.command("reap")
        assert self.is_gone(state, self.await_settled(state))


class MarksContract(DriverContract):
    """For kinds whose marks travel (are copied, inherited): they are hints. Subclasses say how somebody else comes by them."""

    def impostor(self, tag: str) -> AbstractContextManager[Callable[[], bool]]:
        """Make something of the user's that carries the mark of a resource.

        Returns:
            For the time of a block, a function that says whether it is still as it was.
        """
        raise NotImplementedError

    def test_what_only_carries_its_mark_survives(self, state: Path) -> None:
        """One mark is a hint: at a stop, and at a sweep after the owner was killed."""
        with Owner("contract", state_dir=state) as owner:
            resource = owner.start(self.make_spec("it"))
            with self.impostor(resource.id) as is_there:
                resource.stop(grace=1)
                assert resource.state is State.GONE
                assert is_there()
        with self.owner_process(state, "stay") as process:
            assert process.stdout is not None
            tag = process.stdout.readline().decode().strip()
            with self.impostor(tag) as is_there:
                process.kill()
                process.wait()
                self.command("reap")
                self.await_settled(state)
                assert is_there()


class SilenceContract(DriverContract):
    """For kinds whose service may take requests and answer none. Subclasses say how to silence it."""

    def silence(self) -> AbstractContextManager[None]:
        """Silence the service for the time of a block."""
        raise NotImplementedError

    def test_silent_while_asked_how_it_is(self, state: Path) -> None:
        """status() comes within three seconds all the same, and when the service goes on, all is as it was."""
        with Owner("contract", state_dir=state) as owner:
            resource = owner.start(self.make_spec("it"))
            with self.silence():
                began = time.monotonic()
                status = owner.status()
                assert time.monotonic() - began < 3
                assert json.loads(json.dumps(status))["resources"]
            deadline = time.monotonic() + 30
            while resource.state is not State.READY or "unknown" in resource.info():
                assert time.monotonic() < deadline, resource.info()
                owner.status()
                time.sleep(0.1)
