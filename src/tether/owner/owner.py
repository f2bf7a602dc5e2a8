"""The owner: one app's resources and plugins, from the first start to the last end."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

from tether.errors import Gone, NotFound, SpecError, TetherError
from tether.estate import settle as estate
from tether.guard.line import Guard
from tether.ledger import logs, place
from tether.ledger.store import EventRow, Ledger, ResourceRow
from tether.life.driver import Context, HasGuard
from tether.life.machine import Event
from tether.life.managed import Managed, new_id
from tether.life.supervisor import Supervisor
from tether.linux import identity, members
from tether.model import Inside, OnDeath, Progress, Recorded, Spec, State, Terminal, check_name
from tether.notices import Notice, Telemetry
from tether.owner import shutdown
from tether.owner.budget import Budget, Spending
from tether.owner.plugin import ManagedPlugin
from tether.owner.resource import Resource
from tether.owner.roster import Roster
from tether.spec import Process

__all__ = ["Owner"]

_log = logging.getLogger("tether")

_ORDER_PATIENCE_S = 0.5
_REMEMBER_S = 14 * 24 * 3600.0

_owners: weakref.WeakSet[Owner] = weakref.WeakSet()


def _silent(_: str) -> None:
    return None


class Owner:
    """Answers for everything that one app starts: nothing of it outlives this process, unless you said so.

    Args:
        name: what the app is called. Two processes of an app may have the same.
        state_dir: where ledger, logs and sockets are; by default ``TETHER_STATE_DIR``, else the platform's user state
            directory. Made with mode 0700.
        on_death: what becomes of resources whose spec does not say, when this process dies or ends without `shutdown`:
            "kill" at once, "stop" politely first, "keep" for the next owner to adopt.
        budget: how much may be spent on what is rented; None for no limit.

    As a context manager it shuts down at the end of the block. Safe to use from several threads. A fork of this process
    owns nothing: there every method that starts something raises, and `shutdown` does nothing.

    Raises:
        SpecError: the name can't be one.
        StateDirError: the state directory can't be used safely; nothing was started.
        LedgerError: the ledger can't be opened; nothing was started.

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
        budget: Budget | None = None,
    ) -> None:
        self.name = check_name(name, "an owner")
        if on_death not in get_args(OnDeath):
            raise SpecError(f"on_death={on_death!r} is not known; use one of 'kill', 'stop', 'keep'")
        self.on_death: OnDeath = on_death
        self.id = new_id()
        self.state_dir: Path = place.prepare(place.state_dir(state_dir))
        self.telemetry = Telemetry()
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._closed = False
        me = identity.identify()
        if me is None:
            raise TetherError("/proc is not mounted: tether can't tell who this process is, and starts nothing")
        self._ledger = Ledger(self.state_dir)
        self._guard = Guard(self.id, self.name, self.state_dir, self._note)
        self._ledger.add_owner(self.id, self.name, me, self._guard.cgroup)
        self._supervisor = Supervisor(self.id, self._ledger, self.telemetry, self._context)
        self._roster = Roster(self.id, self._ledger, self._note)
        self._spending = None if budget is None else self._spend(budget)
        _add_to_environment(self.id)
        _owners.add(self)
        outcomes = estate.sweep(self._ledger, self.state_dir)
        if any(outcome.what == "elsewhere" for outcome in outcomes):
            threading.Thread(target=_sweep_elsewhere, args=(self.state_dir,), name="tether-sweep", daemon=True).start()
        self._forget_old()

    def _spend(self, budget: Budget) -> Spending:
        supervisor = self._supervisor
        made = Spending(budget, self.id, self._ledger, supervisor.live, supervisor.stop, self._note)
        self.telemetry.subscribe(made.heard)
        return made

    def _forget_old(self) -> None:
        """Remove what ended long ago: records, logs and receipts."""
        for tag in self._ledger.forget_old(time.time() - _REMEMBER_S):
            for path in (logs.path(self.state_dir, tag), self.state_dir / "run" / f"{tag}.ended"):
                path.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"<Owner {self.name} ({len(self._supervisor.live())} resources, id {self.id})>"

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
        if self._closed:
            raise Gone(f"owner {self.name} was shut down; make a new one")

    def _context(self, emit: Callable[[str, Event], None]) -> Context:
        """What drivers may use of this process."""
        return Context(
            self.state_dir,
            self.id,
            shim=self._guard.shim,
            watch=self._guard.watch,
            emit=emit,
            await_orphans=self._guard.await_orphans,
            lifeline=self._guard.armed_lifeline,
            terminal=lambda: self._guard.terminal,
        )

    def share_terminal(self) -> None:
        """Have commands share the terminal, session and process group of this process, as a shell's do; before the first start.

        Without this each command leads a session of its own, which no terminal's Ctrl-C or hang-up reaches.
        """
        ignored = tuple(
            int(signum)
            for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
            if signal.getsignal(signum) == signal.SIG_IGN
        )
        self._guard.terminal = Terminal(os.getpgrp(), ignored)

    def _note(self, what: str, detail: str) -> None:
        with suppress(TetherError):
            self._ledger.add_event(self.id, None, self.name, what, detail)
        self.telemetry.publish(Notice(self.id, None, self.name, what, detail))

    # -- resources -----------------------------------------------------------------------------------------------------

    def start(self, spec: Spec, *, on_progress: Progress | None = None) -> Resource:
        """Start a resource, and return it when it is ready.

        Args:
            spec: what to start, for instance a `Process`.
            on_progress: called with a line of text whenever there is something new to say.

        Raises:
            StartError: it did not come up in time, or ended; with exit status and the last lines of its log. Nothing of
                it is left running.
            OSError: with StartError: the kernel refused to execute it (FileNotFoundError, PermissionError, ...), as in subprocess.
            Busy: the name is in use.
            LedgerError, ReaperError: it could not be recorded or guarded, so nothing was created.

        Crash:
            A row with the resource's tag was committed before anything was created, and the shim ends what it started.
        """
        self._check_usable()
        spec = self._with_environment(spec, on_progress)
        if self._spending is not None:
            self._spending.check(spec)
        # Whatever it is, it is not created before there is somebody to end it.
        self._guard.arm()
        on_death = spec.on_death or self.on_death
        if on_death == "keep" and spec.name is not None:
            return self._adopt_or_start(spec, spec.name, on_progress or _silent)
        return Resource(self._supervisor, self._supervisor.start(spec, on_death, on_progress or _silent))

    def _with_environment(self, spec: Spec, on_progress: Progress | None) -> Spec:
        """Start the environment that a process runs in, where only its spec was given; one of an equal spec is used again."""
        wanted = getattr(spec, "env_in", None)
        if wanted is None or isinstance(wanted, Inside) or not isinstance(spec, Process):
            return spec
        for resource in self.resources:
            if resource.spec == wanted:
                return replace(spec, env_in=resource)
        return replace(spec, env_in=self.start(wanted, on_progress=on_progress))

    def _adopt_or_start(self, spec: Spec, name: str, progress: Progress) -> Resource:
        """Adopt what an earlier owner of this name kept from an equal spec; stop it if the spec has changed."""
        fingerprint = spec.fingerprint(place.key(self.state_dir))
        for row in self._kept(name):
            if row.state is State.READY and row.spec.get("fingerprint") == fingerprint:
                managed = self._supervisor.adopt(row, spec)
                if not managed.state.is_final:
                    progress(f"adopted {name}")
                    return Resource(self._supervisor, managed)
            else:
                progress(f"{name} was kept from another spec, stopping it")
                managed = self._supervisor.adopt(row, _recorded(row))
                self._supervisor.stop(managed, "its spec has changed")
        return Resource(self._supervisor, self._supervisor.start(spec, "keep", progress, fingerprint))

    def _kept(self, name: str, *, ended: bool = False) -> list[ResourceRow]:
        """Return what earlier owners of this name kept under ``name``, whose process has gone or let go in order."""
        estate.sweep(self._ledger, self.state_dir)
        owners = {owner.id: owner for owner in self._ledger.owners(ended=True)}
        return [
            row
            for row in self._ledger.kept(self.name, name)
            if row.owner != self.id
            and (ended or not row.state.is_final)
            and (owners[row.owner].ended is not None or not identity.is_alive(owners[row.owner].identity))
        ]

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
        for row in self._kept(name, ended=True):
            return Resource(self._supervisor, self._supervisor.adopt(row, _recorded(row)))
        raise NotFound(
            f"no earlier owner {self.name} kept a resource {name} in {self.state_dir}; start it, with on_death='keep'"
        )

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

    # -- plugins -------------------------------------------------------------------------------------------------------

    def register(self, plugin: Any, *, name: str | None = None) -> None:
        """Answer for a plugin: any object with the four methods, written by anybody.

        At `shutdown` its `force_cleanup` is called with a time limit, and what it leaves alive is ended and reported.
        If this process dies, the reaper ends the plugin's processes that were seen, and whatever carries the owner's tag.

        Raises:
            PluginError: it is not lifecycle-aware, or a method raised; nothing was registered.
            SpecError: the name is in use.
        """
        self._check_usable()
        if self._roster.add(plugin, name, self._guard.arm) and isinstance(plugin, ManagedPlugin):
            plugin.bind(self)

    def unregister(self, plugin: Any) -> None:
        """Answer for a plugin no longer; it is not cleaned up. Raises NotFound."""
        self._roster.remove(plugin)

    @property
    def plugins(self) -> dict[str, Any]:
        """The registered plugins by name."""
        return self._roster.plugins

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

        A plugin that raises is reported in its place under ``error``.
        """
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
            "reaper": self._guard.pid,
            "resources": resources,
            "plugins": plugins,
            "pids": list(dict.fromkeys(pids)),
        }

    def events(self, *, last: int | None = None) -> list[EventRow]:
        """Return what happened to this owner and its resources, the oldest first; at most the last so many."""
        return self._ledger.events(owner=self.id, last=last)

    # -- the end -------------------------------------------------------------------------------------------------------

    def shutdown(self, grace: float | None = None) -> None:
        """End every plugin and resource, and return when they have ended. A second call does nothing.

        Plugins first, the last registered first. Then resources: what others need waits until those have ended; apart from
        that in reverse order of the start, in parallel where it may. What is to be kept (``on_death="keep"``) is left
        to the next owner.

        Args:
            grace: for each resource, instead of its spec's.

        Raises:
            ExceptionGroup: of everything that could not be ended (after all was tried); that stays on record, and the
                shims go on with it.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._spending is not None:
            self._spending.close()
        errors = self._roster.clean_up()
        errors += self._stop_all([m for m in self._supervisor.live() if m.on_death != "keep"], grace)
        _remove_from_environment(self.id)
        if not errors:
            with suppress(TetherError):
                self._ledger.end_owner(self.id, "shut down in order")
        self._supervisor.close()
        # What is kept with nothing beside it that ends it in time is the reaper's to watch.
        kept = self._supervisor.live()
        guarded = all(isinstance(m.driver, HasGuard) for m in kept)
        self._guard.disarm(orderly=not errors and guarded, empty=not kept)
        self._ledger.close()
        if errors:
            raise ExceptionGroup(f"owner {self.name} could not end everything; the rest stays on record", errors)

    def _stop_all(self, resources: list[Managed], grace: float | None) -> list[Exception]:
        waits = shutdown.order(
            {managed.name: managed.spec.needs for managed in resources},
            {managed.name: getattr(getattr(managed.spec, "env_in", None), "name", None) for managed in resources},
        )
        ended = {managed.name: threading.Event() for managed in resources}

        def stop(managed: Managed) -> Exception | None:
            patience = time.monotonic() + _ORDER_PATIENCE_S
            for name in waits[managed.name].must:
                ended[name].wait()
            for name in waits[managed.name].may:
                ended[name].wait(max(0.0, patience - time.monotonic()))
            try:
                self._supervisor.stop(managed, "its owner shuts down", grace=grace)
            except Exception as error:
                return error
            finally:
                ended[managed.name].set()
            return None

        if not resources:
            return []
        with ThreadPoolExecutor(len(resources), thread_name_prefix="tether-stop") as pool:
            return [error for error in pool.map(stop, reversed(resources)) if error is not None]

    def release_in_fork(self) -> None:
        """In a fork of the owner: let go of everything, without ending anything."""
        self._closed = True
        self._ledger.abandon()
        self._guard.release_in_fork()


