"""For tests of apps, plugins and supervisors: a clock that is told the time, and a driver that starts nothing.

    registry.register("fake", FakeDriver)
    owner.start(FakeSpec(name="db", fails={"stop": 1}))

They are for timing and for faults. What a process does is tested with a real process.

`DriverContract` is what every driver must do, as tests; `OutageContract`, `MarksContract` and `SilenceContract` what those must
whose service can be down, whose marks travel, whose service can be silent. They need pytest.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tether.drivers import Context
from tether.errors import DeadlineExceeded, StartError
from tether.life.machine import Ended, MainExited
from tether.model import Handle, OnDeath, Progress, Ready, State, Status, Usage
from tether.protocol import PluginExecutionMode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tether.testing.contract import DriverContract, MarksContract, OutageContract, SilenceContract

__all__ = [
    "DriverContract",
    "FakeClock",
    "FakeDriver",
    "FakeSpec",
    "MarksContract",
    "OutageContract",
    "SilenceContract",
]


def __getattr__(name: str) -> Any:
    """Import the contract, and with it pytest, when it is asked for."""
    if name not in ("DriverContract", "MarksContract", "OutageContract", "SilenceContract"):
        raise AttributeError(f"module 'tether.testing' has no attribute {name!r}")
    import pytest

    pytest.register_assert_rewrite("tether.testing.contract")
    from tether.testing import contract

    return getattr(contract, name)


class FakeClock:
    """A clock that stands still until somebody waits: then that time has passed, and no time at all.

    Attributes:
        now: what it shows, in seconds.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        """See `tether.life.clock.Clock`."""
        return self.now

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> None:
        """See `tether.life.clock.Clock`; without a time limit it really waits, for there is no saying how long."""
        if timeout_s is None:
            condition.wait()
        else:
            self.now += max(0.0, timeout_s)


@dataclass(frozen=True)
class FakeSpec:
    """A resource that exists in the driver's memory only.

    Attributes:
        fails: how often each of "start", "stop" and "destroy" fails before it works.
    """

    name: str | None = None
    ready: Ready | None = None
    needs: Sequence[str] | None = None
    on_death: OnDeath | None = None
    keep_for: float = 60.0
    stop_grace: float = 10.0
    stays_up: bool = True
    fails: Mapping[str, int] = field(default_factory=dict)
    kind: str = field(default="fake", init=False)
    default_name: str = field(default="fake", init=False)

    def record(self) -> dict[str, Any]:
        """See `tether.model.Spec`."""
        return {"stop_grace": self.stop_grace, "stays_up": self.stays_up}

    def fingerprint(self, key: bytes) -> str:
        """See `tether.model.Spec`."""
        return f"{key.hex()}{self.fails}"


class FakeDriver:
    """See `tether.drivers.Driver`.

    Attributes:
        calls: what was asked of it, in order, as pairs of method and tag.
    """

    kind: ClassVar[str] = "fake"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.EXTERNAL_SERVICE})

    def __init__(self, context: Context) -> None:
        self._context = context
        self._live: dict[str, dict[str, int]] = {}
        self.calls: list[tuple[str, str]] = []

    def _call(self, method: str, tag: str) -> bool:
        """Note a call; True if it is to fail."""
        self.calls.append((method, tag))
        fails = self._live.get(tag, {})
        if fails.get(method, 0) > 0:
            fails[method] -= 1
            return True
        return False

    def start(self, spec: FakeSpec, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Create it in memory, or fail as the spec says."""
        self._live[tag] = dict(spec.fails)
        if self._call("start", tag):
            del self._live[tag]
            raise StartError(f"cannot start {spec.name}: it was told to fail", resource=spec.name or tag)
        progress("created")
        return Handle(self.kind, tag, {})

    def find(self, tag: str) -> list[Handle]:
        """Return it if it is there."""
        return [Handle(self.kind, tag, {})] if tag in self._live else []

    def inspect(self, handle: Handle) -> Status:
        """READY while it is there."""
        return Status(State.READY if handle.tag in self._live else State.GONE)

    def stop(self, handle: Handle, grace: float) -> None:
        """Remove it, or fail as the spec says."""
        self._end("stop", handle)

    def destroy(self, handle: Handle) -> None:
        """Remove it, or fail as the spec says."""
        self._end("destroy", handle)

    def _end(self, method: str, handle: Handle) -> None:
        if self._call(method, handle.tag):
            raise DeadlineExceeded(f"resource {handle.tag} was told to stay")
        self._live.pop(handle.tag, None)

    def usage(self, handle: Handle) -> Usage:
        """Nothing at all."""
        return Usage(processes=0, cpu_s=0.0, memory_bytes=0)

    def exit(self, tag: str, exit_code: int, *, all_of_it: bool = True) -> None:
        """Have its command end by itself; with ``all_of_it`` nothing else is left."""
        self._context.emit(tag, MainExited(exit_code))
        if all_of_it:
            self._live.pop(tag, None)
            self._context.emit(tag, Ended(exit_code, "ended by itself"))
