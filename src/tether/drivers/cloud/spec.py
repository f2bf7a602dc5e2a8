"""The specs of machines: what may be said of one, and what is refused before anything is created."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tether.errors import SpecError
from tether.model import OnDeath, Ready
from tether.protocol import CloudProviderType, PluginExecutionMode
from tether.spec import SpecBase

__all__ = ["Machine", "MachineRef", "check_labels", "check_price", "size_in_bytes"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DAY_S = 24 * 3600.0
_BOOT_S = 600.0
_TAG_KEY = re.compile(r"[\w.:/=+@-][\w .:/=+@-]{0,127}")


def _provider(value: Any) -> str:
    name = value.value if isinstance(value, CloudProviderType) else value
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise SpecError(f"provider={value!r} is no name of a provider; for instance 'aws'")
    return name


def check_price(value: float | None) -> None:
    """Refuse what can't be the price of an hour."""
    if value is not None and not (isinstance(value, int | float) and value >= 0):
        raise SpecError(f"cost_per_hour={value!r} must be US dollars, 0 or more")


@dataclass(frozen=True, repr=False)
class Machine(SpecBase):
    """A machine to rent, with the key pair, disk and firewall rule that are made for it. All of it goes with its owner.

    Args:
        provider: its name ("aws", ...), or a `CloudProviderType`.
        region: the provider's; by default what its own configuration says.
        type: the provider's name of a size; by default the smallest one that has what the next four ask for.
        gpu: the model of GPU, as the provider calls it, for instance "T4".
        gpu_count: how many of them.
        cpus: how many virtual processors, at least.
        memory: at least so much, in bytes or like "16g".
        image: the provider's name of an image; by default a plain Linux of the provider's.
        disk: gigabytes of its first disk; by default the image's.
        key: True for a key pair that is made for it and goes with it, False for none, or the name of one of yours.
        user_data: what the machine runs at its first boot: a script, or what cloud-init takes. It never reaches the ledger, but
            the provider shows it to whoever may look at the machine.
        spot: rent it cheaper, and have it taken away when the provider wants it back.
        network: the provider's name of a network (AWS: a subnet); by default the provider's default.
        open_ports: ports that may be reached from ``open_to``; a firewall rule is made for them and goes with the machine.
        open_to: from which addresses.
        labels: tags of yours.
        profile: of the provider's own configuration, for credentials (AWS: ``~/.aws/config``).
        endpoint: the address of the provider's interface, where it is not the usual one.
        options: what only this provider knows, see its page.
        cost_per_hour: US dollars for an hour, where the provider does not say.
        max_lifetime: seconds after which it ends in any case.
        lease: seconds that it lives on without word from its owner, where that can be proved; None for no lease.
        listing_lag: seconds after which the provider's lists are trusted to show what was created; by default the provider's own.
        port: a port on which it will answer, for ``url``.
        name, ready, on_death, keep_for, needs: as for `Process`; by default it is ready when the provider says that it runs.

    Raises:
        SpecError: something of it can't be right; nothing was created.
    """

    provider: str | CloudProviderType = "aws"
    region: str | None = None
    type: str | None = None
    gpu: str | None = None
    gpu_count: int = 0
    cpus: int | None = None
    memory: int | str | None = None
    image: str | None = None
    disk: int | None = None
    key: str | bool = True
    user_data: str | bytes = field(default="", repr=False)
    spot: bool = False
    network: str | None = None
    open_ports: Sequence[int] = ()
    open_to: str = "0.0.0.0/0"
    labels: Mapping[str, str] = field(default_factory=dict, repr=False)
    profile: str | None = None
    endpoint: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    cost_per_hour: float | None = None
    max_lifetime: float = _DAY_S
    lease: float | None = 300.0
    listing_lag: float | None = None
    port: int | None = None
    name: str | None = None
    ready: Ready | None = None
    stop_grace: float = 10.0
    on_death: OnDeath | None = None
    keep_for: float = 3600.0
    needs: Sequence[str] | None = None
    kind: str = field(default="machine", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right, before anything is created."""
        object.__setattr__(self, "provider", _provider(self.provider))
        object.__setattr__(self, "open_ports", tuple(self.open_ports))
        if self.gpu is not None and self.gpu_count == 0:
            object.__setattr__(self, "gpu_count", 1)
        if self.memory is not None:
            object.__setattr__(self, "memory", size_in_bytes(self.memory))
        if self.ready is None:
            object.__setattr__(self, "ready", Ready("health", None, _BOOT_S))
        self._check_common()
        self._check_numbers()
        check_labels(self.labels)
        if not isinstance(self.user_data, str | bytes):
            raise SpecError(f"user_data must be text, not {type(self.user_data).__name__}")
        if self.key == "" or not isinstance(self.key, str | bool):
            raise SpecError(f"key={self.key!r} is no name of a key pair; True makes one, False goes without")

    def _check_numbers(self) -> None:
        for each in ("cpus", "disk"):
            value = getattr(self, each)
            if value is not None and not (isinstance(value, int) and value > 0):
                raise SpecError(f"{each}={value!r} must be a whole number above 0")
        if not (isinstance(self.gpu_count, int) and self.gpu_count >= 0):
            raise SpecError(f"gpu_count={self.gpu_count!r} must be 0 or more")
        for port in (*self.open_ports, *(() if self.port is None else (self.port,))):
            if not (isinstance(port, int) and 0 < port < 65536):
                raise SpecError(f"{port!r} is no port")
        if self.lease is not None and not self.lease >= 3:
            raise SpecError(
                f"lease={self.lease!r} must be 3 or more seconds, or None: it is renewed three times in that time"
            )
        if not self.max_lifetime > 0:
            raise SpecError(f"max_lifetime={self.max_lifetime!r} must be more than 0 seconds")
        if self.listing_lag is not None and not self.listing_lag >= 0:
            raise SpecError(f"listing_lag={self.listing_lag!r} must be 0 or more seconds")
        if self.ready is not None and (probe := self.ready.first_of("http", "tcp")) and self.port is None:
            raise SpecError(f"ready={probe}() needs a port to probe: give port=")
        check_price(self.cost_per_hour)

    @property
    def default_name(self) -> str:
        """Its size, or its provider."""
        return (self.type or self.gpu or str(self.provider)).replace(":", "-")

    @property
    def stays_up(self) -> bool:
        """That it ends by itself is never expected."""
        return True

    @property
    def rented(self) -> bool:
        """Whether its owner pays for it by the hour."""
        return True

    @property
    def mode(self) -> PluginExecutionMode:
        """Which of the cloud's modes this is, as far as the spec says."""
        if self.gpu_count:
            return PluginExecutionMode.CLOUD_GPU
        return PluginExecutionMode.CLOUD_CPU if self.cpus is not None else PluginExecutionMode.CLOUD_VM

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger: no user data, and of options only the names."""
        return {
            "provider": self.provider,
            "region": self.region,
            "type": self.type,
            "gpu": self.gpu,
            "gpu_count": self.gpu_count,
            "image": self.image,
            "disk": self.disk,
            "spot": self.spot,
            "user_data": bool(self.user_data),
            "options": sorted(self.options),
            "cost_per_hour": self.cost_per_hour,
            "max_lifetime": self.max_lifetime,
            "lease": self.lease,
            "stop_grace": self.stop_grace,
            "stays_up": self.stays_up,
        }


def check_labels(labels: Mapping[str, str]) -> None:
    """Refuse tags that can't be the user's own."""
    for key in labels:
        if not isinstance(key, str) or not _TAG_KEY.fullmatch(key) or key.lower().startswith(("tether", "aws:")):
            raise SpecError(f"{key!r} can't be a label: those that begin with 'tether' or 'aws:' are not yours")


def size_in_bytes(value: int | str) -> int:
    """Return a size of memory, which may be written like "16g", in bytes. Raises SpecError."""
    if isinstance(value, str):
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            raise SpecError(f"memory={value!r} is no size; write bytes, or a number with k, m, g or t")
        value = int(float(found[1]) * _UNITS[found[2].lower()])
    if not value > 0:
        raise SpecError(f"memory={value!r} must be more than 0")
    return value


@dataclass(frozen=True, repr=False)
class MachineRef(SpecBase):
    """A machine that is there already: watched, and never ended.

    Args:
        machine: the provider's id of it.
        provider, region, profile, endpoint, cost_per_hour, port, ready, needs: as for `Machine`.
        name: what it is called here; by default its id.
    """

    machine: str
    provider: str | CloudProviderType = "aws"
    region: str | None = None
    profile: str | None = None
    endpoint: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    cost_per_hour: float | None = None
    port: int | None = None
    name: str | None = None
    ready: Ready | None = None
    needs: Sequence[str] | None = None
    on_death: OnDeath | None = field(default=None, init=False)
    keep_for: float = field(default=1.0, init=False)
    stop_grace: float = field(default=0.0, init=False)
    kind: str = field(default="machine", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right."""
        object.__setattr__(self, "provider", _provider(self.provider))
        if not isinstance(self.machine, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.machine):
            raise SpecError(f"{self.machine!r} is no id of a machine")
        if self.name is None:
            object.__setattr__(self, "name", self.machine[:64])
        self._check_common()
        if self.ready is not None and (probe := self.ready.first_of("http", "tcp")) and self.port is None:
            raise SpecError(f"ready={probe}() needs port=, a port of the machine")
        check_price(self.cost_per_hour)

    @property
    def stays_up(self) -> bool:
        """It is somebody else's: that it stays up is expected."""
        return True

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger."""
        return {
            "machine": self.machine,
            "provider": self.provider,
            "region": self.region,
            "cost_per_hour": self.cost_per_hour,
            "stays_up": True,
        }