def _sweep_elsewhere(state_dir: Path) -> None:
    """Settle what dead owners left on engines and hosts, which may take long to answer."""
    try:
        ledger = Ledger(state_dir)
        try:
            estate.sweep(ledger, state_dir, patient=True)
        finally:
            ledger.close()
    except (TetherError, OSError) as error:
        _log.warning("what dead owners left elsewhere is not settled yet: %s", error)


def _recorded(row: ResourceRow) -> Recorded:
    return Recorded(
        kind=row.kind,
        name=row.name,
        recorded=row.spec,
        on_death="keep",
        keep_for=row.keep_for,
        stop_grace=float(row.spec.get("stop_grace", 10.0)),
        stays_up=bool(row.spec.get("stays_up", False)),
    )


def _release_all_in_fork() -> None:
    for owner in list(_owners):
        owner.release_in_fork()


os.register_at_fork(after_in_child=_release_all_in_fork)


def _tags_in_environment() -> list[str]:
    return [tag for tag in os.environ.get(members.OWNER, "").split(":") if tag]


def _add_to_environment(owner: str) -> None:
    os.environ[members.OWNER] = ":".join([*_tags_in_environment(), owner])


def _remove_from_environment(owner: str) -> None:
    left = [tag for tag in _tags_in_environment() if tag != owner]
    if left:
        os.environ[members.OWNER] = ":".join(left)
    else:
        os.environ.pop(members.OWNER, None)
