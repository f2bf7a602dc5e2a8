"""The owner, in the loop."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

from tether.aio import loops
from tether.aio.beginning import Beginning, together
from tether.aio.resource import Resource
from tether.aio.threads import ask, begin_end, outcome, over
from tether.aio.watch import Watch, in_loop
from tether.estate.strays import Rule
from tether.ledger.store import EventRow
from tether.model import OnDeath, Spec
from tether.notices import Notice
from tether.owner import owner as sync
from tether.owner import resource as sync_resource
from tether.owner.budget import Budget
from tether.owner.job import Watched
from tether.owner.together import Starts

__all__ = ["Owner"]


def _ignore(_: object) -> None:
    return None


class Owner:
    """Answers for everything that one app starts, as `tether.Owner`. What only tells is a plain attribute; the rest is awaited.

    As ``async with`` it shuts down at the end of the block, also if the task is cancelled there. May be used in several loops, one
    after the other or at once; what it calls back, it calls in the loop that asked for it.

    To make one settles what dead owners left on this machine, and blocks for that: a few milliseconds as a rule. Where it may be
    much, ``await asyncio.to_thread(aio.Owner, "app")``.

    Cancellation: a start that is cancelled ends what it began before it raises. An end that is cancelled goes on.

    Args:
        name: what the app is called. Two processes of an app may have the same.
        state_dir: where ledger, logs and sockets are; by default ``TETHER_STATE_DIR``, else the platform's user state
            directory. Made with mode 0700.
        on_death: what becomes of resources whose spec does not say, when this process dies or ends without `shutdown`:
            "kill" at once, "stop" politely first, "keep" for the next owner to adopt.
        strays: what becomes of what the app started beside tether and left in its session, at `shutdown` as after a crash: "warn"
            says which they are, "end" ends them (SIGTERM first), "leave" does nothing. See `tether.apart`.
        budget: how much may be spent on what is rented; None for no limit.
        replace: shut down first what owners of this name this process has already, which blocks for that.

    Raises:
        SpecError: the name can't be one.
        StateDirError: the state directory can't be used safely; nothing was started.
        LedgerError: the ledger can't be opened; nothing was started.

    Crash:
        Whenever this process dies, by whatever cause, its shims end their trees, and its hub the rest.
    """

    def __init__(
        self,
        name: str,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        on_death: OnDeath = "kill",
        strays: Rule = "warn",
        budget: Budget | None = None,
        replace: bool = False,
    ) -> None:
        self._owner = sync.Owner(
            name, state_dir=state_dir, on_death=on_death, strays=strays, budget=budget, replace=replace
        )
        self._shutdown: Future[None] | None = None

    def __repr__(self) -> str:
        return repr(self._owner)

    def _repr_html_(self) -> str:
        return self._owner._repr_html_()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = self._end(None)
        await over(ending)
        ending.result()

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What the app is called."""
        return self._owner.name

    @property
    def id(self) -> str:
        """The owner's id, unique for ever."""
        return self._owner.id

    @property
    def state_dir(self) -> Path:
        """Where ledger, logs and sockets are."""
        return self._owner.state_dir

    @property
    def on_death(self) -> OnDeath:
        """What becomes of resources whose spec does not say, when this process dies."""
        return self._owner.on_death

    @property
    def strays(self) -> Rule:
        """What becomes of what the app started beside tether."""
        return self._owner.strays

    @property
    def is_in_use(self) -> bool:
        """Whether it was not shut down, and has resources or plugins."""
        return self._owner.is_in_use

    # -- resources -----------------------------------------------------------------------------------------------------

    async def start(
        self,
        spec: Spec,
        *,
        on_progress: Callable[[str], object] | None = None,
        held: Callable[[Resource], object] | None = None,
    ) -> Resource:
        """Start a resource, and return it when it is ready. Many may start at once, each in a thread of its own.

        If it is cancelled, what it began is ended by force before that is raised: no process of it is left, and its name is free.
        An environment that was made for it (``env_in=``) stays for the next start, and what was adopted stays adopted.

        Args:
            spec: what to start, for instance a `Process`.
            on_progress: called in the loop with a line of text whenever there is something new to say.
            held: called in the loop with the resource as soon as it is on record, long before it is ready.

        Raises:
            StartError: it did not come up in time, or ended; with exit status and the last lines of its log. Nothing of
                it is left running.
            OSError: with StartError: the kernel refused to execute it (FileNotFoundError, PermissionError, ...), as in subprocess.
            Busy: the name is in use.
            LedgerError, ReaperError: it could not be recorded or guarded, so nothing was created.

        Crash:
            A row with the resource's tag was committed before anything was created, and the shim ends what it started.
        """
        loop = loops.current()
        beginning = Beginning(in_loop(loop, on_progress or _ignore))
        hold = in_loop(loop, held or _ignore)

        def on_record(resource: sync_resource.Resource) -> None:
            beginning.hold(resource)
            hold(Resource(resource))

        return Resource(
            await beginning.done(lambda: self._owner.start(spec, on_progress=beginning.say, held=on_record))
        )

    async def start_all(
        self,
        specs: Iterable[Spec],
        *,
        on_progress: Callable[[str], object] | None = None,
        held: Callable[[Resource], object] | None = None,
    ) -> list[Resource]:
        """Start many resources side by side, and return them, in the same order, when all are ready.

        One that needs others of them (``needs=``) is started when those are ready, in whatever order they are given. If it is
        cancelled, all that it began is ended before that is raised.

        Args:
            specs: what to start.
            on_progress: called in the loop with a line of text whenever there is something new to say.
            held: called in the loop with each as soon as it is on record.

        Raises:
            SpecError: two have one name, or they need each other in a circle; nothing was started.
            StartError: one did not come up, as from `start`; what had been started with it was stopped again.
        """
        loop = loops.current()
        on_record, progress = in_loop(loop, held or _ignore), in_loop(loop, on_progress or _ignore)

        def say(text: str) -> None:
            progress(text)

        start = partial(self._owner.start, on_progress=say)
        many = self._owner._in_step  # noqa: SLF001 - it is for who starts many
        starts = Starts(start, list(specs), lambda resource: on_record(Resource(resource)), many)
        return [Resource(resource) for resource in await together(starts)]

    async def adopt(self, name: str) -> Resource:
        """Take over a resource that an earlier owner of this name left on purpose (``on_death="keep"``).

        If it ended while nobody owned it, it is handed over all the same, with its exit code; once. One that is cancelled may have
        been adopted, and is among the `resources` then.

        Raises:
            NotFound: there is none.
            Busy: another owner adopted it just now, or its owner lives.

        Crash:
            It stays kept, for the next owner of this name.
        """
        return Resource(await ask(self._owner.adopt, name))

    @property
    def resources(self) -> list[Resource]:
        """What was started and has not ended, in the order of the start."""
        return [Resource(resource) for resource in self._owner.resources]

    def resource(self, name: str) -> Resource:
        """Return the live resource of this name. Raises NotFound."""
        return Resource(self._owner.resource(name))

    # -- plugins -------------------------------------------------------------------------------------------------------

    @property
    def plugins(self) -> dict[str, Any]:
        """The registered plugins by name."""
        return self._owner.plugins

    async def register(
        self,
        plugin: Any = None,
        *,
        name: str | None = None,
        pids: Callable[[], Iterable[int]] | Iterable[int] | None = None,
        cleanup: Callable[[], object] | None = None,
    ) -> Any:
        """Answer for a plugin: any object with the four methods, plain ones, which are called in threads.

        At `shutdown` its `force_cleanup` is called with a time limit, and what it leaves alive is ended and reported.

        Args:
            plugin: the plugin; None for what has no such object, a job manager for instance, of which the next two tell.
            name: what to call it; by default the name of its class.
            pids: its pids, or a function that returns those of now.
            cleanup: ends them; by default they are ended by SIGTERM, and by force a moment later.

        Returns:
            The plugin, for `unregister`.

        Raises:
            PluginError: it is not lifecycle-aware, or a method raised or returned nonsense; nothing was registered.
            SpecError: the name is in use, or there is both a plugin and what stands for one.
        """
        return await ask(self._owner.register, plugin, name=name, pids=pids, cleanup=cleanup)

    async def unregister(self, plugin: Any) -> None:
        """Answer for a plugin no longer; it is not cleaned up. Raises NotFound."""
        await ask(self._owner.unregister, plugin)

    # -- what happens --------------------------------------------------------------------------------------------------

    def on_change(self, listener: Callable[[Notice], object]) -> Callable[[], None]:
        """Have ``listener`` called with each event from now on, in this loop; the function that is returned ends that.

        One that raises is logged, and keeps nobody from anything.
        """
        told = in_loop(loops.current(), listener)

        def tell(notice: Notice) -> None:
            if not told(notice):
                # The loop is over, and nobody hears it any more.
                leave()

        leave = self._owner.telemetry.subscribe(tell)
        return leave

    @overload
    def watch(self, process: None = None) -> Watch: ...

    @overload
    def watch(self, process: Any, *, name: str | None = None, grace: float = 5.0) -> Awaitable[Watched]: ...

    def watch(self, process: Any = None, *, name: str | None = None, grace: float = 5.0) -> Watch | Awaitable[Watched]:
        """Watch events (``async for notice in owner.watch()``), or a process that exists (``await owner.watch(process)``).

        Without arguments: an asynchronous iterator of the events from now on, that ends when the owner was shut down.

        Args:
            process: a `subprocess.Popen`, an `asyncio.subprocess.Process`, anything with a ``pid``, or a pid, of a process below
                this one: it is answered for from now on, as what a plugin starts.
            name: what to call it; by default the program's name.
            grace: seconds from SIGTERM to the end by force, at `shutdown`.

        Raises:
            PluginError: it does not run, or is no process of this app's; nothing was registered.
        """
        if process is None:
            return self._owner.telemetry.join(Watch(self._owner.telemetry.forget))
        return ask(self._owner.watch, process, name=name, grace=grace)

    async def pids(self) -> list[int]:
        """Return every live pid that this owner answers for, each once: those of resources, then those of plugins.

        Raises:
            PluginError: a plugin's method raised.
        """
        return await ask(self._owner.pids)

    async def status(self) -> dict[str, Any]:
        """Return one snapshot of all that this owner has, ready for JSON and without secrets.

        A plugin that raises is reported in its place under ``error``. Services elsewhere are looked at once, side by side, for at
        most two seconds; of what is not known by then it is said under ``unknown``, with its age.
        """
        return await ask(self._owner.status)

    async def events(self, *, last: int | None = None) -> list[EventRow]:
        """Return what happened to this owner and its resources, the oldest first; at most the last so many."""
        return await ask(self._owner.events, last=last)

    # -- the end -------------------------------------------------------------------------------------------------------

    async def shutdown(self, grace: float | None = None) -> None:
        """End every plugin and resource, and return when they have ended. A second call meanwhile waits for the same.

        Plugins first, the last registered first. Then resources: what others need waits until those have ended; apart from
        that in reverse order of the start, in parallel where it may. What is to be kept (``on_death="keep"``) is left
        to the next owner. It waits for no other call of yours; if it is cancelled, it goes on.

        Args:
            grace: for each resource, instead of its spec's.

        Raises:
            ExceptionGroup: of everything that could not be ended (after all was tried); that stays on record, and the
                shims go on with it.
        """
        await outcome(self._end(grace))

    def _end(self, grace: float | None) -> Future[None]:
        if self._shutdown is None or self._shutdown.done():
            self._shutdown = begin_end(self._owner.shutdown, grace)
        return self._shutdown
