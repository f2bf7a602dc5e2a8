"""What a provider is, and how one is found: by the entry point group ``tether.providers``, so that yours is a file.

A provider says what it sees and does what it is told; whose a machine is, when one is gone, and whether a creation may be tried
again is decided above it, once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from tether.drivers.cloud.spec import Machine, MachineRef
from tether.errors import DriverUnavailable
from tether.protocol import CloudProviderType

__all__ = [
    "CanLease",
    "CanRenew",
    "Choice",
    "HasConsole",
    "HasParts",
    "Lists",
    "Order",
    "Part",
    "Phase",
    "Provider",
    "Refused",
    "Seen",
    "Tested",
    "Unclear",
    "provider_class",
    "providers",
    "register",
]

GROUP = "tether.providers"

Phase = Literal["pending", "running", "stopping", "stopped", "ending", "gone"]
"""Where a machine is: "stopping" and "stopped" may be started again and are billed; "ending" and "gone" may not."""

Tested = Literal[
    "run against the provider",
    "run against a stand-in with real machines",
    "run against a stand-in with real processes",
    "contract-tested against its published description",
]


class Refused(DriverUnavailable):
    """The provider said no, or was not asked: nothing was created."""


class Unclear(DriverUnavailable):
    """Something was asked for, and there was no clear answer: it may have been done."""


@dataclass(frozen=True)
class Seen:
    """One machine as the provider shows it.

    Attributes:
        id: the provider's.
        phase: where it is; ``word`` is the provider's own for it, ``reason`` what it says of why.
        tag: the mark that it carries.
        proof: what only its maker gave it, at its creation: the idempotency token, or its name.
        made: when it was created, in seconds since the epoch; None if the provider does not say.
        address: where it is reached.
        type, gpu_count, gpu: what it is.
        cost_per_hour: US dollars, where the provider says.
        ssh_port: where it is logged in to.
        ports: by which port of the address each of its own is reached, where that is another one.
        url: where it answers, if its provider gives it an address of its own on the web.
        exit_code: of what ran in it, once that has ended; None where the provider does not say.
        ends: when the provider ends it for good by itself, in seconds since the epoch, as it says; None if it does not say so.
    """

    id: str
    phase: Phase
    word: str = ""
    reason: str = ""
    tag: str | None = None
    proof: str | None = None
    made: float | None = None
    address: str | None = None
    type: str | None = None
    gpu_count: int = 0
    gpu: str | None = None
    cost_per_hour: float | None = None
    ssh_port: int = 22
    ports: Mapping[int, int] = field(default_factory=dict)
    url: str | None = None
    exit_code: int | None = None
    ends: float | None = None


@dataclass(frozen=True)
class Part:
    """One thing that is made for a machine and goes with it: its kind, and its name, which is on record before it is made."""

    what: str
    name: str


@dataclass(frozen=True)
class Choice:
    """What was chosen for a machine before it is created; ``data`` is the provider's own, ``ssh_user`` who logs in to its image."""

    type: str | None
    cost_per_hour: float | None = None
    gpu_count: int = 0
    gpu: str | None = None
    ssh_user: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """One machine to be created.

    Attributes:
        spec: what was asked for.
        tag, owner: the marks that go on everything.
        proof: the idempotency token where the provider has one, and the name; new for each attempt.
        user_data: what it runs at boot, the lease's part included.
        public_key: of the key pair that is made for it.
    """

    spec: Machine
    tag: str
    owner: str
    proof: str
    user_data: bytes = field(default=b"", repr=False)
    public_key: str | None = None


class Lists(Protocol):
    """Who can say what there is with a mark, and end it: what is needed to find something again and to see it gone.

    Attributes:
        idempotent: as for `Provider`.
    """

    idempotent: ClassVar[bool]

    def listed(self, tag: str) -> list[Seen]:
        """See `Provider`."""
        ...

    def look(self, ids: Sequence[str]) -> dict[str, Seen]:
        """See `Provider`."""
        ...

    def terminate(self, machine: str) -> None:
        """See `Provider`."""
        ...


