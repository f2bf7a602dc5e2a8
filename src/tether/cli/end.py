"""``tether stop``, ``kill`` and ``restart``: from outside the owner."""

from __future__ import annotations

from tether.cli import text
from tether.cli.arguments import Parser, seconds
from tether.cli.records import Entry, Records, is_mine
from tether.errors import Busy, Gone, LedgerError, TetherError
from tether.life.driver import CanAttach, HasPlan
from tether.model import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from tether.ledger.store import Ledger
    from tether.life.driver import Driver
    from tether.model import Handle

__all__ = ["kill", "restart", "stop"]

_GRACE_S = 10.0
_FORCE = "also what is elsewhere, so that its owner can't be judged from here"
_AGAIN = "It is no mistake to end what has ended already. Several names are ended in turn, the last started first."


def stop(argv: Sequence[str]) -> int:
    """End resources politely, by force after the grace; returns when they have ended."""
    parser = Parser("stop", "End resources politely, by force after the grace; returns when they have ended.", _AGAIN)
    parser.names("+")
    parser.add_argument(
        "--grace", type=seconds, default=_GRACE_S, metavar="S", help="from the polite signal to the end by force (10s)"
    )
    parser.flag("--force", does=_FORCE)
    given = parser.read(argv)
    return _end_all(given.names, given.grace, force=given.force)


def kill(argv: Sequence[str]) -> int:
    """End resources by force; returns when they have ended."""
    parser = Parser("kill", "End resources by force; returns when they have ended.", _AGAIN)
    parser.names("+")
    parser.flag("--force", does=_FORCE)
    given = parser.read(argv)
    return _end_all(given.names, None, force=given.force)


def _end_all(names: Sequence[str], grace: float | None, *, force: bool) -> int:
    """End what the names mean, the last started first; one that can't be ended keeps nobody from the next."""
    records = Records()
    code = 0
    meant: dict[str, Entry] = {}
    for name in names:
        try:
            meant.update({entry.row.id: entry for entry in records.named([name], one_each=True)})
        except TetherError as error:
            text.warn(str(error))
            code = 1
    entries = sorted(meant.values(), key=lambda entry: entry.row.began, reverse=True)
    short = len({entry.row.name for entry in entries}) == len(entries)
    ending = _Ending(records, grace, force=force)
    for entry in entries:
        name = entry.row.name if short else entry.full_name
        try:
            came = ending.end(entry)
        except TetherError as error:
            text.warn(str(error))
            code = 1
        else:
            text.say(f"{name}: {came}")
            text.flush()
    return code


