"""The specs of containers and functions in a cloud: what may be said of them, and what is refused before anything is created."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal

from tether.drivers.cloud.spec import check_labels, check_price, size_in_bytes
from tether.drivers.serverless.sizes import fitting
from tether.errors import SpecError
from tether.model import OnDeath, Ready
from tether.protocol import CloudProviderType, PluginExecutionMode
from tether.redaction import redact
from tether.spec import SpecBase, checked_env, checked_words

__all__ = ["CloudContainer", "CloudFunction"]

_RUNS = Ready("health", None, 300.0)
"""By default it is ready when the provider says that it runs."""

_ARN = re.compile(r"arn:[a-z-]+:iam::\d{12}:role/.+")
_LONGEST_CALL_S = 900
_MOST_STOP_S = 120.0


class _Rented(SpecBase):
    """What both have in common."""

    provider: str | CloudProviderType
    region: str | None
    role: str | None
    labels: Mapping[str, str]
    env: Mapping[str, str]
    cost_per_hour: float | None
    max_lifetime: float
    listing_lag: float | None
    ready: Ready | None

    def _check_rented(self) -> None:
        provider = self.provider.value if isinstance(self.provider, CloudProviderType) else self.provider
        if provider != "aws":
            raise SpecError(f"provider={provider!r}: a {type(self).__name__} runs at 'aws' only")
        object.__setattr__(self, "provider", provider)
        object.__setattr__(self, "env", checked_env(self.env))
        self._check_common()
        check_labels(self.labels)
        check_price(self.cost_per_hour)
        if self.role is not None and not _ARN.fullmatch(self.role):
            raise SpecError(f"role={self.role!r} is no ARN of a role")
        if not self.max_lifetime > 0:
            raise SpecError(f"max_lifetime={self.max_lifetime!r} must be more than 0 seconds")
        if self.listing_lag is not None and not self.listing_lag >= 0:
            raise SpecError(f"listing_lag={self.listing_lag!r} must be 0 or more seconds")
        if any(value is None for value in self.env.values()):
            raise SpecError("a value of None in env unsets nothing here: there is nothing set before")

    @property
    def rented(self) -> bool:
        """Whether its owner pays for it by the hour."""
        return True

    def _recorded(self) -> dict[str, Any]:
        return {
            "provider": self.provider,
            "region": self.region,
            "env": sorted(self.env),
            "cost_per_hour": self.cost_per_hour,
            "max_lifetime": self.max_lifetime,
            "stop_grace": self.stop_grace,
        }


@dataclass(frozen=True)
class CloudContainer(_Rented):
    """A container in a cloud, on no machine of yours: a task of ECS on Fargate. It ends with its owner.

    Its task definition, its log group and the role that pulls its image and writes its log are made for it and go with it.

    Args:
        image: the image, as the registry calls it.
        command: what it runs; by default what its image says.
        env: variables, with values that never reach the ledger; whoever may look at the task sees them.
        cpus: processors; memory: bytes, or like "2g". The smallest size that has both is taken.
        provider: "aws".
        region, profile: as for `Machine`.
        cluster: the name of a cluster of yours.
        subnets: where it runs; by default those of the default network.
        security_groups: ids of yours; by default that of the network, which lets nobody in from outside.
        public_ip: whether it has a public address. Without one its image must be reached in another way.
        role: the ARN of a role that what runs in it has; by default none.
        execution_role: the ARN of the role that pulls its image and writes its log; None has one made.
        spot: run it cheaper, and have it ended when the provider wants to.
        labels: tags of yours.
        endpoint: the address of the provider's interface, where it is not the usual one.
        cost_per_hour: US dollars for an hour.
        max_lifetime: seconds after which its owner ends it in any case.
        listing_lag: seconds after which lists are trusted to show what was created.
        port: on which it answers, for ``url``.
        stop_grace: seconds from SIGTERM to SIGKILL in it, at most 120.
        name, ready, on_death, keep_for, needs: as for `Process`; by default it is ready when the provider says that it runs.
            One without ``ready`` and ``port`` is a job, which ends by itself.

    Raises:
        SpecError: something of it can't be right; nothing was created.
    """

    image: str
    command: Sequence[str] | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cpus: float = 0.25
    memory: int | str | None = None
    provider: str | CloudProviderType = "aws"
    region: str | None = None
    profile: str | None = None
    cluster: str = "default"
    subnets: Sequence[str] = ()
    security_groups: Sequence[str] = ()
    public_ip: bool = True
    role: str | None = None
    execution_role: str | None = None
    spot: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    endpoint: str | None = None
    cost_per_hour: float | None = None
    max_lifetime: float = 24 * 3600.0
    listing_lag: float | None = None
    port: int | None = None
    name: str | None = None
    ready: Ready | None = None
    stop_grace: float = 30.0
    on_death: OnDeath | None = None
    keep_for: float = 3600.0
    needs: Sequence[str] | None = None
    kind: str = field(default="cloud_container", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right, before anything is created."""
        object.__setattr__(self, "command", checked_words(self.command, "command"))
        if self.memory is not None:
            object.__setattr__(self, "memory", size_in_bytes(self.memory))
        for each in ("subnets", "security_groups"):
            if isinstance(getattr(self, each), str):
                raise SpecError(f"{each} must be a list of ids")
            object.__setattr__(self, each, tuple(getattr(self, each)))
        self._check_numbers()
        if self.ready is not None and (probe := self.ready.first_of("http", "tcp")) and self.port is None:
            raise SpecError(f"ready={probe}() needs a port to probe: give port=")
        if self.ready is None:
            object.__setattr__(self, "ready", _RUNS)
        self._check_rented()

    def _check_numbers(self) -> None:
        if not isinstance(self.image, str) or not self.image:
            raise SpecError(f"image={self.image!r} is no name of an image")
        if not self.cpus > 0:
            raise SpecError(f"cpus={self.cpus!r} must be more than 0")
        fitting(self.cpus, self.memory_bytes)
        if self.port is not None and not (isinstance(self.port, int) and 0 < self.port < 65536):
            raise SpecError(f"{self.port!r} is no port")
        if self.stop_grace > _MOST_STOP_S:
            raise SpecError(f"stop_grace={self.stop_grace:g}: Fargate gives a container {_MOST_STOP_S:g} s at most")
        if self.execution_role is not None and not _ARN.fullmatch(self.execution_role):
            raise SpecError(f"execution_role={self.execution_role!r} is no ARN of a role")

    @property
    def memory_bytes(self) -> int | None:
        """The memory that was asked for."""
        return self.memory if isinstance(self.memory, int) else None

    @property
    def default_name(self) -> str:
        """The image's last part."""
        return (
            re.sub(r"[^A-Za-z0-9_.-]", "-", self.image.rpartition("/")[2].partition("@")[0].partition(":")[0]) or "task"
        )

    @property
    def stays_up(self) -> bool:
        """Whether it is a server (it has a probe or a port): to end by itself is then to fail."""
        return self.port is not None or self.ready != _RUNS

    @property
    def mode(self) -> PluginExecutionMode:
        """Which of the cloud's modes this is."""
        return PluginExecutionMode.CLOUD_CONTAINER

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger: no values of the environment, and no arguments that look like secrets."""
        return {
            **self._recorded(),
            "image": self.image,
            "command": None if self.command is None else redact(list(self.command)),
            "cluster": self.cluster,
            "spot": self.spot,
            "stays_up": self.stays_up,
        }


@dataclass(frozen=True)
class CloudFunction(_Rented):
    """A function of AWS Lambda, with the role, the log group and the address that are made for it. It ends with its owner.

    Args:
        code: its code: a folder, a file of Python, a zip file, or the bytes of one.
        handler: what is called, like "module.function".
        image: the name of an image in ECR with the code, in place of the two.
        runtime: what runs the code.
        env: variables, with values that never reach the ledger; whoever may look at the function sees them.
        memory: bytes, or like "512m"; processors come with it.
        timeout: seconds that a call may take, at most 900.
        url: "iam" for an address on the web for signed requests, "public" for one for anybody, None for none.
        provider: "aws".
        region, profile: as for `Machine`.
        role: the ARN of the role that it has; None has one made, which can write to its log group and nothing else.
        labels, endpoint, cost_per_hour, max_lifetime, listing_lag: as for `CloudContainer`.
        name, ready, on_death, keep_for, needs: as for `Process`; by default it is ready when it can be called.

    Raises:
        SpecError: something of it can't be right; nothing was created.
    """

    code: str | bytes | PathLike[str] | None = field(default=None, repr=False)
    handler: str = "main.handler"
    image: str | None = None
    runtime: str = "python3.13"
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    memory: int | str = "128m"
    timeout: int = 30
    url: Literal["iam", "public"] | None = "iam"
    provider: str | CloudProviderType = "aws"
    region: str | None = None
    profile: str | None = None
    role: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    endpoint: str | None = None
    cost_per_hour: float | None = None
    max_lifetime: float = 24 * 3600.0
    listing_lag: float | None = None
    name: str | None = None
    ready: Ready | None = None
    stop_grace: float = 0.0
    on_death: OnDeath | None = None
    keep_for: float = 3600.0
    needs: Sequence[str] | None = None
    kind: str = field(default="cloud_function", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right, before anything is created."""
        if (self.code is None) == (self.image is None):
            raise SpecError("a function needs code= or image=, one of the two")
        object.__setattr__(self, "memory", size_in_bytes(self.memory))
        if not (isinstance(self.timeout, int) and 0 < self.timeout <= _LONGEST_CALL_S):
            raise SpecError(f"timeout={self.timeout!r} must be 1 to {_LONGEST_CALL_S} seconds")
        if self.ready is not None and (probe := self.ready.first_of("http", "tcp")) and self.url is None:
            raise SpecError(f"ready={probe}() needs url=")
        if self.ready is None:
            object.__setattr__(self, "ready", _RUNS)
        self._check_rented()

    @property
    def memory_bytes(self) -> int:
        """The memory that was asked for."""
        return int(self.memory)

    @property
    def default_name(self) -> str:
        """The function's own name."""
        return self.handler.rpartition(".")[2] or "function"

    @property
    def stays_up(self) -> bool:
        """That it ends by itself is never expected."""
        return True

    @property
    def mode(self) -> PluginExecutionMode:
        """Which of the cloud's modes this is."""
        return PluginExecutionMode.CLOUD_SERVERLESS

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger: neither code nor values of the environment."""
        return {
            **self._recorded(),
            "handler": self.handler,
            "image": self.image,
            "runtime": self.runtime,
            "memory": self.memory,
            "timeout": self.timeout,
            "url": self.url,
            "stays_up": True,
        }
