"""What the commands read of the ledger, and how names are looked up."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tether.drivers import Context, HasDetails
from tether.errors import Busy, DriverUnavailable, NotFound, SpecError
from tether.estate.standing import Standing, describe, standing
from tether.ledger import place
from tether.ledger.reading import Reading
from tether.ledger.store import Ledger, OwnerRow, ResourceRow
from tether.life.drivers import Drivers
from tether.model import State, Status

__all__ = ["Records", "Seen", "print_json", "print_table"]

_LOOKS = 16


@dataclass(frozen=True)
class Seen:
    """A resource as recorded, and as it is now."""

    row: ResourceRow
    owner: OwnerRow
    status: Status
    standing: Standing
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def owner_alive(self) -> bool:
        """Whether its owner is not dead, as far as can be told from here."""
        return self.standing is not Standing.DEAD

    def refuse_elsewhere(self, what: str) -> None:
        """Raise Busy if its owner can't be judged from here, so that it is not dead."""
        if self.standing is Standing.ELSEWHERE:
            raise Busy(
                f"resource {self.row.name} is elsewhere: its owner {self.owner.name} is {describe(self.owner)}; {what} it "
                f"there, or use --force if you know that owner to be dead"
            )

    def info(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        row = self.row
        return {
            **self.details,
            "id": row.id,
            "owner": self.owner.name,
            "owner_id": self.owner.id,
            "owner_pid": self.owner.identity.pid,
            "owner_alive": self.owner_alive,
            "elsewhere": self.standing is Standing.ELSEWHERE,
            "name": row.name,
            "kind": row.kind,
            "state": row.state.value,
            "reason": row.reason,
            "exit_code": row.exit_code,
            "url": row.url,
            "pid": self.status.pids[0] if self.status.pids else None,
            "pids": list(self.status.pids),
            "on_death": row.on_death,
            "began": row.began,
            "spec": row.spec,
        }


class Records:
    """The ledger of the state directory in use, read from outside any owner.

    Attributes:
        state_dir, look: as they are in use; nothing is made or written.
        drivers: which own nothing, but can look and end.
    """

    def __init__(self) -> None:
        self.state_dir: Path = place.state_dir()
        self.look = Reading(self.state_dir)
        self.drivers = Drivers(Context(self.state_dir))

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, to be written. Raises StateDirError, LedgerError."""
        return Ledger(place.prepare(self.state_dir))

    def _status(self, row: ResourceRow, standing: Standing) -> Status:
        if row.handle is None or row.state.is_final or standing is Standing.ELSEWHERE:
            return Status(row.state, row.exit_code, row.reason)
        try:
            return self.drivers.of(row.kind).inspect(row.handle)
        except DriverUnavailable as error:
            return Status(State.LOST, reason=str(error))

    def _details(self, row: ResourceRow) -> dict[str, Any]:
        if row.handle is None:
            return {}
        try:
            driver = self.drivers.of(row.kind)
        except DriverUnavailable:
            return {}
        return driver.details(row.handle) if isinstance(driver, HasDetails) else {}

    def resources(self, *, ended: bool = False) -> list[Seen]:
        """Return what is on record, looked at now."""
        return self._seen(self.look.resources(ended=ended))

    def _seen(self, rows: list[ResourceRow]) -> list[Seen]:
        owners = self.look.owners_by_id([row.owner for row in rows])
        standings = {owner.id: standing(owner, self.state_dir) for owner in owners.values()}
        # Engines and hosts are asked side by side: one that does not answer holds up nobody.
        with ThreadPoolExecutor(_LOOKS) as pool:
            looks = list(pool.map(lambda row: self._status(row, standings[row.owner]), rows))
        return [
            Seen(row, owners[row.owner], status, standings[row.owner], self._details(row))
            for row, status in zip(rows, looks, strict=True)
        ]

    def matching(self, name: str, *, ended: bool = False) -> list[Seen]:
        """Return the resources that ``name`` may mean: a name, OWNER/NAME, or the beginning of an id. Raises NotFound."""
        owner, slash, rest = name.rpartition("/")
        found = [
            seen
            for seen in self._seen([row for row in self.look.named(rest) if ended or not row.state.is_final])
            if (seen.row.name == rest and (not slash or seen.owner.name == owner))
            or (not slash and len(name) >= 4 and seen.row.id.startswith(name))
        ]
        if not found:
            known = ", ".join(sorted({seen.row.name for seen in self.resources()})) or "nothing"
            raise NotFound(
                f"there is no resource {name!r} in {self.state_dir}; running: {known}. See 'tether ps --all'"
            )
        return found

    def one(self, name: str) -> Seen:
        """Return the one live resource that ``name`` means. Raises NotFound, or SpecError if it may mean several."""
        found = self.matching(name)
        if len(found) > 1:
            several = ", ".join(f"{seen.owner.name}/{seen.row.name} (id {seen.row.id})" for seen in found)
            raise SpecError(f"{name!r} may mean {several}; use OWNER/NAME or the id")
        return found[0]


def print_json(value: Any) -> None:
    """Print for programs."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print for people: a table on a terminal, plain columns elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*columns, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for line in [columns, *rows]:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(text.rstrip() + "\n")
