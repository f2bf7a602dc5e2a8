"""The owner: one app's resources and plugins, from the first start to the last end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, get_args

from tether.errors import Gone, NotFound, SpecError
from tether.estate import settle as estate
from tether.estate import strays as stray
from tether.fitting import checked_spec
from tether.ledger import place
from tether.ledger.store import EventRow
from tether.life.context import Context, Emit
from tether.life.driver import HasGuard
from tether.life.managed import Managed, new_id
from tether.life.steps import Steps, alone, in_step
from tether.life.supervisor import Supervisor
from tether.linux import signals
from tether.model import OnDeath, Progress, Spec, Terminal, check_name, silent
from tether.notices import Notice, Telemetry
from tether.owner import door as doors
from tether.owner import ground, living, marking, show, within
from tether.owner.answering import Answering
from tether.owner.ending import stop_all
from tether.owner.handover import hand_over
from tether.owner.kept import Kept
from tether.owner.resource import Resource
from tether.owner.roster import Held, Roster
from tether.owner.together import Starts

if TYPE_CHECKING:
    from tether.owner.budget import Budget, Spending

__all__ = ["Owner"]

_LOOK_S = 2.0
_BESIDE_S = 1.0
_LET_GO_S = 10.0


class Owner(Answering):
    """Answers for everything that one app starts: nothing of it outlives this process, unless you said so.

    Args:
        name: what the app is called. Two processes of an app may have the same.
        state_dir: where ledger, logs and sockets are (mode 0700); by default ``TETHER_STATE_DIR``, else the user's state folder.
        on_death: what becomes of resources whose spec does not say, when this process dies or ends without `shutdown`:
            "kill" at once, "stop" politely first, "keep" for the next owner to adopt.
        strays: what becomes of what the app started beside tether and left in its session, at `shutdown` as after a crash: "warn"
            says which they are, "end" ends them (SIGTERM first), "leave" does nothing. See `tether.apart`.
        budget: how much may be spent on what is rented; None for no limit.
        replace: shut down first what owners of this name this process has already (a notebook's cell that is run again); without
            it they go on, and a RuntimeWarning says so if they have anything.

    As a context manager it shuts down at the end of the block. Safe to use from several threads. A fork of this process
    owns nothing: there every method that starts something raises, and `shutdown` does nothing.

    Raises:
        SpecError: the name can't be one.
        StateDirError, LedgerError: the state directory can't be used safely, or its ledger not be opened; nothing was started.
        ReaperError: this process can open no more files, or the kernel refused something else that a guard needs. Nothing stays.

    Crash:
        Whenever this process dies, by whatever cause, its shims end their trees, and its reaper the rest. If reaper and
        shims are killed in the same instant, the next Owner of the state directory, or ``tether reap``, ends what is left.
    """

    def __init__(
        self,
        name: str,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        on_death: OnDeath = "kill",
        strays: stray.Rule = "warn",
        budget: Budget | None = None,
        replace: bool = False,
    ) -> None:
        self.name = check_name(name, "an owner")
        if on_death not in get_args(OnDeath):
            raise SpecError(f"on_death={on_death!r} is not known; use one of 'kill', 'stop', 'keep'")
        if strays not in stray.RULES:
            raise SpecError(f"strays={strays!r} is not known; use one of 'warn', 'end', 'leave'")
        self.on_death: OnDeath = on_death
        self.strays: stray.Rule = strays
        self.id = new_id()
        self.state_dir: Path = place.prepare(place.state_dir(state_dir))
        living.see_to_former(name, self.state_dir, replace=replace)
        self.telemetry = Telemetry()
        self._pid = os.getpid()
        self._ending = threading.RLock()
        self._letting_go = threading.RLock()
        self._environments = threading.RLock()
        self._is_closing = self._closed = False
        self._grace: float | None = None
        self._terminal: Terminal | None = None
        made = ground.lay(self.id, self.name, self.state_dir, self._note)
        self._ledger, self._record, self._proof, self._guard = made
        self._supervisor = Supervisor(self.id, self._record, self.telemetry, self._context)
        self._kept = Kept(self.id, self.name, self._supervisor, self._ledger, self.state_dir)
        self._roster = Roster(self.id, self._record, self._note, self._held, self.state_dir)
        self._spending: Spending | None = None
        if budget is not None:
            from tether.owner.budget import Spending

            run = self._supervisor
            self._spending = Spending(budget, self.id, self._ledger, run.live, run.stop, self._note)
            self.telemetry.subscribe(self._spending.heard)
        self._door = doors.Door(doors.path_of(self.state_dir, self.id), self._restart)
        # Where it can't be written, whoever settles the estate ends no stray, and says which there are.
        with suppress(OSError):
            stray.remember(self.state_dir, self.id, strays)
        marking.mark(self.id)
        living.add(self)
        try:
            outcomes = estate.sweep(self._ledger, self.state_dir)
        except BaseException:
            self.shutdown()
            raise
        if any(outcome.what == "later" for outcome in outcomes):
            estate.sweep_later(self.state_dir)

    @property
    def is_in_use(self) -> bool:
        """Whether it was not shut down, and has resources or plugins."""
        return not self._closed and os.getpid() == self._pid and bool(self.resources or self.plugins)

    def __repr__(self) -> str:
        return f"<Owner {self.name} ({', '.join(self._in_words())})>"

    def _in_words(self) -> list[str]:
        counts = (len(self._supervisor.live()), "resource"), (len(self.plugins), "plugin")
        held = [f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts]
        return [f"pid {self._pid}", *held, *(["shut down"] if self._closed else [])]

    def _repr_html_(self) -> str:
        return show.table(self.resources, f"owner {self.name} ({', '.join(self._in_words())})")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise Gone(
                f"owner {self.name} belongs to process {self._pid}, of which this is a fork: a fork owns nothing; "
                "make an Owner of its own"
            )
        if self._is_closing:
            raise Gone(f"owner {self.name} was shut down; make a new one")

    def _context(self, emit: Emit) -> Context:
        """What drivers may use of this process."""
        return Context(
            self.state_dir,
            self.id,
            shim=self._guard.shim,
            prepare=self._guard.prepare,
            watch=self._guard.watch,
            emit=emit,
            await_orphans=self._guard.await_orphans,
            lifeline=self._guard.armed_lifeline,
            terminal=lambda: self._terminal,
        )

    def share_terminal(self, *, mask: int = 0) -> None:
        """Have commands share the terminal, session and process group of this process, as a shell's do; before the first start.

        Without this each command leads a session of its own, which no terminal's Ctrl-C or hang-up reaches.

        Args:
            mask: the signals that commands have blocked, a bit each, the lowest for signal 1.
        """
        self._guard.shares_terminal = True
        self._terminal = Terminal(os.getpgrp(), tuple(signals.handed_on()), mask)

    def hand_over(self, resource: Resource, *, grace_s: float, parent: int | None = None) -> None:
        """Have the guard take this process's place, as ``tether run`` does. See `tether.owner.handover`."""
        managed = self._supervisor.by_name(resource.name)
        if managed is None:
            return None
        # What takes over has no values of environments, and restarts nothing.
        self._door.close()
        return hand_over(managed, self._guard, self._record, self._proof, grace_s=grace_s, parent=parent)

    def _note(self, what: str, detail: str) -> None:
        self._record.add_event(self.id, None, self.name, what, detail)
        self.telemetry.publish(Notice(self.id, None, self.name, what, detail))

    def _held(self) -> Held:
        """What the supervisor ends by its spec, so that no plugin's cleanup does."""
        return Held(self._guard.pid, frozenset(managed.tag for managed in self._supervisor.live()))

    # -- resources -----------------------------------------------------------------------------------------------------

    def start(
        self,
        spec: Spec,
        *,
        on_progress: Progress | None = None,
        held: Callable[[Resource], object] | None = None,
    ) -> Resource:
        """Start a resource, and return it when it is ready.

        Args:
            spec: what to start, for instance a `Process`.
            on_progress: called with a line of text whenever there is something new to say.
            held: called with the resource as soon as it is on record, long before it is ready.

        Raises:
            StartError: it did not come up in time, or ended; with exit status and the end of its log. Nothing of it runs.
            OSError: with StartError: the kernel refused to execute it (FileNotFoundError, PermissionError, ...), as in subprocess.
            Busy: the name is in use.
            LedgerError, ReaperError: it could not be recorded or guarded, so nothing was created.

        Crash:
            A row with the resource's tag was committed before anything was created, and the shim ends what it started.
        """
        self._check_usable()
        rule = checked_spec(spec).on_death or self.on_death
        start = partial(self.start, on_progress=on_progress)
        spec, rented = within.resolved(spec, rule, lambda: self.resources, start, self._environments)
        with within.alone(rented):
            return alone(self._starting(spec, on_progress or silent, held, rented))

    def _starting(
        self, spec: Spec, progress: Progress, held: Callable[[Resource], object] | None, rented: Resource | None = None
    ) -> Steps[Resource]:
        with nullcontext(bool) if self._spending is None else self._spending.promised(spec) as on_record:

            def hold(managed: Managed) -> None:
                on_record()
                if held is not None:
                    held(Resource(self._supervisor, managed))

            # Whatever it is, it is not created before there is somebody to end it.
            self._guard.arm(in_session=getattr(spec, "terminal", None) == "share")
            self._door.open(self._guard.watch)
            on_death = spec.on_death or self.on_death
            if on_death == "keep" and spec.name is not None:
                return Resource(self._supervisor, self._kept.adopt_or_start(spec, spec.name, progress, hold))
            carrier = None if rented is None else self._supervisor.by_name(rented.name)
            managed = yield from self._supervisor.starting(spec, on_death, progress, held=hold, carrier=carrier)
            return Resource(self._supervisor, managed)

    def start_all(
        self,
        specs: Iterable[Spec],
        *,
        on_progress: Progress | None = None,
        held: Callable[[Resource], object] | None = None,
    ) -> list[Resource]:
        """Start many resources side by side, and return them, in the same order, when all are ready.

        One that needs others of them (``needs=``) is started when those are ready, in whatever order they are given.

        Args:
            specs: what to start.
            on_progress: called with a line of text, from several threads, whenever there is something new to say.
            held: called with each as soon as it is on record, from several threads.

        Raises:
            SpecError: two have one name, or they need each other in a circle; nothing was started.
            StartError: one did not come up, as from `start`; what had been started with it was stopped again, what was still
                starting was killed, and so it is when this is interrupted. What was adopted stays.
        """
        self._check_usable()
        return Starts(partial(self.start, on_progress=on_progress), list(specs), held, self._in_step).carry_out()

    def _in_step(self, specs: Sequence[Spec], held: Callable[[Resource], object]) -> list[Resource]:
        """Start those that wait only to be on record and created, a step of each in turn."""
        with self._guard.many(len(specs)):
            return in_step(self._starting(spec, silent, held) for spec in specs)

    def _restart(self, tag: str) -> int | None:
        """Restart a resource for somebody outside, who has its id."""
        for resource in (each for each in self.resources if each.id == tag):
            resource.restart()
            return resource.pid
        raise NotFound(f"owner {self.name} has no live resource {tag}")

    def adopt(self, name: str) -> Resource:
        """Take over a resource that an earlier owner of this name left on purpose (``on_death="keep"``).

        If it ended while nobody owned it, it is handed over all the same, with its exit code; once.

        Raises:
            NotFound: there is none.
            Busy: another owner adopted it just now, or its owner lives.

        Crash:
            It stays kept, for the next owner of this name.
        """
        self._check_usable()
        return Resource(self._supervisor, self._kept.adopt(name))

    @property
    def resources(self) -> list[Resource]:
        """What was started and has not ended, in the order of the start."""
        if os.getpid() != self._pid:
            return []
        return [Resource(self._supervisor, managed) for managed in self._supervisor.live()]

    def resource(self, name: str) -> Resource:
        """Return the live resource of this name. Raises NotFound."""
        for resource in self.resources:
            if resource.name == name:
                return resource
        raise NotFound(f"owner {self.name} has no live resource {name}")

    # -- what there is -------------------------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        """Return every live pid that this owner answers for, each once: those of resources, then those of plugins.

        Raises:
            PluginError: a plugin's method raised.
        """
        found = [pid for resource in self.resources for pid in resource.pids()]
        return list(dict.fromkeys([*found, *self._roster.pids()]))

    def status(self) -> dict[str, Any]:
        """Return one snapshot of all that this owner has, ready for JSON and without secrets.

        A plugin that raises is reported in its place under ``error``. Services elsewhere are looked at once, side by side, for at
        most two seconds; of what is not known by then it is said under ``unknown``, with its age.
        """
        self._supervisor.drivers.look(_LOOK_S)
        plugins = self._roster.status()
        resources = [resource.info() for resource in self.resources]
        pids = [pid for each in [*resources, *plugins] for pid in each["pids"]]
        return {
            "owner": self.name,
            "id": self.id,
            "pid": self._pid,
            "state_dir": str(self.state_dir),
            "on_death": self.on_death,
            "tier": self._guard.tier,
            "hub": self._guard.pid,
            "reaper": self._guard.pid,  # as it was called before
            "resources": resources,
            "plugins": plugins,
            "pids": list(dict.fromkeys(pids)),
        }

    def events(self, *, last: int | None = None) -> list[EventRow]:
        """Return what happened to this owner and its resources, the oldest first; at most the last so many."""
        return self._record.events(last=last)

    # -- the end -------------------------------------------------------------------------------------------------------

    def shutdown(self, grace: float | None = None) -> None:
        """End every plugin and resource, and return when they have ended.

        A second call does nothing, or waits for the first; after one that was interrupted (by Ctrl-C) it goes on. Where another
        thread is long at it (which may wait for what a signal handler interrupted) it ends what is left itself, beside that.

        Plugins first, the last registered first. Then resources: what others need waits until those have ended; else in reverse
        order of the start, in parallel where it may. What is to be kept (``on_death="keep"``) is left to the next owner.

        Args:
            grace: for each resource, instead of its spec's; by default that of the shutdown it goes on with or is beside.

        Raises:
            ExceptionGroup: of everything that could not be ended (after all was tried); that stays on record, the shims go on.
        """
        if os.getpid() != self._pid:
            return
        self._is_closing = True
        # Whoever is at it may wait for a lock that this thread holds, if a signal handler interrupted it: he is not waited for.
        is_first = self._ending.acquire(timeout=_BESIDE_S)
        try:
            if self._closed:
                return
            self._supervisor.refuse_starts()
            self._grace = self._grace if grace is None else grace
            errors = self._end_all()
            self._let_go(orderly=not errors)
        finally:
            if is_first:
                self._ending.release()
        if errors:
            raise ExceptionGroup(f"owner {self.name} could not end everything; the rest stays on record", errors)

    def _end_all(self) -> list[Exception]:
        """End all that is to end; called again after an interruption it goes on."""
        if self._spending is not None:
            self._spending.close()
        errors = self._roster.clean_up()
        errors += stop_all(self._supervisor, [m for m in self._supervisor.live() if not m.stays], self._grace)
        marking.unmark(self.id)
        return errors + stray.see_to(self.id, self.strays, self._ledger, self.state_dir, self._note)

    def _let_go(self, *, orderly: bool) -> None:
        """Close everything, once; called again after an interruption it goes on."""
        # All has ended. What this can't close now, another thread closes as soon as this one goes on.
        if self._letting_go.acquire(timeout=_LET_GO_S):
            try:
                if not self._closed:
                    self._close_all(orderly=orderly)
                    self._closed = True
            finally:
                self._letting_go.release()

    def _close_all(self, *, orderly: bool) -> None:
        kept = self._supervisor.live()
        # What a signal handler interrupted the start of is settled by the hub, should that not go on.
        orderly = orderly and all(m.creator is None for m in kept)
        if orderly:
            self._record.end_owner("shut down in order")
        self._roster.close()
        self._door.close()
        self._supervisor.close()
        # What could not be recorded now is settled by the reaper, should this process end before that can be written.
        recorded = self._record.close()
        # What is kept with nothing beside it that ends it in time is the reaper's to watch.
        guarded = all(isinstance(m.driver, HasGuard) for m in kept)
        self._guard.disarm(orderly=orderly and guarded and recorded, empty=not kept)
        for managed in kept:
            managed.leave(self.name)
        if orderly and not kept:
            (self.state_dir / "run" / f"{self.id}.receipts").unlink(missing_ok=True)
        self._ledger.close()
        self.telemetry.close()
        # Until then the reaper leaves the record to it.
        self._record.when_written(self._proof.drop)

    def release_in_fork(self) -> None:
        """In a fork of the owner: let go of everything, without ending anything."""
        self._closed = self._is_closing = True
        self._supervisor.release_in_fork()
        self.telemetry.release_in_fork()
        self._ledger.abandon()
        self._roster.release_in_fork()
        self._record.abandon()
        self._proof.forget()
        self._guard.release_in_fork()
