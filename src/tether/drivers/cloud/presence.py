"""Whose a machine is, and when it is gone.

A mark alone is a hint: marks are copied ("launch more like this" copies them all). A machine is ended only if it carries the tag,
and if either its id is on record or it has the proof that only its maker gave it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from tether.drivers.cloud.provider import Lists, Seen
from tether.errors import DriverUnavailable
from tether.model import Handle

__all__ = ["Found", "end_all", "find", "is_marked"]

_log = logging.getLogger("tether")

_END_S = 180.0
_AGAIN_S = 10.0
_TWICE_S = 0.5
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True)
class Found:
    """What a provider shows of one resource.

    Attributes:
        ours: the machines that are its own and are not gone.
        gone: whether the provider says itself that the machine is gone.
        stripped: the machine on record if it does not carry the tag any more.
        foreign: ids of machines that carry the tag and were not made by tether.
    """

    ours: tuple[Seen, ...] = ()
    gone: bool = False
    stripped: Seen | None = None
    foreign: tuple[str, ...] = ()


def is_marked(seen: Seen, tag: str, proof: str) -> bool:
    """Whether a machine has both the tag and the proof of its making."""
    return seen.tag == tag and seen.proof == proof


def _is_ours(provider: Lists, handle: Handle, seen: Seen) -> bool:
    data = handle.data
    if seen.tag != handle.tag:
        return False
    if seen.id == data.get("id"):
        return True
    if seen.proof != data["proof"]:
        return False
    # A name can be copied like a tag, a token can't. Once the id is on record, what bears the name beside it is ours only if it
    # came into being with it: a duplicate of an unclear answer.
    if provider.idempotent or data.get("id") is None:
        return True
    return seen.made is not None and data["began"] - data["lag"] <= seen.made <= data["made"] + data["lag"]


def find(provider: Lists, handle: Handle) -> Found:
    """Look for all machines of a resource. Raises DriverUnavailable."""
    recorded = handle.data.get("id")
    seen = {each.id: each for each in provider.listed(handle.tag)}
    if recorded is not None and recorded not in seen:
        seen.update(provider.look([recorded]))
    known = seen.get(recorded) if recorded is not None else None
    live = [each for each in seen.values() if each.phase != "gone"]
    ours = tuple(each for each in live if _is_ours(provider, handle, each))
    return Found(
        ours,
        gone=_is_gone(provider, handle, known, list(seen.values())),
        stripped=known if known is not None and known in live and known not in ours else None,
        foreign=tuple(each.id for each in live if each not in ours and each is not known),
    )


def _is_gone(provider: Lists, handle: Handle, known: Seen | None, seen: list[Seen]) -> bool:
    if handle.data.get("id") is not None or not provider.idempotent:
        return known is not None and known.phase == "gone"
    # One token is one machine: if that is seen to have ended, there is no other to wait for.
    return any(each.phase == "gone" and is_marked(each, handle.tag, handle.data["proof"]) for each in seen)


def end_all(provider: Lists, handle: Handle, *, is_certain: bool, before: Callable[[str], None]) -> None:
    """Terminate the machines of a resource, and return when they are gone.

    Gone is what the provider says is terminated. What it does not show at all is believed to be gone after two looks: with the
    lag of its lists between them, where it may just not be shown yet.

    Args:
        provider: who has them.
        handle: the resource.
        is_certain: whether it is known that nothing was ever asked for.
        before: called with the id of each machine just before it is terminated.

    Raises:
        DriverUnavailable: the provider does not answer, or it takes too long; to be tried again.
    """
    lag_s = 0.0 if is_certain else _TWICE_S if _is_old(handle) else float(handle.data["lag"])
    ending = _Ending(provider, handle, lag_s, before)
    deadline = time.monotonic() + _END_S + lag_s
    pause = _FIRST_PAUSE_S
    while not ending.look():
        if time.monotonic() > deadline:
            raise DriverUnavailable(
                f"what there is of resource {handle.tag} was told to end and is still there: {ending.left}"
            )
        time.sleep(pause)
        pause = min(1.5 * pause, _LONGEST_PAUSE_S)


class _Ending:
    """One end of the machines of a resource.

    Attributes:
        left: what was there at the last look, in words.
    """

    def __init__(self, provider: Lists, handle: Handle, lag_s: float, before: Callable[[str], None]) -> None:
        self.left = ""
        self._provider = provider
        self._handle = handle
        self._lag_s = lag_s
        self._before = before
        self._asked: dict[str, float] = {}
        self._absent_since: float | None = None

    def look(self) -> bool:
        """Look once, and have terminated what is there; whether all is known to be gone."""
        found = find(self._provider, self._handle)
        self._refuse_what_is_not_ours(found)
        for each in found.ours:
            self._terminate(each)
        self.left = ", ".join(f"{each.id} ({each.word})" for each in found.ours) or "not shown"
        if found.ours:
            self._absent_since = None
            return False
        return found.gone or self._is_absence_believed()

    def _refuse_what_is_not_ours(self, found: Found) -> None:
        tag, stripped = self._handle.tag, found.stripped
        if found.foreign:
            _log.warning(
                "resource %s: %s has its tag and was not made by tether; left alone", tag, ", ".join(found.foreign)
            )
        if stripped is not None:
            raise DriverUnavailable(
                f"{stripped.id} does not carry the tag {tag} any more, so it may be somebody's by now and is left alone; "
                f"give it that tag again to have it ended, or run 'tether forget {tag}'"
            )

    def _terminate(self, machine: Seen) -> None:
        now = time.monotonic()
        if machine.phase == "ending" or now - self._asked.get(machine.id, -_AGAIN_S) < _AGAIN_S:
            return
        if machine.id not in self._asked:
            self._before(machine.id)
        self._provider.terminate(machine.id)
        self._asked[machine.id] = now

    def _is_absence_believed(self) -> bool:
        """What was seen to be there and told to end needs a second look, what never was seen the lag as well."""
        if self._lag_s == 0 and not self._asked:
            return True
        now = time.monotonic()
        if self._absent_since is None:
            self._absent_since = now
            return False
        return bool(self._asked) or now - self._absent_since >= self._lag_s


def _is_old(handle: Handle) -> bool:
    """Whether a machine whose id is on record would be shown by now if it were there."""
    made = handle.data.get("made")
    return made is not None and time.time() - made > handle.data["lag"]
