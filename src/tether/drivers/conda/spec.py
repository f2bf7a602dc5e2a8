"""The spec of a conda environment: what may be said of one, and what is refused before anything is created."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tether.drivers.conda.access import without_secrets
from tether.errors import SpecError, require_extra
from tether.life.addresses import hide
from tether.model import OnDeath, Ready
from tether.spec import SpecBase

__all__ = ["CondaEnv"]


@dataclass(frozen=True, repr=False)
class CondaEnv(SpecBase):
    """A conda environment: made from packages or a lock file, or one that exists.

    Args:
        packages: what must be in it, like "python=3.12" or "numpy>=2".
        channels: where packages come from, the first before the others: a name like conda-forge, a URL, a ``file://`` folder.
            User, password, ``/t/TOKEN/`` and query reach the server only: they are neither recorded nor shown.
        lock: a lock file of pixi or rattler instead of packages.
        environment: with ``lock``, which of its environments; by default "default".
        platform: for which platform ("linux-64"); by default this machine's. With ``lock`` also the name of one of its platforms.
        prefix: where it is. With packages or a lock it is made there; without, one that exists there is used and never removed.
        name: what it is called. Without packages, lock and prefix: the name of a conda environment of this user, which is used and
            never removed.
        ephemeral: for this resource alone: it shares no file with any other, and is removed at its end. Otherwise it stays for
            the next who asks for the same.
        on_death, keep_for, needs: as for `Process`; what stays anyway is let go.

    Raises:
        SpecError: something of it can't be right; nothing was created.
        DriverUnavailable: the extra is not installed.
    """

    packages: Sequence[str] = ()
    channels: Sequence[str] = ("conda-forge",)
    lock: str | os.PathLike[str] | None = None
    prefix: str | os.PathLike[str] | None = None
    name: str | None = None
    ephemeral: bool = False
    on_death: OnDeath | None = None
    keep_for: float = 3600.0
    needs: Sequence[str] | None = None
    environment: str | None = None
    platform: str | None = None
    ready: Ready | None = field(default=None, init=False)
    stop_grace: float = field(default=0.0, init=False)
    kind: str = field(default="conda", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right, before anything is created."""
        require_extra("rattler", "conda", "a CondaEnv")
        for each in ("packages", "channels"):
            value = getattr(self, each)
            if isinstance(value, str) or not all(isinstance(item, str) and item for item in value):
                raise SpecError(f"{each} must be a list of texts, not {hide(repr(value))}")
            object.__setattr__(self, each, tuple(value))
        self._check_what()
        for each in ("prefix", "lock"):
            if getattr(self, each) is not None:
                object.__setattr__(self, each, str(Path(os.fsdecode(getattr(self, each))).absolute()))
        if self.lock is not None and not Path(os.fsdecode(self.lock)).is_file():
            raise SpecError(f"there is no lock file {self.lock}")
        if self.prefix is not None and any(each in str(self.prefix) for each in ":\0"):
            raise SpecError(f"prefix={self.prefix!r} can't be a folder of PATH: it has a colon or a NUL byte in it")
        self._check_common()

    def _check_what(self) -> None:
        if self.packages and self.lock is not None:
            raise SpecError("packages and lock exclude each other: a lock file says it all")
        if self.is_made and not self.channels and self.lock is None:
            raise SpecError("packages need channels to come from")
        if not self.is_made and self.ephemeral:
            raise SpecError("an environment that exists is never removed, so it can't be ephemeral")
        if not self.is_made and self.prefix is None and self.name is None:
            raise SpecError("say what environment: packages=, lock=, prefix= or name=")
        if self.environment is not None and self.lock is None:
            raise SpecError(f"environment={self.environment!r} is one of a lock file's, and there is no lock=")
        if self.platform is not None and not self.is_made:
            raise SpecError(
                f"platform={self.platform!r} is for an environment that is made; one that exists is what it is"
            )

    def __repr__(self) -> str:
        """Show what is recorded: addresses without secrets."""
        shown = {**self.record(), "lock": self.lock, "prefix": self.prefix, "name": self.name}
        del shown["stays_up"]
        return f"CondaEnv({', '.join(f'{key}={value!r}' for key, value in shown.items() if value)})"

    @property
    def is_made(self) -> bool:
        """Whether it is to be made, if it is not there yet."""
        return bool(self.packages) or self.lock is not None

    @property
    def default_name(self) -> str:
        """The first package, or the folder."""
        first = without_secrets(self.packages[0]) if self.packages else Path(self.prefix or self.lock or "env").name
        if "://" in first:
            first = first.rpartition("/")[2].rpartition("::")[2]
        return "".join(character if character.isalnum() else "-" for character in first).strip("-") or "env"

    @property
    def stays_up(self) -> bool:
        """It has no process that could end."""
        return False

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger; of addresses, not what may be a secret in them."""
        return {
            "packages": [without_secrets(each) for each in self.packages],
            "channels": [hide(each) for each in self.channels],
            "environment": self.environment,
            "platform": self.platform,
            "ephemeral": self.ephemeral,
            "stays_up": False,
        }
