"""What a service of a cloud is that runs something without a machine of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from tether.drivers.cloud.provider import Lists, Part, Seen, Tested

__all__ = ["Service", "Wanted"]


@dataclass(frozen=True)
class Wanted:
    """One thing to be created.

    Attributes:
        spec: what was asked for.
        tag, owner: the marks that go on everything.
        proof: what only its maker gives it; new for each attempt.
    """

    spec: Any
    tag: str
    owner: str
    proof: str


class Service(Lists, Protocol):
    """Creates, lists and ends one kind of thing. Every method but ``where`` and ``planned`` talks to it.

    Attributes:
        lag_s: seconds after which its lists are trusted to show what was created.
        tested: how this was tested.
    """

    lag_s: ClassVar[float]
    tested: ClassVar[Tested]

    def __init__(self, where: Mapping[str, Any]) -> None:
        """Make no connection yet."""
        ...

    @classmethod
    def where(cls, spec: Any) -> dict[str, Any]:
        """Return how it is reached, for the record: region, profile, endpoint; no secrets. Talks to nobody."""
        ...

    def planned(self, spec: Any, tag: str) -> list[Part]:
        """Return what will be made beside it, in that order. Talks to nobody."""
        ...

    def choose(self, spec: Any) -> dict[str, Any]:
        """Look up what is needed to create it; creates nothing. Raises Refused for what is not there."""
        ...

    def make(self, part: Part, wanted: Wanted) -> None:
        """Make a part, with the tag. What is there already under its name and tag is success."""
        ...

    def create(self, wanted: Wanted, chosen: Mapping[str, Any]) -> Seen:
        """Create it, with tag and proof from its first moment. The same proof again is the same thing.

        Raises:
            Refused: nothing was created.
            Unclear: it may have been; to be asked again.
        """
        ...

    def parts(self, tag: str, planned: Sequence[Part]) -> list[Part]:
        """Return what is there of the plan and carries the tag; what is removed first stands first."""
        ...

    def remove(self, part: Part) -> None:
        """Remove a part. What is gone already is success."""
        ...

    def output(self, tag: str) -> bytes:
        """Return what it wrote, as far as it is kept; empty if nothing is."""
        ...

    def details(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return what only this kind tells of a thing, from its handle's data."""
        ...