class Provider(Protocol):
    """Creates, lists and terminates machines of one provider.

    Every method but ``where`` talks to it, and raises DriverUnavailable if it does not answer.

    Attributes:
        type: for consumers of the cloud-aware protocol.
        idempotent: whether a creation may be sent again with the same proof, and is then the same one.
        lag_s: seconds after which its lists are trusted to show what was created.
        tested: how this was tested.
        boots: whether a machine runs user data as root at its first boot, be it a script or what cloud-init takes.
    """

    type: ClassVar[CloudProviderType]
    idempotent: ClassVar[bool]
    lag_s: ClassVar[float]
    tested: ClassVar[Tested]
    boots: ClassVar[bool]

    def __init__(self, where: Mapping[str, Any]) -> None:
        """Make no connection yet."""
        ...

    @classmethod
    def where(cls, spec: Machine | MachineRef) -> dict[str, Any]:
        """Return how it is reached, for the record: region, profile, endpoint; no secrets. Talks to nobody."""
        ...

    def choose(self, spec: Machine) -> Choice:
        """Choose size, image and the like; creates nothing. Raises Refused for what it has not."""
        ...

    def create(self, order: Order, choice: Choice) -> Seen:
        """Create a machine that carries tag and proof from its first moment.

        Raises:
            Refused: nothing was created.
            Unclear: it may have been.
        """
        ...

    def listed(self, tag: str) -> list[Seen]:
        """Return the machines that carry a tag, whoever made them; ended ones as far as it still shows them."""
        ...

    def look(self, ids: Sequence[str]) -> dict[str, Seen]:
        """Return machines by id; what it does not show is left out."""
        ...

    def terminate(self, machine: str) -> None:
        """Have a machine ended for good. What is gone already is success."""
        ...


@runtime_checkable
class HasParts(Protocol):
    """A provider where more than the machine is made."""

    def planned(self, spec: Machine, tag: str) -> list[Part]:
        """Return what will be made beside the machine. Talks to nobody."""
        ...

    def make(self, part: Part, order: Order) -> None:
        """Make a part, with the tag. What is there already under its name and tag is success."""
        ...

    def parts(self, tag: str, planned: Sequence[Part], began: float) -> list[Part]:
        """Return what is there: those of the plan that carry the tag, and what came into being with the machine."""
        ...

    def remove(self, part: Part) -> None:
        """Remove a part. What is gone already is success."""
        ...


@runtime_checkable
class HasConsole(Protocol):
    """A provider that shows what a machine wrote on its console."""

    def console(self, machine: str) -> bytes:
        """Return it, as far as it is shown."""
        ...


@runtime_checkable
class CanRenew(Protocol):
    """A provider that can tell a machine that its owner lives, in a way that the machine reads without a key."""

    def watch_script(self) -> str:
        """Return a line of shell that prints the last word, and fails if it can't be read."""
        ...

    def renew(self, machine: str, word: str) -> None:
        """Give the machine a new word."""
        ...


@runtime_checkable
class CanLease(Protocol):
    """A provider that ends a machine by itself at a time that can be put off."""

    def lease(self, name: str, machine: str, until: float) -> bool:
        """Have it ended at a time (seconds since the epoch); whether reading that back showed it."""
        ...


@cache
def _entry_points() -> dict[str, Any]:
    from importlib import metadata

    return {entry.name: entry for entry in metadata.entry_points(group=GROUP)}


_registered: dict[str, Any] = {}


def register(name: str, provider: Any) -> None:
    """Make a provider known in this process only, for instance in a test; installed ones have an entry point."""
    _registered[name] = provider


def providers() -> list[str]:
    """Return the names of the providers that are installed."""
    return sorted({*_entry_points(), *_registered})


def provider_class(name: str) -> Any:
    """Return the class of a provider; its module is imported now.

    Raises:
        DriverUnavailable: there is no such provider here.
    """
    if name in _registered:
        return _registered[name]
    entry = _entry_points().get(name)
    if entry is None:
        known = ", ".join(providers()) or "none"
        raise DriverUnavailable(
            f"there is no cloud provider {name!r} here (there are: {known}); install the package that brings it"
        )
    return entry.load()
