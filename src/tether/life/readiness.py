"""Waits until a resource is ready, by its probe; it decides nothing about what follows."""

from __future__ import annotations

from collections.abc import Callable

from tether.life import probes
from tether.life.clock import Clock
from tether.life.machine import Event, NotReady, Probed
from tether.life.managed import Managed
from tether.model import Progress, State

__all__ = ["await_ready"]

_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.25
_NOT_UP = (State.STARTING, State.LOST)


def await_ready(managed: Managed, clock: Clock, progress: Progress, advance: Callable[[State, Event], None]) -> None:
    """Probe until the resource is ready, has ended or its time is over.

    Args:
        managed: the resource, with a probe.
        clock: the clock.
        progress: told what is missing, whenever that changes.
        advance: applies an event, unless the resource has left that state meanwhile.
    """
    target = managed.target()
    deadline = clock.monotonic() + managed.spec.ready.timeout
    pause = _FIRST_PAUSE_S
    said = ""
    while managed.state in _NOT_UP:
        missing = probes.passes(managed.spec.ready, target)
        if missing != said:
            progress(missing or "ready")
            said = missing
        if probes.FOREIGN in missing:
            _give_up(missing, advance)
        elif missing and clock.monotonic() >= deadline:
            _give_up(f"not ready within {managed.spec.ready.timeout:g} s: {missing}", advance)
        elif not missing and managed.state is State.STARTING:
            advance(State.STARTING, Probed())
        else:
            with managed.condition:
                if managed.state in _NOT_UP:
                    clock.wait(managed.condition, pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE_S)


def _give_up(reason: str, advance: Callable[[State, Event], None]) -> None:
    for state in _NOT_UP:
        advance(state, NotReady(reason))
