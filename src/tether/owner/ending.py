"""Ends the resources of an owner: all side by side, but for what waits for others."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from tether.life.managed import Managed
from tether.life.supervisor import Supervisor
from tether.owner import shutdown, within

__all__ = ["stop_all"]

_ORDER_PATIENCE_S = 0.5


def stop_all(supervisor: Supervisor, resources: Sequence[Managed], grace: float | None) -> list[Exception]:
    """End resources, and return when they have ended, with what went wrong.

    Where no more threads can be made, those that have none are ended by the caller's own, one after the other.

    Args:
        supervisor: ends them.
        resources: in the order of their start.
        grace: for each, instead of its spec's.
    """
    waits = shutdown.order(
        {managed.name: managed.spec.needs for managed in resources},
        {managed.name: within.name_of(managed.spec) for managed in resources},
    )
    ended = {managed.name: threading.Event() for managed in resources}
    errors: list[Exception] = []

    def stop(managed: Managed) -> None:
        patience = time.monotonic() + _ORDER_PATIENCE_S
        for name in waits[managed.name].must:
            ended[name].wait()
        for name in waits[managed.name].may:
            ended[name].wait(max(0.0, patience - time.monotonic()))
        try:
            supervisor.stop(managed, "its owner shuts down", grace=grace)
        except Exception as error:
            errors.append(error)
        finally:
            ended[managed.name].set()

    threads, without = [], []
    for managed in reversed(resources):
        thread = threading.Thread(target=stop, args=(managed,), name=f"tether-stop-{managed.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            without.append(managed)
        else:
            threads.append(thread)
    while without:
        names = {managed.name for managed in without}
        # Somebody is first: there are no circles.
        first = next(managed for managed in without if not waits[managed.name].must & names)
        without.remove(first)
        stop(first)
    for thread in threads:
        thread.join()
    return errors
