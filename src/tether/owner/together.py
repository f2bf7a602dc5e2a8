"""Starts many resources side by side, each as soon as what it needs is ready."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from graphlib import CycleError, TopologicalSorter
from queue import SimpleQueue

from tether.errors import SpecError
from tether.model import Spec
from tether.owner.resource import Resource

__all__ = ["start_all"]

_SIDE_BY_SIDE = 8


def start_all(start: Callable[[Spec], Resource], specs: Sequence[Spec]) -> list[Resource]:
    """Start resources, and return them in the order of ``specs`` when all are ready.

    Args:
        start: starts one, and returns when that is ready.
        specs: what to start; ``needs`` may name others of these, whatever their order.

    Raises:
        SpecError: two have one name, or they need each other in a circle; nothing was started.
        Exception: what the first that failed raised, with a note for each other that did. What had been started by then was
            stopped again, and so it is when this is interrupted.
    """
    return _Starts(start, specs).carry_out()


class _Starts:
    def __init__(self, start: Callable[[Spec], Resource], specs: Sequence[Spec]) -> None:
        self._start = start
        self._specs = specs
        self._graph = _graph(specs)
        self._started: dict[int, Resource] = {}
        self._errors: list[BaseException] = []
        self._running = 0
        self._news: SimpleQueue[tuple[int, Future[Resource]]] = SimpleQueue()

    def carry_out(self) -> list[Resource]:
        with ThreadPoolExecutor(_SIDE_BY_SIDE, "tether-start") as pool:
            try:
                while self._graph.is_active() and not self._errors:
                    for index in self._graph.get_ready():
                        self._begin(pool, index)
                    self._hear()
            except BaseException as error:
                self._errors.append(error)
            pool.shutdown(wait=False, cancel_futures=True)
            while self._running:
                self._hear()
        if self._errors:
            self._undo()
        return [self._started[index] for index in range(len(self._specs))]

    def _begin(self, pool: ThreadPoolExecutor, index: int) -> None:
        future = pool.submit(self._start, self._specs[index])
        self._running += 1
        future.add_done_callback(lambda done: self._news.put((index, done)))

    def _hear(self) -> None:
        """Take in the next that is ready, or failed."""
        index, future = self._news.get()
        self._running -= 1
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._started[index] = future.result()
            self._graph.done(index)
        else:
            self._errors.append(error)

    def _undo(self) -> None:
        """Stop what was started, the last first, and raise."""
        first, *others = self._errors
        for resource in reversed(list(self._started.values())):
            try:
                resource.stop()
            except Exception as error:
                others.append(error)
        for other in others:
            first.add_note(f"beside that: {type(other).__name__}: {other}")
        raise first


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
