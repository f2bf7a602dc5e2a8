"""What one owner records of its own: written in the order in which it happened, many at once, and nobody who ends something waits.

An entry is committed by whoever waits for it (a start must not create what is not on record), along with all that was entered
before; what nobody waits for, by a thread. While somebody else holds the ledger, or it can't be written, entries stay in
memory, and are written when it can be again.

The writer knows what is live. Should the file be another one than before (set aside by a neighbour, removed, replaced), owner and
live resources are written anew into that.
"""

from __future__ import annotations

import io
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tether.errors import Busy, LedgerError
from tether.ledger import changes
from tether.ledger.alarm import Alarm
from tether.ledger.changes import Transition
from tether.ledger.database import BUSY_S, Held, Replaced
from tether.ledger.entries import Blocked, Entry, TransitionEntry, carry_out
from tether.ledger.known import Known
from tether.ledger.prune import Pruning
from tether.ledger.store import EventRow, Ledger
from tether.linux import inotify, whereabouts
from tether.linux.readable import await_readable
from tether.model import Handle, Identity, State

__all__ = ["Writer"]

_log = logging.getLogger("tether")

_ATTEMPT_S = 0.05
"""So long one attempt waits for who holds the ledger; then it counts as held, and ends do not even look."""

_GATHER_S = 0.005
"""So long the thread waits for more, once there is something: who starts or ends something will commit it himself before that."""

_LONGEST_GATHER_S = 0.25
"""So long at most while more and more comes, as when many end: what is committed together costs little more than one of it."""

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_QUIET_S = 2.0
_MOST_ENTRIES = 20_000
_PRUNED_AT_END = 50


