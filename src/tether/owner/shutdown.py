"""In which order resources end. Pure: it decides who waits for whom, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tether.errors import SpecError

__all__ = ["Wait", "order"]


@dataclass(frozen=True)
class Wait:
    """For whom one resource waits before it ends.

    Attributes:
        must: names of those that said that they need it; it waits until they have ended.
        may: names of those that were started after it and did not say what they need; it waits for them a moment, so that one
            that hangs does not hold up the others.
    """

    must: frozenset[str]
    may: frozenset[str]


def order(needs: Mapping[str, Sequence[str] | None], inside: Mapping[str, str | None] | None = None) -> dict[str, Wait]:
    """Return for whom each resource waits.

    Args:
        needs: the names in the order of their start, each with the names that it needs; None if it did not say.
        inside: for those that run in another (an environment, a machine), the name of that, which they need as well.

    Raises:
        SpecError: they need each other in a circle.
    """
    names = list(needs)
    within = inside or {}
    waits = {}
    for index, name in enumerate(names):
        later = names[index + 1 :]
        waits[name] = Wait(
            must=frozenset(other for other in names if name in (needs[other] or ()) or within.get(other) == name),
            may=frozenset(other for other in later if needs[other] is None),
        )
    _refuse_circles(waits)
    return waits


def _refuse_circles(waits: Mapping[str, Wait]) -> None:
    left = dict(waits)
    while left:
        free = [name for name, wait in left.items() if not wait.must & left.keys()]
        if not free:
            raise SpecError(f"these need each other in a circle: {', '.join(sorted(left))}; mend needs= of one of them")
        for name in free:
            del left[name]
