"""A resource as it is now: what the kernel, an engine or a host says of it, beside what is on record."""

from __future__ import annotations

import os
import time

from tether.errors import TetherError
from tether.linux import identity, proc, tier, tree
from tether.model import Identity, State, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    from tether.cli.records import Entry, Records
    from tether.ledger.rows import ResourceRow
    from tether.life.drivers import Drivers

    _Answer = TypeVar("_Answer")

__all__ = ["Seen", "ask_all", "look"]

_ANSWER_S = 5.0
_TICK_HZ = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Seen:
    """A resource as recorded, and as it was just seen.

    Attributes:
        entry: what is on record.
        status: what its driver says of it.
        details: what consumers look for, as its driver has it.
        cpu_s, memory_bytes: of its processes on this machine; None where it has none here.
    """

    def __init__(self, entry: Entry, status: Status, details: dict[str, Any]) -> None:
        self.entry = entry
        self.row = entry.row
        self.status = status
        self.details = details
        self.cpu_s: float | None = None
        self.memory_bytes: int | None = None
        stats = [stat for pid in status.pids if (stat := proc.read_stat(pid)) is not None]
        if stats:
            self.cpu_s = sum(stat.cpu for stat in stats) / _TICK_HZ
            self.memory_bytes = sum(stat.rss for stat in stats) * _PAGE

    @property
    def state(self) -> str:
        """Where it is in its life: what is on record, unless something else was seen."""
        if not self.row.state.is_final and self.status.state in (State.LOST, State.GONE):
            return str(self.status.state.value)
        return str(self.row.state.value)

    @property
    def reason(self) -> str:
        """Why it is there, and what is amiss with it."""
        said = [self.row.reason] if self.row.reason and not self._is_routine else []
        if self.row.state.is_final:
            if self.row.exit_code and f"code {self.row.exit_code}" not in self.row.reason:
                said.append(f"exit code {self.row.exit_code}")
            return "; ".join(said)
        if self.entry.is_elsewhere:
            return "; ".join([*said, f"elsewhere: its owner is {self.entry.whereabouts}"])
        if self.status.reason and self.status.state is not State.READY and self.status.reason not in said:
            said.append(self.status.reason)
        if not self.entry.owner_lives:
            said.append(self._without_owner)
        return "; ".join(said)

    @property
    def weakness(self) -> str:
        """How its tree is held, here or on another host, where that is weaker than usual; empty if it isn't."""
        row = self.row
        if row.handle is None or row.state.is_final or row.handle.data.get("tier") != tier.PORTABLE:
            return ""
        return "held weakly (portable): its members are followed by their marks, which a program can shed"

    @property
    def _is_routine(self) -> bool:
        return self.row.state is State.READY and self.row.exit_code is None and self.row.reason in ("ready", "created")

    @property
    def _without_owner(self) -> str:
        pid = self.entry.owner.identity.pid
        if self.status.state is State.GONE:
            return f"not settled: its owner, pid {pid}, is dead; see 'tether reap'"
        if self.row.on_death == "keep":
            return f"kept for the next owner named {self.entry.owner.name}"
        return f"orphaned: its owner, pid {pid}, is dead; see 'tether reap'"

    def info(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        row, owner = self.row, self.entry.owner
        return {
            **self.details,
            "id": row.id,
            "owner": owner.name,
            "owner_id": owner.id,
            "owner_pid": owner.identity.pid,
            "owner_alive": self.entry.owner_lives,
            "elsewhere": self.entry.is_elsewhere,
            "name": row.name,
            "kind": row.kind,
            "state": row.state.value,
            "state_since": row.changed,
            "seen": self.status.state.value,
            "reason": self.reason,
            "exit_code": row.exit_code,
            "url": row.url,
            "pid": self.status.pids[0] if self.status.pids else None,
            "pids": list(self.status.pids),
            "cpu_s": self.cpu_s,
            "memory_bytes": self.memory_bytes,
            "on_death": row.on_death,
            "began": row.began,
            "spec": row.spec,
        }


def _held(row: ResourceRow) -> Status | None:
    """What is below a shim that lives is its tree, which takes no driver to see; None if a driver has to look."""
    if row.kind != "process":
        # The pids of others may be of another machine.
        return None
    try:
        data = row.handle.data if row.handle is not None else {}
        pid, start = data["shim"][:2]
        shim = Identity(data["boot"], pid, start)
        main = data["main"][0] if data["main"] else 0
    except (KeyError, TypeError, ValueError):
        return None
    below = tree.descendants(shim.pid) if identity.is_alive(shim) else []
    if not below:
        return None
    return Status(State.READY, pids=tuple(sorted(below, key=lambda pid: pid != main)))


def _asked(row: ResourceRow, drivers: Drivers) -> Status:
    if row.handle is None:
        return Status(row.state, reason=row.reason)
    try:
        return drivers.of(row.kind).inspect(row.handle)
    except TetherError as error:
        return Status(State.LOST, reason=str(error))
    except OSError as error:
        return Status(State.LOST, reason=f"{type(error).__name__}: {error}")


def ask_all(asked: Sequence[Callable[[], _Answer]], late: _Answer, within_s: float = _ANSWER_S) -> list[_Answer]:
    """Ask engines and hosts side by side: one that does not answer holds up nobody, and counts as ``late``."""
    import threading

    answers: list[_Answer] = [late] * len(asked)

    def ask(number: int) -> None:
        answers[number] = asked[number]()

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(answers)


def is_far(row: ResourceRow, drivers: Drivers) -> bool:
    """Whether somebody else than the kernel has to be asked about a resource."""
    from tether.life.driver import HasPlan

    try:
        return isinstance(drivers.of(row.kind), HasPlan)
    except TetherError:
        return False


def _details(row: ResourceRow, records: Records) -> dict[str, Any]:
    if row.handle is None or row.kind == "process":
        return {}
    from tether.life.driver import HasDetails

    try:
        driver = records.drivers.of(row.kind)
        return driver.details(row.handle) if isinstance(driver, HasDetails) else {}
    except TetherError:
        return {}


def look(entries: Sequence[Entry], records: Records, *, details: bool = False) -> list[Seen]:
    """Look at resources now. An engine or host is asked only about what is its own, and for a few seconds at most."""
    seen: dict[str, Status] = {}
    far = []
    for entry in entries:
        row = entry.row
        if row.state.is_final or entry.is_elsewhere:
            # Pids that were recorded elsewhere mean nothing here.
            seen[row.id] = Status(row.state, row.exit_code, row.reason)
            continue
        held = _held(row)
        if held is not None:
            seen[row.id] = held
        elif row.handle is None or not is_far(row, records.drivers):
            seen[row.id] = (
                _asked(row, records.drivers) if row.handle is not None else Status(row.state, reason=row.reason)
            )
        else:
            far.append(row)
    if far:
        late = Status(State.LOST, reason=f"no answer within {_ANSWER_S:g} s")
        answers = ask_all([lambda row=row: _asked(row, records.drivers) for row in far], late)  # type: ignore[misc]
        seen.update({row.id: status for row, status in zip(far, answers, strict=True)})
    return [Seen(entry, seen[entry.row.id], _details(entry.row, records) if details else {}) for entry in entries]
