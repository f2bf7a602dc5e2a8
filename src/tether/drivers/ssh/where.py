"""How a host is reached."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tether.drivers.ssh.spec import RemoteProcess

__all__ = ["Where"]


@dataclass(frozen=True)
class Where:
    """How a host is reached; recorded, so it has no secrets: of keys only the files."""

    host: str
    port: int | None = None
    user: str | None = None
    keys: tuple[str, ...] = ()
    jump: str | None = None
    known_hosts: str | None = None
    verify_host: bool = True
    config: str | None = None
    connect_timeout: float = 15.0

    @classmethod
    def of(cls, spec: RemoteProcess) -> Where:
        """Return how the host of a spec is reached; files are named in full, for whoever reads it elsewhere on this machine."""
        return cls(
            spec.host,
            spec.port,
            spec.user,
            tuple(_absolute(str(key)) for key in spec.key or ()),  # type: ignore[union-attr]
            spec.jump,
            None if spec.known_hosts is None else _absolute(str(spec.known_hosts)),
            spec.verify_host,
            None if spec.config is None else _absolute(str(spec.config)),
            spec.connect_timeout,
        )

    def record(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {**self.__dict__, "keys": list(self.keys)}

    @classmethod
    def recorded(cls, data: Mapping[str, Any]) -> Where:
        """Return what `record` returned as it was."""
        return cls(**{**data, "keys": tuple(data["keys"])})

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"{user}{self.host}" + (f":{self.port}" if self.port else "")


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))
