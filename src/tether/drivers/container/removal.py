"""Removes what was made for a container: all of it, nothing else, and what can't be removed now is said."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from tether.drivers.container import limits, marks
from tether.drivers.container.engine import Absent, Engine, Refused
from tether.errors import DriverUnavailable, NotRemoved
from tether.model import Handle

__all__ = ["remove"]


def remove(engine: Engine, handle: Handle, before: Callable[[str], None]) -> None:
    """Remove by force what is ours under a tag, until the engine shows nothing of it any more.

    Args:
        engine: the engine.
        handle: or a plan.
        before: called with the id of each container just before it is removed.

    Raises:
        DriverUnavailable: the engine does not answer, or can't end the container; to be tried again.
        NotRemoved: nothing of it runs any more, but the engine refused to remove something; to be tried again.
    """
    refused: Refused | None = None
    for round_ in range(limits.REMOVAL_ROUNDS):
        if round_:
            time.sleep(limits.ROUND_PAUSE_S if refused is None else limits.ROUND_PAUSE_S * min(round_, 4))
        try:
            found = marks.find(engine, handle)
        except Refused as error:
            # One refused look in the middle of an end ends nothing else.
            refused = error
            continue
        if not found:
            return
        refused = None
        for container in found.containers:
            before(container)
            # With its anonymous volumes: it passed both proofs.
            refused = _ask(engine, "remove_container", container, v=True, force=True) or refused
        for network in found.networks:
            _disconnect_all(engine, network)
            refused = _ask(engine, "remove_network", network) or refused
        for volume in found.volumes:
            refused = _ask(engine, "remove_volume", volume, force=True) or refused
    _say_what_is_left(engine, handle, refused)


def _say_what_is_left(engine: Engine, handle: Handle, refused: Refused | None) -> None:
    """Raise what fits, unless it has all gone with the last attempt."""
    found = marks.find(engine, handle)
    if not found:
        return
    said = f"{found.in_words()} of resource {handle.tag} can't be removed now, tried again: "
    said += str(refused) if refused is not None else f"still at container engine {engine}, which was told to remove it"
    if any(_runs(engine, container) for container in found.containers):
        raise Refused(said)
    raise NotRemoved(said)


def _runs(engine: Engine, container: str) -> bool:
    """Whether it runs; where that can't be said, it may."""
    try:
        with engine.asked() as client:
            state = client.inspect_container(container)["State"]
    except Absent:
        return False
    except DriverUnavailable:
        return True
    return bool(state["Running"] or state.get("Paused"))


def _ask(engine: Engine, method: str, what: str, **options: bool) -> Refused | None:
    """Ask for one removal; what is gone already is success. Raises DriverUnavailable if the engine does not answer."""
    try:
        with engine.asked(limits.WORK_S) as client:
            getattr(client, method)(what, **options)
    except Absent:
        return None
    except Refused as error:
        return error
    return None


def _disconnect_all(engine: Engine, network: str) -> None:
    """Let go of containers of others that were put into a network that goes."""
    with suppress(Exception), engine.asked() as client:
        for container in client.inspect_network(network).get("Containers") or {}:
            client.disconnect_container_from_network(container, network, force=True)
