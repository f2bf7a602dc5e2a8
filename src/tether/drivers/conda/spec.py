"""The spec of a conda environment: what may be said of one, and what is refused before anything is created."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tether.errors import SpecError, require_extra
from tether.model import OnDeath, Ready
from tether.spec import SpecBase

__all__ = ["CondaEnv"]


@dataclass(frozen=True)
class CondaEnv(SpecBase):
    """A conda environment: made from packages or a lock file, or one that exists.

    Args:
        packages: what must be in it, like "python=3.12" or "numpy>=2".
        channels: where packages come from, the first before the others: a name like conda-forge, a URL, a ``file://`` folder.
        lock: a lock file of pixi or rattler instead of packages.
        prefix: where it is. With packages or a lock it is made there; without, one that exists there is used and never removed.
        name: what it is called. Without packages, lock and prefix: the name of a conda environment of this user, which is used and
            never removed.
        ephemeral: for this resource alone, and removed at its end. Otherwise it stays for the next who asks for the same.
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
    ready: Ready | None = field(default=None, init=False)
    stop_grace: float = field(default=0.0, init=False)
    kind: str = field(default="conda", init=False)

    def __post_init__(self) -> None:
        """Refuse what can't be right, before anything is created."""
        require_extra("rattler", "conda", "a CondaEnv")
        for each in ("packages", "channels"):
            value = getattr(self, each)
            if isinstance(value, str) or not all(isinstance(item, str) and item for item in value):
                raise SpecError(f"{each} must be a list of texts, not {value!r}")
            object.__setattr__(self, each, tuple(value))
        if self.packages and self.lock is not None:
            raise SpecError("packages and lock exclude each other: a lock file says it all")
        if self.is_made and not self.channels and self.lock is None:
            raise SpecError("packages need channels to come from")
        if not self.is_made and self.ephemeral:
            raise SpecError("an environment that exists is never removed, so it can't be ephemeral")
        if not self.is_made and self.prefix is None and self.name is None:
            raise SpecError("say what environment: packages=, lock=, prefix= or name=")
        for each in ("prefix", "lock"):
            if getattr(self, each) is not None:
                object.__setattr__(self, each, str(Path(getattr(self, each)).absolute()))
        if self.lock is not None and not Path(self.lock).is_file():
            raise SpecError(f"there is no lock file {self.lock}")
        self._check_common()

    @property
    def is_made(self) -> bool:
        """Whether it is to be made, if it is not there yet."""
        return bool(self.packages) or self.lock is not None

    @property
    def default_name(self) -> str:
        """The first package, or the folder."""
        first = self.packages[0] if self.packages else Path(self.prefix or self.lock or "env").name
        return "".join(character if character.isalnum() else "-" for character in first).strip("-")

    @property
    def stays_up(self) -> bool:
        """It has no process that could end."""
        return False

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger; of channels, not what may be a token in their address."""
        channels = [channel.split("/t/")[0].rpartition("@")[2] for channel in self.channels]
        return {"packages": list(self.packages), "channels": channels, "ephemeral": self.ephemeral, "stays_up": False}
