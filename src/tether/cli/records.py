"""What the commands read of the ledger, and how resources are named on the command line."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from tether.cli import text
from tether.errors import NotFound, SpecError, StateDirError
from tether.estate.standing import Standing, describe, standing
from tether.ledger import place
from tether.ledger.reading import Reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tether.ledger.rows import OwnerRow, ResourceRow
    from tether.ledger.store import Ledger
    from tether.life.drivers import Drivers

__all__ = ["Entry", "Records", "state_dir"]

_LEAST_OF_ID = 4
_MOST_NAMED = 12
_MOST_LOOKED_AT = 1000


def state_dir() -> Path:
    """Return the state directory in force. Raises StateDirError if that can't be said."""
    try:
        return place.state_dir()
    except FileNotFoundError as error:
        raise StateDirError(
            f"{place.VARIABLE} is a relative path, and the working directory was deleted; set it to an absolute one"
        ) from error


class Entry:
    """A resource as recorded, with its owner.

    Attributes:
        row, owner: as recorded.
        standing: what is known of the owner.
    """

    def __init__(self, row: ResourceRow, owner: OwnerRow, standing: Standing) -> None:
        self.row = row
        self.owner = owner
        self.standing = standing

    @property
    def owner_lives(self) -> bool:
        """Whether its owner is not dead, as far as can be told from here."""
        return self.standing is not Standing.DEAD

    @property
    def is_elsewhere(self) -> bool:
        """Whether its owner lives where pids mean something else, or can't be judged from here."""
        return self.standing is Standing.ELSEWHERE

    @property
    def whereabouts(self) -> str:
        """Where an owner is that is elsewhere."""
        return describe(self.owner)

    @property
    def full_name(self) -> str:
        """Its name, which no other live resource has."""
        return f"{self.owner.name}/{self.row.name}"


class Records:
    """The record of the state directory in force, as whoever only looks sees it: nothing is created, changed or locked.

    Attributes:
        state_dir: where it is; it need not exist.
        reading: the ledger.
    """

    def __init__(self) -> None:
        self.state_dir = state_dir()
        self.reading = Reading(self.state_dir)
        self._standings: dict[str, Standing] = {}

    def refresh(self) -> None:
        """Judge owners anew from now on."""
        self._standings.clear()

    def open_ledger(self) -> Ledger:
        """Open the ledger for writing. Raises StateDirError, LedgerError."""
        from tether.ledger.store import Ledger

        text.in_own_words()
        return Ledger(place.prepare(self.state_dir))

    @cached_property
    def drivers(self) -> Drivers:
        """Drivers that own nothing, but can look and end; each is imported when its kind is met."""
        from tether.life.context import Context
        from tether.life.drivers import Drivers

        text.in_own_words()
        return Drivers(Context(self.state_dir))

    def entries(self, *, ended: bool = False) -> list[Entry]:
        """Return the resources that have not ended, or all, the oldest first."""
        return self._entries(self.reading.resources(ended=ended))

    def _entries(self, rows: Sequence[ResourceRow]) -> list[Entry]:
        owners = self.reading.owners_by_id(list({row.owner for row in rows}))
        return [Entry(row, owners[row.owner], self.standing(owners[row.owner])) for row in rows if row.owner in owners]

    def candidates(self, name: str, *, last: int = _MOST_LOOKED_AT) -> list[Entry]:
        """Return all that a name without a pattern may mean, of much that has ended the newest: found without meeting the rest."""
        owner, slash, rest = name.rpartition("/")
        return self._entries(self.reading.named(rest if slash else name, owner if slash else None, last=last))

    def standing(self, owner: OwnerRow) -> Standing:
        """Return what is known of an owner; it is found out once."""
        if owner.id not in self._standings:
            ended = owner.ended is not None
            self._standings[owner.id] = Standing.DEAD if ended else standing(owner, self.state_dir)
        return self._standings[owner.id]

    def named(self, names: Sequence[str], *, one_each: bool = False) -> list[Entry]:
        """Return the resources that the names mean, each once: live ones, or where there are none the latest of each that ended.

        Args:
            names: see `meaning`.
            one_each: refuse a name without a pattern that may mean several live ones.

        Raises:
            NotFound: a name means nothing on record.
            SpecError: a name may mean several.
        """
        found: dict[str, Entry] = {}
        for name in names:
            for entry in self._meant(name, one_each=one_each):
                found[entry.row.id] = entry
        return list(found.values())

    def one(self, name: str) -> Entry:
        """Return the one resource that a name means. Raises NotFound, SpecError as `named`, and if it means several."""
        entries = self.named([name], one_each=True)
        if len(entries) > 1:
            raise SpecError(f"{name!r} means {len(entries)} resources, and this is for one: use OWNER/NAME or the id")
        return entries[0]

    def _meant(self, name: str, *, one_each: bool) -> list[Entry]:
        if is_pattern(name):
            # What lives goes before what has ended, which may be much.
            matching = meaning(name, self.entries()) or meaning(name, self.entries(ended=True))
        else:
            matching = meaning(name, self.candidates(name))
        if not matching:
            raise NotFound(self._unknown(name))
        live = [entry for entry in matching if not entry.row.state.is_final]
        if one_each and len(live) > 1 and not is_pattern(name):
            several = ", ".join(f"{entry.full_name} (id {entry.row.id})" for entry in live)
            raise SpecError(f"{name!r} may mean {several}; use OWNER/NAME or the id")
        return live or list({entry.full_name: entry for entry in matching}.values())

    def _unknown(self, name: str) -> str:
        live = sorted({entry.full_name for entry in self.entries()})
        running = ", ".join(live[:_MOST_NAMED]) or "nothing"
        more = f" and {len(live) - _MOST_NAMED} more" if len(live) > _MOST_NAMED else ""
        return f"there is no resource {name!r} in {self.state_dir}; running: {running}{more}. See 'tether ps --all'"


def is_pattern(name: str) -> bool:
    """Whether a name may mean several on purpose."""
    return name.endswith("/") or any(character in name for character in "*?[")


def meaning(name: str, entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries that a name may mean: an id, a name or OWNER/NAME, both with patterns, OWNER/, or the beginning of an id.

    What is exactly named so goes before an id that only begins so.
    """
    owner, slash, rest = name.rpartition("/")
    if slash:
        wanted = rest or "*"
        return _those(entries, lambda entry: _fits(entry.owner.name, owner) and _fits(entry.row.name, wanted))
    entries = list(entries)
    return (
        _those(entries, lambda entry: entry.row.id == name)
        or _those(entries, lambda entry: _fits(entry.row.name, name))
        or (_those(entries, lambda entry: entry.row.id.startswith(name)) if len(name) >= _LEAST_OF_ID else [])
    )


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _those(entries: Iterable[Entry], wanted: Callable[[Entry], bool]) -> list[Entry]:
    return [entry for entry in entries if wanted(entry)]


def is_mine(entry: Entry) -> bool:
    """Whether the resource was started by this user."""
    return entry.owner.uid == os.getuid()