class Writer:
    """The record of one owner.

    Args:
        state_dir: the state directory, which `place.prepare` made.
        owner: the owner's id.

    Safe to use from several threads, and from a signal handler that interrupts one of them.

    Raises:
        LedgerError: the ledger can't be opened.
    """

    def __init__(self, state_dir: Path, owner: str) -> None:
        self._owner = owner
        self._ledger = Ledger(state_dir, patience_s=_ATTEMPT_S)
        self._state_dir = state_dir
        self._known = Known(owner)
        self._entries: deque[Entry] = deque()
        self._batch: list[Entry] = []
        self._committing = threading.RLock()
        self._beginning = threading.Lock()
        self._inside = 0
        self._at_once: set[int] = set()
        self._generation = 0
        self._blocked = Blocked()
        self._knows_all = True
        self._closed = False
        self._at_end: deque[Callable[[], object]] = deque()
        self._pruning = Pruning(self._ledger, state_dir)
        self._thread: threading.Thread | None = None
        self._alarm: Alarm | None = None
        self._names: io.FileIO | None = None

    # -- what is recorded ----------------------------------------------------------------------------------------------

    def add_owner(self, name: str, identity: Identity, cgroup: str | None) -> None:
        """Record the owner; on record when this returns. Raises LedgerError."""
        where = whereabouts.here()
        self._known.add_owner = lambda db: changes.add_owner(db, self._owner, name, identity, cgroup, where)

        def change(db: Any) -> None:
            self._known.add_owner(db)
            changes.add_event(db, self._owner, None, name, "owner began", f"pid {identity.pid}")

        self._commit(Entry(change))

    def end_owner(self, how: str) -> None:
        """Record that the owner has ended; see `close`."""
        self._enter(Entry(lambda db: changes.end_owner(db, self._owner, how)))

    def add_resource(self, *arguments: Any, **named: Any) -> None:
        """Record a resource before anything of it is created; on record when this returns. See `enter_resource`."""
        self.enter_resource(*arguments, **named)()

    def enter_resource(
        self,
        tag: str,
        owner: str,
        name: str,
        kind: str,
        spec: dict[str, Any],
        on_death: str,
        keep_for: float,
        plan: Handle | None = None,
        reserved: Handle | None = None,
    ) -> Callable[[], None]:
        """Have a resource recorded before anything of it is created, and return what waits until it is on record.

        With a plan, which is for what survives this machine, on the disk. Those that are entered before the first is waited for,
        or that several threads record at once, share one commit. What waits raises LedgerError: it is not, and will not be.
        """
        row = changes.new_resource(tag, owner, name, kind, spec, on_death, keep_for, plan or reserved)
        self._known.put(row)
        entry = Entry(lambda db: changes.put_resource(db, row), synced=plan is not None)
        self._append(entry)
        return partial(self._await_resource, tag, entry)

    def _await_resource(self, tag: str, entry: Entry) -> None:
        try:
            self._await(entry)
        except BaseException:
            self.withdraw(tag)
            raise

    def withdraw(self, tag: str) -> None:
        """Take a resource off the record of which nothing was, or will be, created. Never waits.

        Interrupted, or written anew meanwhile, it may be on record all the same.
        """
        self._known.drop(tag)
        self._enter(Entry(lambda db: changes.remove_pending(db, tag)))

    def plan_again(self, tag: str, fence: int, plan: Handle) -> None:
        """Record where a resource that has ended will be next; on the disk when this returns. Raises LedgerError."""
        self._known.change(tag, handle=plan)
        self._commit(Entry(lambda db: changes.plan_again(db, tag, fence, plan), synced=True))

    def begin_life(self, tag: str, fence: int) -> int:
        """Record that a resource that has ended begins another life, and return its number; on record when this returns.

        Raises:
            Busy: somebody with a higher fence has taken it over; nothing was written.
            LedgerError: it could not be recorded.
        """
        self._commit(entry := Entry(lambda db: changes.begin_life(db, tag, fence)))
        if entry.result is None:
            raise Busy(f"resource {tag} has another owner by now, who alone can start it again")
        if (row := self._ledger.resource(tag)) is not None:
            self._known.put(row)
        return int(entry.result)

    def check(self) -> None:
        """See that something can be recorded now; after `close` nothing is begun any more that would be. Raises LedgerError."""
        if not self._closed:
            self._commit(Entry(lambda _: None))

    def take_over(self, tag: str, fence: int, owner: str) -> bool:
        """Make ``owner`` the owner of a resource whose fence is ``fence``; False if somebody else was faster."""
        self._commit(entry := Entry(lambda db: changes.take_over(db, tag, fence, owner)))
        row = self._ledger.resource(tag)
        if entry.result and row is not None and not row.state.is_final:
            self._known.put(row)
        return bool(entry.result)

    def write(
        self,
        tag: str,
        fence: int,
        state: State,
        events: Sequence[tuple[str, str]],
        *,
        reason: str = "",
        exit_code: int | None = None,
        url: str | None = None,
        handle: Handle | None = None,
    ) -> bool:
        """Record where a resource is in its life, and what happened. Never waits; see `flush`.

        ``url`` and ``handle`` keep what they were when None. If somebody with a higher fence has taken it over, nothing is
        written, and that is logged.

        Returns:
            True: what became of it is not known yet.
        """
        if self._known.has_handle(tag, handle):
            # That is on record already, or entered before this.
            handle = None
        transition = Transition(tag, fence, state, list(events), reason, exit_code, url, handle, time.time())
        self._known.step(transition)
        self._enter(TransitionEntry(transition, self._known.heard))
        return True

    def add_event(self, owner: str, tag: str | None, name: str, what: str, detail: str = "") -> None:
        """Record that something happened. Never waits."""
        self._enter(Entry(lambda db: changes.add_event(db, owner, tag, name, what, detail)))

    def events(self, *, last: int | None = None) -> list[EventRow]:
        """Return what happened to the owner and its resources, the oldest first; at most the last so many. Raises LedgerError."""
        self.flush()
        return self._ledger.events(owner=self._owner, last=last)

    # -- how it is committed -------------------------------------------------------------------------------------------

    def _enter(self, entry: Entry) -> None:
        """Have it committed some time; nobody waits for it. What comes after the end is settled by others, who record it."""
        if self._closed and self.is_complete:
            return
        self._append(entry)
        if self._thread is None and not self._closed:
            with suppress(RuntimeError, OSError):  # Without a thread, whoever flushes next commits it.
                self._begin_thread()
        if threading.get_ident() not in self._at_once:
            self._wake()

    def at_once(self, record: Callable[[], object]) -> None:
        """What the calling thread enters in ``record()`` it commits itself afterwards, so that no other one is woken for that."""
        try:
            self.quietly(record)
        finally:
            if not self.flush():
                self._wake()

    def quietly(self, record: Callable[[], object]) -> None:
        """What the calling thread enters in ``record()`` wakes nobody: it will call `at_once`, or `flush`, itself."""
        try:
            self._at_once.add(threading.get_ident())
            record()
        finally:
            self._at_once.discard(threading.get_ident())

    def _append(self, entry: Entry) -> None:
        if len(self._entries) > _MOST_ENTRIES:
            # Nobody could write for very long. What lives is known, and will be; what happened in between is lost.
            self._entries.clear()
            self._knows_all = False
        self._entries.append(entry)

    def _commit(self, entry: Entry) -> None:
        """Commit it, with all that was entered before. Raises LedgerError: it was not, and will not be."""
        self._append(entry)
        self._await(entry)

    def _await(self, entry: Entry) -> None:
        deadline = time.monotonic() + BUSY_S
        try:
            while not entry.done:
                error = self._attempt()
                passes = isinstance(error, Held | Replaced) and time.monotonic() < deadline
                if error is not None and not entry.done and not passes:
                    raise error
        except BaseException:
            with self._committing:
                for entries in (self._entries, self._batch):
                    with suppress(ValueError):
                        entries.remove(entry)
            raise
        if entry.error is not None:
            raise entry.error

    def _attempt(self) -> LedgerError | None:
        """Try once to commit all that was entered; returns why it could not be. Whoever comes first does it for all."""
        with self._committing:
            if self._inside:
                return LedgerError("the ledger is just being written by what this signal handler has interrupted")
            self._inside += 1
            try:
                while self._entries:
                    # Interrupted between the two, it is in both, never in none.
                    entry = self._entries[0]
                    if not self._batch or self._batch[-1] is not entry:
                        self._batch.append(entry)
                    self._entries.popleft()
                if self._batch:
                    self._commit_batch()
            except LedgerError as error:
                self._blocked.note(error)
                return error
            finally:
                self._inside -= 1
            self._blocked.clear()
            return None

    def _commit_batch(self) -> None:
        batch = list(self._batch)
        database = self._ledger.database

        def change(db: sqlite3.Connection) -> list[tuple[Any, LedgerError | None]]:
            if database.generation != self._generation or not self._knows_all:
                self._known.write_anew(db)
            return carry_out(batch, db)

        results = database.transact(change, synced=any(entry.synced for entry in batch))
        self._generation, self._knows_all = database.generation, True
        for entry, (result, failure) in zip(batch, results, strict=True):
            entry.result, entry.error, entry.done = result, failure, True
        del self._batch[: len(batch)]

    def flush(self) -> bool:
        """See that what was entered is on record, unless the ledger can't be written now: no end waits for it.

        Returns:
            Whether it is.
        """
        if not self.is_complete and not self._blocked:
            self._attempt()
        return self.is_complete

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _begin_thread(self) -> None:
        # Whoever comes second, or from a signal handler in the middle of this, leaves it to the first.
        if not self._beginning.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                self._run_thread()
        finally:
            self._beginning.release()

    def _run_thread(self) -> None:
        if self._alarm is None:
            self._alarm = Alarm()
        thread = threading.Thread(target=self._run, name="tether-ledger", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            self._thread = None
            raise
        # It looks at the file once it watches: that may have been replaced before.
        self._wake()

    def _wake(self) -> None:
        if self._alarm is not None:
            self._alarm.ring()

    def _run(self) -> None:
        """Commit what nobody waits for; remove what ended long ago; notice another file under the name."""
        alarm = self._alarm
        if alarm is None:
            return
        fds = [alarm.fileno()]
        with suppress(OSError):
            self._names = io.FileIO(inotify.watch(str(self._state_dir)))
            fds.append(self._names.fileno())
        pause, missing = _FIRST_PAUSE_S, False
        while not (self._closed and self.is_complete):
            timeout = pause if self._blocked else _QUIET_S if missing else self._pruning.pause_s()
            woken = await_readable(fds, timeout)
            if woken:
                self._gather()
            alarm.hear()
            for fd in fds[1:]:
                with suppress(OSError):
                    os.read(fd, 65536)
            was_missing, missing = missing, False
            if not self._closed and not self._ledger.database.is_current():
                missing = not self._ledger.path.exists()
                # Who is just removing the whole folder would find it filled again.
                if not missing or (was_missing and not woken):
                    self._append(Entry(lambda _: None))
            if self._attempt() is not None:
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            pause = _FIRST_PAUSE_S
            if not missing:
                with suppress(LedgerError):
                    self._pruning.proceed()
        self._ledger.close()
        self._close_fds()
        self._say_written()

    def _gather(self) -> None:
        until = time.monotonic() + _LONGEST_GATHER_S
        count = -1
        while not self._closed and count != len(self._entries) and time.monotonic() < until:
            count = len(self._entries)
            time.sleep(_GATHER_S)

    def _close_fds(self) -> None:
        for file in (self._alarm, self._names):
            if file is not None:
                file.close()

    @property
    def is_complete(self) -> bool:
        """Whether all that was entered is on record."""
        return not self._entries and not self._batch

    def close(self) -> bool:
        """Write what is left, and close the file.

        Returns:
            Whether all is on record. If not, for the ledger can't be written now, the thread goes on with that for as long as this
            process lives; should it end before, somebody else must settle what is not on record.
        """
        if not self.is_complete:
            self._attempt()
        if self.is_complete:
            with suppress(LedgerError):
                self._pruning.step(_PRUNED_AT_END)
        elif not self._state_dir.is_dir():
            # Removed with all that was in it: there is nothing to be recorded in any more.
            self._entries.clear()
            self._batch.clear()
        self._closed = True
        if self.is_complete:
            self._ledger.close()
            if self._thread is None:
                self._close_fds()
        self._wake()
        return self.is_complete

    def when_written(self, do: Callable[[], object]) -> None:
        """After `close`: have ``do`` called once all is on record, by the thread if that goes on; at once where nobody does."""
        self._at_end.append(do)
        if self.is_complete or self._thread is None:
            self._say_written()

    def _say_written(self) -> None:
        with suppress(IndexError):  # Whoever comes first; the other finds none.
            self._at_end.popleft()()

    def abandon(self) -> None:
        """In a fork: never touch the file again."""
        self._closed = True
        self._entries.clear()
        self._thread = None
        self._ledger.abandon()
        self._close_fds()