class _Ending:
    """Ends resources of any owner, and puts on record what nobody else would.

    Args:
        records: where they were found.
        grace: seconds to the end by force; None for at once.
        force: end also what is elsewhere.
    """

    def __init__(self, records: Records, grace: float | None, *, force: bool) -> None:
        self._force = force
        self._records = records
        self._grace = grace
        self._opened: Ledger | None = None
        self._who = "tether kill" if grace is None else "tether stop"

    @property
    def _ledger(self) -> Ledger:
        if self._opened is None:
            self._opened = self._records.open_ledger()
        return self._opened

    def end(self, entry: Entry) -> str:
        """End one resource and say what came of it. Raises TetherError."""
        row = entry.row
        if row.state.is_final:
            return f"ended already, {text.age(row.changed)} ago ({row.state.value})"
        if row.handle is None:
            raise Busy(self._not_created(entry))
        driver = self._records.drivers.of(row.kind)
        self._refuse_attached(entry, driver, row.handle)
        if entry.is_elsewhere and not self._force:
            raise Busy(
                f"resource {entry.full_name} is elsewhere: its owner is {entry.whereabouts}; end it there, or use --force if you "
                "know that owner to be dead"
            )
        if row.kind == "plugin" and entry.owner_lives and not entry.is_elsewhere:
            return self._end_plugin(entry)
        # An engine or host is asked to end it in any case: that is one question, not two. Pids that were recorded elsewhere mean
        # nothing here: what carries the tag is looked for.
        near = not isinstance(driver, HasPlan)
        handles = driver.find(row.id) if near and entry.is_elsewhere else [row.handle]
        gone = near and all(driver.inspect(handle).state is State.GONE for handle in handles)
        if not gone:
            self._note(entry)
            for handle in handles:
                self._end_now(entry, driver, handle)
        if not entry.owner_lives or entry.is_elsewhere:
            self._record_gone(entry)
        return "ended already" if gone else "gone"

    def _end_plugin(self, entry: Entry) -> str:
        """Have the owner of a plugin run its cleanup: only the plugin knows how. Raises TetherError for what it could not do."""
        from tether.owner import asking

        row = entry.row
        self._note(entry)
        answer = asking.end_plugin(self._records.state_dir, row.owner, row.id, force=self._grace is None)
        if answer.ended:
            return f"gone ({answer.note})"
        left = f"still there: pid {', '.join(map(str, answer.left))}" if answer.left else ""
        said = "; ".join(part for part in (*answer.errors, left) if part)
        raise TetherError(f"plugin {entry.full_name} could not be ended: {said}. See 'tether events {entry.full_name}'")

    def _not_created(self, entry: Entry) -> str:
        if entry.owner_lives:
            return (
                f"resource {entry.full_name} is just being created by its owner, pid {entry.owner.identity.pid}; try again "
                "in a moment"
            )
        return f"resource {entry.full_name} is on record but was never created; 'tether reap' settles it"

    @staticmethod
    def _refuse_attached(entry: Entry, driver: Driver, handle: Handle) -> None:
        if isinstance(driver, CanAttach) and driver.is_attached(handle):
            raise Busy(
                f"resource {entry.full_name} was there before tether knew of it, and is never ended; its owner lets go of it"
            )

    def _end_now(self, entry: Entry, driver: Driver, handle: Handle) -> None:
        try:
            if self._grace is None:
                driver.destroy(handle)
            else:
                driver.stop(handle, self._grace)
        except PermissionError as error:
            whose = "" if is_mine(entry) else f" (uid {entry.owner.uid})"
            raise TetherError(
                f"resource {entry.full_name} belongs to another user{whose}, who alone can end it: {error}"
            ) from error

    def _note(self, entry: Entry) -> None:
        """Put on record who asked. A record that can't be written keeps nothing from its end."""
        row = entry.row
        try:
            self._ledger.add_event(
                row.owner, row.id, row.name, "asked to end", f"by {self._who}, from outside its owner"
            )
        except LedgerError as error:
            text.warn(str(error))

    def _record_gone(self, entry: Entry) -> None:
        """Nobody else would write it down; but for an owner that has adopted it meanwhile, with a newer fence."""
        row = entry.row
        said = f"ended by {self._who}; its owner, pid {entry.owner.identity.pid}, was dead"
        try:
            self._ledger.write(row.id, row.fence, State.GONE, [("gone", said)], reason=said, exit_code=row.exit_code)
        except LedgerError as error:
            text.warn(f"{entry.full_name} has ended, but that can't be put on record: {error}")


def restart(argv: Sequence[str]) -> int:
    """Restart resources. Only their owner can: it alone has the values of their environment."""
    parser = Parser(
        "restart",
        "Have the owners of resources restart them; returns when they are ready. Only a living owner can: the values of "
        "environments are on no record.",
    )
    parser.names("+")
    given = parser.read(argv)
    records = Records()
    code = 0
    for entry in records.named(given.names, one_each=True):
        try:
            text.say(f"{entry.full_name}: {_restart(entry, records)}")
            text.flush()
        except TetherError as error:
            text.warn(str(error))
            code = 1
    return code


def _restart(entry: Entry, records: Records) -> str:
    from tether.owner import door

    row, pid = entry.row, entry.owner.identity.pid
    if entry.is_elsewhere:
        raise Busy(f"resource {entry.full_name} is elsewhere: its owner is {entry.whereabouts}; restart it there")
    if not entry.owner_lives:
        raise Gone(
            f"resource {entry.full_name} can't be restarted: its owner, pid {pid}, is dead, and the values of its environment are "
            "on no record. Start the app again; 'tether reap' ends what is left"
        )
    if row.state.is_final:
        raise Gone(f"resource {entry.full_name} has ended ({row.state.value}); start it in its app, pid {pid}")
    if row.kind == "plugin":
        raise Busy(
            f"{entry.full_name} is a plugin, which only its app can begin again; 'tether stop' has it cleaned up"
        )
    new = door.restart(records.state_dir, row.owner, row.id, entry.full_name)
    return "restarted" + (f", pid {new}" if new is not None else "")
