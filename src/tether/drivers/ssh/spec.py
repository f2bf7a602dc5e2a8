"""The spec of a process on another host: what may be said of one, and what is refused before anything is created."""

from __future__ import annotations

import re
import signal as _signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fsdecode
from typing import Any, ClassVar, Literal

from tether.errors import SpecError, require_extra
from tether.model import OnDeath, Reachable, Ready, Spec
from tether.spec import CommandBase, redact

__all__ = ["RemoteProcess"]

_HOST = re.compile(r"(?:([^@\s:/]+)@)?(\[[0-9A-Fa-f:.%]+\]|[^\s@:/\[\]]+|[0-9A-Fa-f:]+:[0-9A-Fa-f:.]*)")


@dataclass(frozen=True, repr=False)
class RemoteProcess(CommandBase):
    """A command to run on another host, and with it everything that it forks there.

    Args:
        host: "host", "user@host", an address, or an alias of ``~/.ssh/config``, which is honoured.
        argv: the program and its arguments; never a shell, unless you write one.
        on: instead of ``host``, a machine of a cloud: one that was started, or the spec of one, which is rented for this and ends
            with it. Its port for SSH must be open to here. The login is by the key pair that was made for it; only the host key
            that was made for it is believed. For a ``MachineRef`` both are yours, as for a ``host``.
        name: unique among the live resources of its owner; by default the program's name.
        user, port: by default what ``~/.ssh/config`` says; with ``on``, what the machine's provider says.
        key: a private key's file, or several; by default that which was made for the machine, else those of ``~/.ssh/config``, the
            usual ones, and the agent's.
        jump: "user@host:port", or several with commas, to go through; by default what ``~/.ssh/config`` says.
        known_hosts: a file of host keys instead of the usual ones.
        verify_host: whether an unknown or other host key is refused. False trusts whoever answers.
        config: a file instead of ``~/.ssh/config`` and ``/etc/ssh/ssh_config``.
        connect_timeout: seconds that connection, login, and the first word of the login's shell may each take.
        env: variables on top of what the login has; None unsets one. Values never reach the ledger or the command line there.
        cwd: the working directory there; by default the home directory.
        umask: the file mode mask there.
        listen: a fixed port there for ``{port}``; by default a free one is looked for there.
        ready: when it counts as ready; ``http`` and ``tcp`` go through a port that is forwarded from here.
        lease: seconds that it lives on there without word from its owner, for instance while the network is cut.
        stop_signal, stop_to, stop_grace: as for `Process`.
        on_death: "kill" and "stop": ended at once by the owner's reaper, or, if that has no connection, when the lease is
            over. "keep": for the next owner to adopt, from here or from another machine with the ledger, ``keep_for`` seconds
            after the lease.
        keep_for, needs: as for `Process`.

    ``{port}`` in an argument or in a value of ``env`` is replaced by the port there; ``url`` is a forwarded port here.

    Raises:
        SpecError: something of it can't be right; nothing was created.
        DriverUnavailable: the extra is not installed.
    """

    host: str = ""
    argv: Sequence[str | PathLike[str]] = ()
    on: Reachable | Spec | None = None
    name: str | None = None
    user: str | None = None
    port: int | None = None
    key: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None
    jump: str | None = None
    known_hosts: str | PathLike[str] | None = None
    verify_host: bool = True
    config: str | PathLike[str] | None = None
    connect_timeout: float = 15.0
    env: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    cwd: str | None = None
    umask: int | None = None
    listen: int | None = None
    ready: Ready | None = None
    lease: float = 60.0
    stop_signal: int = _signal.SIGTERM
    stop_to: Literal["group", "main"] = "group"
    stop_grace: float = 10.0
    on_death: OnDeath | None = None
    keep_for: float = 3600.0
    needs: Sequence[str] | None = None
    kind: str = field(default="ssh", init=False)
    within: ClassVar[str] = "on"
    checked_apart: ClassVar[tuple[str, ...]] = ("argv", "env")

    def __post_init__(self) -> None:
        """Refuse what can't be right, before anything is created."""
        require_extra("asyncssh", "ssh", "a RemoteProcess")
        if self.on is None:
            self._check_host()
        elif self.host:
            raise SpecError(f"host={self.host!r} and on= name two hosts; give one of them")
        elif getattr(self.on, "kind", None) != "machine" or getattr(self.on, "key", True) is False:
            raise SpecError(f"on={self.on!r} must be a Machine with a key, or a resource that was started from one")
        self._check_command()
        keys = [] if self.key is None else [self.key] if isinstance(self.key, str | bytes | PathLike) else self.key
        object.__setattr__(self, "key", tuple(fsdecode(each) for each in keys))
        for each in ("known_hosts", "config"):
            if getattr(self, each) is not None:
                object.__setattr__(self, each, fsdecode(getattr(self, each)))
        self._check_common()
        self._check_numbers()

    def _check_host(self) -> None:
        found = _HOST.fullmatch(self.host) if isinstance(self.host, str) else None
        if found is None or found[2].startswith("-"):
            raise SpecError(f"{self.host!r} is no host; write 'host' or 'user@host', and the port as port=")
        if found[1] is not None:
            if self.user not in (None, found[1]):
                raise SpecError(f"host={self.host!r} and user={self.user!r} name two users")
            object.__setattr__(self, "user", found[1])
        object.__setattr__(self, "host", found[2].strip("[]"))

    def _check_numbers(self) -> None:
        for port in (self.port, self.listen):
            if port is not None and not 0 < port < 65536:
                raise SpecError(f"{port!r} is no port")
        if not self.lease >= 1:
            raise SpecError(f"lease={self.lease!r} must be 1 or more seconds: it is renewed three times in that time")
        if not self.connect_timeout > 0:
            raise SpecError(f"connect_timeout={self.connect_timeout!r} must be more than 0 seconds")
        if self.ready is not None and (probe := self.ready.first_of("http", "tcp")) and not self.uses_port:
            raise SpecError(f"ready={probe}() needs a port to probe: use {{port}} in argv or env, or give listen=")

    @property
    def uses_port(self) -> bool:
        """Whether it has a port there, which is forwarded."""
        return self.listen is not None or super().uses_port

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger: no values of the environment, and no arguments that look like secrets."""
        return {
            "host": self.host,
            "on": None if self.on is None else self.on.name,
            "argv": redact([str(word) for word in self.argv[:100]]),
            "env": sorted(self.env),
            "cwd": self.cwd,
            "ready": None if self.ready is None else self.ready.kind,
            "lease": self.lease,
            "stop_grace": self.stop_grace,
            "stays_up": self.stays_up,
        }
