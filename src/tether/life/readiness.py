"""Waits until a resource is ready, by its probe; it decides nothing about what follows."""

from __future__ import annotations

from collections.abc import Callable

from tether.life import looks
from tether.life.clock import Clock
from tether.life.machine import Event, NotReady, Probed
from tether.life.managed import Managed
from tether.model import Progress, State

__all__ = ["await_ready"]

_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.25
_LEAST_LOOK_S = 1.0
"""What the last look gets, however little time is left: cut off, it would say less than the one before."""

_NOT_UP = (State.STARTING, State.LOST)


def await_ready(managed: Managed, clock: Clock, progress: Progress, advance: Callable[[State, Event], None]) -> None:
    """Probe until the resource is ready, has ended or its time is over.

    Args:
        managed: the resource, with a probe.
        clock: the clock.
        progress: told what is missing, whenever that changes.
        advance: applies an event, unless the resource has left that state meanwhile.
    """
    timeout_s = managed.spec.ready.timeout
    look = looks.begin(managed.spec.ready, managed.target())
    deadline = clock.monotonic() + timeout_s
    looked_s = 0.0
    pause = _FIRST_PAUSE_S
    said = ""
    while managed.state in _NOT_UP:
        began = clock.monotonic()
        seen = look(max(_LEAST_LOOK_S, deadline - began))
        took_s = clock.monotonic() - began
        looked_s += took_s
        if seen.missing != said:
            progress(seen.missing or "ready")
            said = seen.missing
        if seen.hopeless:
            _give_up(seen.missing, advance)
        elif seen.missing and clock.monotonic() >= deadline:
            _give_up(f"not ready within {timeout_s:g} s: {seen.missing}{_if_slow(looked_s, timeout_s)}", advance)
        elif not seen.missing and managed.state is State.STARTING:
            managed.answers_at = seen.url
            advance(State.STARTING, Probed())
        else:
            with managed.lock:
                if managed.state in _NOT_UP:
                    clock.wait(managed.condition, pause)
            # One that is slow by itself is not asked all the time.
            pause = max(min(pause * 1.5, _LONGEST_PAUSE_S), min(took_s, 1.0))


def _if_slow(looked_s: float, timeout_s: float) -> str:
    """Say so where the time went into the probe: it may be that which is slow, and not the resource."""
    return f"; its probe took {looked_s:.1f} s of that" if looked_s > timeout_s / 2 else ""


def _give_up(reason: str, advance: Callable[[State, Event], None]) -> None:
    for state in _NOT_UP:
        advance(state, NotReady(reason))
