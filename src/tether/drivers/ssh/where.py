"""How a host is reached."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tether.drivers.ssh.spec import RemoteProcess
from tether.errors import NotCreated
from tether.model import Reachable

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
        """Return how the host of a spec is reached; files are named in full, for whoever reads it elsewhere on this machine.

        Raises:
            NotCreated: it is to run on a machine that has no address.
        """
        if isinstance(spec.on, Reachable):
            spec = _on_machine(spec, spec.on)
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


def _on_machine(spec: RemoteProcess, machine: Reachable) -> RemoteProcess:
    """The spec with what is known of the machine in the place of what it does not say."""
    said = machine.details
    if said.get("ssh_host") is None or machine.state.is_final:
        why = f"it is {machine.state.value}" if machine.state.is_final else "it has no address"
        raise NotCreated(f"nothing can be started on machine {machine.name}: {why}", resource=spec.name or "")
    return replace(
        spec,
        on=None,
        host=said["ssh_host"],
        port=spec.port or said["ssh_port"],
        user=spec.user or said["ssh_user"],
        key=spec.key or said["ssh_key"],
        known_hosts=spec.known_hosts or said["ssh_known_hosts"],
    )


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))
