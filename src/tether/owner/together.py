"""Starts many resources side by side, each as soon as what it needs is ready."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from graphlib import CycleError, TopologicalSorter
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from tether.errors import SpecError
from tether.fitting import checked_spec
from tether.life import registry
from tether.model import Spec, State
from tether.owner.resource import Resource
from tether.spec import Process

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["Starts"]

_SIDE_BY_SIDE = 8

_IN_STEP = 32
"""So many are started in step: each commit, and each wait for the guard, is for so many."""


class _Start(Protocol):
    def __call__(self, spec: Spec, *, held: Callable[[Resource], object]) -> Resource: ...


class _InStep(Protocol):
    def __call__(self, specs: Sequence[Spec], held: Callable[[Resource], object], /) -> list[Resource]: ...


class _Withdrawn(BaseException):
    """Another one failed. Raised in the thread of a start whose resource is only just on record."""


class Starts:
    """Many starts, of which all succeed or none.

    Args:
        start: starts one, and returns when that is ready; it tells ``held`` what is on record.
        specs: what to start; ``needs`` may name others of these, whatever their order.
        held: told that, too, from several threads.
        in_step: starts some that are ready as soon as they are created, all of them or none, in the thread that calls it.

    Raises:
        SpecError: two have one name, or they need each other in a circle; nothing was started.
    """

    def __init__(
        self,
        start: _Start,
        specs: Sequence[Spec],
        held: Callable[[Resource], object] | None = None,
        in_step: _InStep | None = None,
    ) -> None:
        self._start = start
        self._in_step = in_step
        self._specs = [checked_spec(spec) for spec in specs]
        self._held = held
        self._graph = _graph(self._specs)
        self._begun: list[Resource] = []
        self._ready: dict[int, Resource] = {}
        self._errors: list[BaseException] = []
        self._is_over = False
        self._done = threading.Event()
        self._news: SimpleQueue[tuple[int, Future[Resource]] | None] = SimpleQueue()

    def carry_out(self) -> list[Resource]:
        """Return the resources in the order of their specs when all are ready.

        Raises:
            Exception: what the first that failed raised, with a note for each end that failed. What had been started by then was
                stopped again, and what was still starting killed; so it is when this is interrupted. What was adopted stays.
        """
        try:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(_SIDE_BY_SIDE, "tether-start") as pool:
                try:
                    while self._graph.is_active() and not self._errors:
                        plain: list[int] = []
                        for index in self._graph.get_ready():
                            if self._is_plain(self._specs[index]):
                                plain.append(index)
                            else:
                                self._begin(pool, index)
                        self._start_in_step(plain)
                        if not plain:
                            self._hear()
                except BaseException as error:
                    self._errors.append(error)
                if self._errors:
                    self._give_up(pool)
                    raise self._errors[0]
            return [self._ready[index] for index in range(len(self._specs))]
        finally:
            self._done.set()

    def withdraw(self) -> None:
        """End all that `carry_out` has begun in another thread, and return when it has ended; also if that was through by then."""
        self._news.put(None)
        self._done.wait()
        self._end_begun()

    def _is_plain(self, spec: Spec) -> bool:
        """Whether it is ready as soon as it is created, and nothing has to be started first that it runs in or makes."""
        if self._in_step is None or not isinstance(spec, Process) or spec.terminal == "share":
            return False
        return spec.ready is None and spec.env_in is None and registry.holder_of(str(spec.argv[0])) is None

    def _start_in_step(self, plain: Sequence[int]) -> None:
        for first in range(0, len(plain), _IN_STEP):
            some = plain[first : first + _IN_STEP]
            started = self._in_step([self._specs[index] for index in some], self._hold) if self._in_step else []
            for index, resource in zip(some, started, strict=True):
                self._ready[index] = resource
                self._graph.done(index)
            if not self._news.empty():
                self._hear()
            if self._errors:
                return

    def _begin(self, pool: ThreadPoolExecutor, index: int) -> None:
        future = pool.submit(self._start, self._specs[index], held=self._hold)
        future.add_done_callback(lambda done: self._news.put((index, done)))

    def _hold(self, resource: Resource) -> None:
        # What an earlier owner kept was not begun here, so it is not ended either.
        if resource.state in (State.PENDING, State.STOPPING):
            self._begun.append(resource)
        if self._is_over:
            raise _Withdrawn
        if self._held is not None:
            self._held(resource)

    def _hear(self) -> None:
        """Take in the next that is ready, or failed, or that nobody wants them any more."""
        news = self._news.get()
        if news is None:
            self._errors.append(_Withdrawn())
            return
        index, future = news
        error = future.exception()
        if error is None:
            self._ready[index] = future.result()
            self._graph.done(index)
        else:
            self._errors.append(error)

    def _give_up(self, pool: ThreadPoolExecutor) -> None:
        """End what was begun: first what is still starting, so that nobody waits for it to be ready."""
        self._is_over = True
        ready = {resource.id for resource in self._ready.values()}
        self._end(Resource.kill, [resource for resource in self._begun if resource.id not in ready])
        # Not by counting: an interruption may come at any point.
        pool.shutdown(cancel_futures=True)
        self._end_begun()

    def _end_begun(self) -> None:
        self._end(Resource.stop, self._begun)

    def _end(self, by: Callable[[Resource], None], resources: Sequence[Resource]) -> None:
        for resource in reversed(resources):
            try:
                by(resource)
            except Exception as error:
                # It stays on record, and is tried again.
                for first in self._errors[:1]:
                    first.add_note(f"beside that: {type(error).__name__}: {error}")


def _graph(specs: Sequence[Spec]) -> TopologicalSorter[int]:
    """Who waits for whom, by their places."""
    places: dict[str, int] = {}
    for place, spec in enumerate(specs):
        if spec.name is not None and places.setdefault(spec.name, place) != place:
            raise SpecError(f"two of these are called {spec.name}; nothing was started. Give one another name")
    graph: TopologicalSorter[int] = TopologicalSorter()
    for place, spec in enumerate(specs):
        graph.add(place, *(places[name] for name in spec.needs or () if name in places))
    try:
        graph.prepare()
    except CycleError as error:
        names = ", ".join(sorted({str(specs[place].name) for place in error.args[1]}))
        raise SpecError(
            f"these need each other in a circle: {names}; nothing was started. Mend needs= of one of them"
        ) from None
    return graph
