"""Costs by the ledger, and a budget: with a fake kind that is rented, so that hours take no time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import eventually
from tether import Budget, Owner, SpecError, State
from tether.ledger import costs
from tether.ledger.rows import EventRow, ResourceRow
from tether.life import registry
from tether.model import Handle, OnDeath, Progress
from tether.testing import FakeDriver, FakeSpec

DAY = 86400.0


@dataclass(frozen=True)
class Rented(FakeSpec):
    """A fake that costs something."""

    cost_per_hour: float | None = 1.0
    rented: bool = True

    def record(self) -> dict[str, Any]:
        """See `tether.model.Spec`."""
        return {**super().record(), "cost_per_hour": self.cost_per_hour}


class SlowDriver(FakeDriver):
    """It takes a moment to create one."""

    def start(self, spec: Any, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """See `FakeDriver`."""
        time.sleep(0.2)
        return super().start(spec, tag, on_death, progress)


@pytest.fixture(autouse=True)
def _fake() -> Iterator[None]:
    registry.register("fake", FakeDriver)
    yield
    registry._registered.pop("fake")
    registry.driver_class.cache_clear()


def test_a_budget_warns_and_ends(make_owner: Callable[..., Owner]) -> None:
    """At four fifths an event, at the whole an end with that as its reason; then no further start."""
    owner = make_owner(budget=Budget(usd=1.0, at_least_s=0.5))
    # Two thousand dollars an hour: half a dollar each 0.9 s.
    rented = owner.start(Rented(name="dear", cost_per_hour=2000))
    free = owner.start(FakeSpec(name="free"))
    rented.wait(timeout=20)
    assert rented.state is State.GONE
    assert "budget" in rented.reason
    assert free.state is State.READY
    said = [event.what for event in owner.events()]
    assert said.index("budget warning") < said.index("budget spent")
    with pytest.raises(SpecError, match="are left"):
        owner.start(Rented(name="more", cost_per_hour=0.01))


def test_what_cannot_be_paid_for_is_not_started(make_owner: Callable[..., Owner]) -> None:
    """An hour of it, beside what runs; and nothing whose price is not known."""
    owner = make_owner(budget=Budget(usd=5))
    owner.start(Rented(name="one", cost_per_hour=3))
    with pytest.raises(SpecError, match="cannot start two"):
        owner.start(Rented(name="two", cost_per_hour=3))
    with pytest.raises(SpecError, match="price must be known"):
        owner.start(Rented(name="three", cost_per_hour=None))
    assert [resource.name for resource in owner.resources] == ["one"]
    with pytest.raises(SpecError):
        Budget(usd=0)


def _row(state: State = State.GONE, **more: Any) -> ResourceRow:
    spec = {"cost_per_hour": 2.0, **more.pop("spec", {})}
    handle = Handle("machine", "t", {"made": 0.0, **more.pop("data", {})})
    return ResourceRow("t", "o", "n", "machine", state, "", None, None, spec, handle, "kill", 1.0, 1, 0.0, more.pop("changed", 0.0), **more)  # fmt: skip


def _event(at: float, what: str) -> EventRow:
    return EventRow(0, at, "o", "t", "n", what, "")


def test_costs_are_split_by_day() -> None:
    """Each life counts, what goes on counts until now, and a price that is not known is said as that."""
    events = [_event(DAY - 3600, "created"), _event(DAY + 3600, "gone"), _event(DAY + 7200, "created")]
    found = costs.by_day([_row(State.READY)], {"o": "app"}, events, DAY + 2.5 * 3600)
    assert [(each.day, each.owner, each.hours, each.usd) for each in found] == [
        ("1970-01-01", "app", 1.0, 2.0),
        ("1970-01-02", "app", 1.5, 3.0),
    ]
    (unknown,) = costs.by_day([_row(spec={"cost_per_hour": None}, changed=3600.0)], {"o": "app"}, [], DAY)
    assert (unknown.hours, unknown.usd) == (1.0, None)
    assert costs.by_day([_row(data={"attached": True})], {}, events, DAY) == []


def test_costs_are_shown(make_owner: Callable[..., Owner], private_state: Path) -> None:
    """By the command line, for people and for programs."""
    owner = make_owner()
    rented = owner.start(Rented(name="dear", cost_per_hour=3600))
    eventually(lambda: time.time() - owner._ledger.resources()[0].began > 0.2)
    rented.stop()
    command = [sys.executable, "-m", "tether", "costs"]
    (shown,) = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
    assert (shown["owner"], shown["kind"]) == ("test", "fake")
    assert 0.1 < shown["usd"] < 10
    assert "USD" in subprocess.run(command, capture_output=True, check=True, text=True).stdout


def test_many_at_once_are_not_promised_the_same_money(make_owner: Callable[..., Owner]) -> None:
    """What is not on record yet is counted in: of eight that start side by side two can be paid for."""
    registry.register("fake", SlowDriver)
    owner = make_owner(budget=Budget(usd=7))
    with ThreadPoolExecutor(8) as pool:
        starts = [pool.submit(owner.start, Rented(name=f"r{number}", cost_per_hour=3)) for number in range(8)]
    refused = [start.exception() for start in starts if start.exception() is not None]
    assert {type(error) for error in refused} == {SpecError}
    assert (len(owner.resources), len(refused)) == (2, 6)
    owner.resources[0].kill()
    owner.start(Rented(name="instead", cost_per_hour=3))
