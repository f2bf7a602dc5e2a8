"""The two disciplines of creating a machine so that none is lost and none is made twice.

Where a provider knows a request again by its token, an unclear answer is asked for again: it is the same machine. Where it does
not, nothing is ever sent twice: the lists say what came of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tether.drivers.cloud import presence
from tether.drivers.cloud.provider import Choice, Order, Provider, Refused, Seen, Unclear
from tether.errors import DriverUnavailable

__all__ = ["LIMIT_S", "create", "insist"]

LIMIT_S = 120.0
"""No request to create is sent later than this after its plan was put on record."""

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


def create(provider: Provider, order: Order, choice: Choice, began: float, lag_s: float) -> Seen:
    """Create one machine, by the discipline that the provider allows.

    Raises:
        Refused: by the provider's own word there is none.
        DriverUnavailable: there may be one; its caller ends it, by tag and proof.

    Crash:
        Tag and proof are on record before: a sweep finds it by both.
    """
    if provider.idempotent:
        return insist(lambda: provider.create(order, choice), began)
    return _once(provider, order, choice, lag_s)


def insist(create: Callable[[], Seen], began: float) -> Seen:
    """Create something by a request that is known again, and ask again after each unclear answer.

    Args:
        create: sends the request, the same one each time.
        began: when the plan was put on record, in seconds since the epoch.

    Raises:
        Refused: there is none, by the word of who was asked.
        Unclear: there may be one.
    """
    pause = _FIRST_PAUSE_S
    is_unclear = False
    while True:
        try:
            return create()
        except Refused as error:
            if is_unclear:
                # The refusal is of this request; what came of the one before is not known.
                raise Unclear(str(error)) from error
            raise
        except Unclear:
            is_unclear = True
            if time.time() + pause > began + LIMIT_S:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _once(provider: Provider, order: Order, choice: Choice, lag_s: float) -> Seen:
    try:
        there = [seen for seen in provider.listed(order.tag) if seen.phase != "gone"]
    except DriverUnavailable as error:
        raise Refused(f"{error}; nothing was asked for") from error
    if there:
        raise Refused(
            f"there is already {there[0].id} with the tag {order.tag}, which was not made by this; look at it"
        )
    try:
        made = [provider.create(order, choice)]
    except Unclear as error:
        made = _await_listed(provider, order, lag_s)
        if not made:
            raise Unclear(
                f"{error}; its lists showed none {lag_s:g} s later, and it was not asked for again"
            ) from error
    try:
        made += [seen for seen in _ours(provider, order) if seen.id != made[0].id]
    except DriverUnavailable:
        # What was made twice, should it have been, is ended with the resource.
        return made[0]
    first, *rest = sorted(made, key=lambda seen: (seen.made is None, seen.made or 0.0, seen.id))
    for each in rest:
        provider.terminate(each.id)
    return first


def _ours(provider: Provider, order: Order) -> list[Seen]:
    return [
        seen
        for seen in provider.listed(order.tag)
        if seen.phase not in ("ending", "gone") and presence.is_marked(seen, order.tag, order.proof)
    ]


def _await_listed(provider: Provider, order: Order, lag_s: float) -> list[Seen]:
    """List until it is seen, or was absent twice with the lists' lag between."""
    deadline = time.monotonic() + lag_s
    pause = _FIRST_PAUSE_S
    looks = 0
    while True:
        late = time.monotonic() >= deadline
        try:
            found = _ours(provider, order)
            looks += 1
        except DriverUnavailable:
            # Nothing was seen, neither its presence nor its absence.
            if time.monotonic() > deadline + LIMIT_S:
                raise
            found, late = [], False
        if found or (late and looks > 1):
            return found
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
