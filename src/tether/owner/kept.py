"""What an earlier owner kept on purpose, for the next one of its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tether.errors import NotFound
from tether.estate import settle as estate
from tether.estate.standing import Standing, standing
from tether.ledger import place
from tether.ledger.store import Ledger, ResourceRow
from tether.life.driver import CanCompare
from tether.life.managed import Managed
from tether.life.supervisor import Supervisor
from tether.model import Progress, Recorded, Spec, State

__all__ = ["Kept"]

_AS_IT_WAS = (State.STARTING, State.READY)


class Kept:
    """The kept resources of one name of owners.

    Args:
        owner: the id of the owner that adopts.
        name: its name.
        supervisor: adopts, starts and stops.
        ledger: where they are on record.
        state_dir: the state directory.
    """

    def __init__(self, owner: str, name: str, supervisor: Supervisor, ledger: Ledger, state_dir: Path) -> None:
        self._owner = owner
        self._name = name
        self._supervisor = supervisor
        self._ledger = ledger
        self._state_dir = state_dir

    def adopt(self, name: str) -> Managed:
        """Take over one, also one that has ended meanwhile. Raises NotFound, Busy."""
        for row in self._rows(name, ended=True):
            return self._supervisor.adopt(row, _recorded(row))
        raise NotFound(
            f"no earlier owner {self._name} kept a resource {name} in {self._state_dir}; start it, with on_death='keep'"
        )

    def adopt_or_start(
        self, spec: Spec, name: str, progress: Progress, held: Callable[[Managed], object] | None
    ) -> Managed:
        """Adopt what was kept from an equal spec, and wait until it is ready; stop it if the spec has changed, and start anew."""
        fingerprint = spec.fingerprint(place.key(self._state_dir))
        for row in self._rows(name):
            if (
                row.state in _AS_IT_WAS
                and row.spec.get("fingerprint") == fingerprint
                and not self._is_outdated(row, spec, progress)
            ):
                managed = self._supervisor.adopt(row, spec)
                if not managed.state.is_final:
                    progress(f"adopted {name}")
                    if held is not None:
                        held(managed)
                    self._supervisor.await_ready(managed, progress)
                    return managed
            else:
                half = row.state is State.PENDING
                why = "is left of a start whose owner died" if half else "was kept from another spec or image"
                progress(f"{name} {why}, stopping it")
                managed = self._supervisor.adopt(row, _recorded(row))
                self._supervisor.stop(managed, "its spec has changed")
        return self._supervisor.start(spec, "keep", progress, fingerprint, held)

    def _rows(self, name: str, *, ended: bool = False) -> list[ResourceRow]:
        """Return what earlier owners of this name kept under ``name``, whose process has gone or let go in order."""
        estate.sweep(self._ledger, self._state_dir)
        rows = [row for row in self._ledger.kept(self._name, name, ended=ended) if row.owner != self._owner]
        owners = self._ledger.owners_by_id([row.owner for row in rows])
        return [
            row
            for row in rows
            if owners[row.owner].ended is not None or standing(owners[row.owner], self._state_dir) is Standing.DEAD
        ]

    def _is_outdated(self, row: ResourceRow, spec: Spec, progress: Progress) -> bool:
        driver = self._supervisor.drivers.of(row.kind)
        if row.handle is None or not isinstance(driver, CanCompare):
            return False
        return bool(driver.is_outdated(row.handle, spec, progress))


def _recorded(row: ResourceRow) -> Recorded:
    """Return the spec of a resource as far as it is on record: enough to stop it, not to start it again."""
    return Recorded(
        kind=row.kind,
        name=row.name,
        recorded=row.spec,
        on_death="keep",
        keep_for=row.keep_for,
        stop_grace=float(row.spec.get("stop_grace", 10.0)),
        stays_up=bool(row.spec.get("stays_up", False)),
    )
