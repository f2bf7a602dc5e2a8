"""What a driver is. Each driver is one module here, found by the entry point group ``tether.drivers``."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from tether.lifecycle import Ended, Event
from tether.model import Handle, OnDeath, Progress, Status, Usage
from tether.protocol import PluginExecutionMode
from tether.reaper.launch import ShimChannel

__all__ = ["CanAdopt", "CanPause", "Context", "Driver", "HasLog", "HasPort", "HasStreams", "Terminal"]


def _no_shim() -> AbstractContextManager[ShimChannel]:
    raise RuntimeError("only an owner starts processes")


def _ignore(*_: Any) -> None:
    return None


@dataclass(frozen=True)
class Terminal:
    """How a command shares the terminal of its owner.

    Attributes:
        group: the process group that it joins.
        ignored: signals that it goes on to ignore, as under nohup(1) or in a shell's background.
    """

    group: int
    ignored: tuple[int, ...]


@dataclass(frozen=True)
class Context:
    """What a driver may use of the process it runs in.

    Attributes:
        state_dir: for logs and the like.
        shim: lends a shim that is armed, as a context manager: at its end the next one is prepared. Only an owner has shims.
        watch: has the owner's thread call a function whenever a socket can be read, until that returns False; then the
            socket is closed.
        emit: tells the owner what happened to the resource with a tag.
        await_orphans: waits until the reaper said that it ended the tree of a shim (by pid) that was killed, or is gone itself.
        lifeline: returns the descriptor that says when this process dies.
        terminal: how commands share the terminal of this process; None for a session of their own.
    """

    state_dir: Path
    shim: Callable[[], AbstractContextManager[ShimChannel]] = _no_shim
    watch: Callable[[socket.socket, Callable[[], bool]], None] = _ignore
    emit: Callable[[str, Event], None] = _ignore
    await_orphans: Callable[[int], None] = _ignore
    lifeline: Callable[[], int] = int
    terminal: Callable[[], Terminal | None] = _ignore


class Driver(Protocol):
    """Starts, finds, inspects, stops and destroys one kind of resource."""

    kind: ClassVar[str]
    modes: ClassVar[frozenset[PluginExecutionMode]]

    def __init__(self, context: Context) -> None:
        """Make no connection yet: a service that is down is said when it is used."""
        ...

    def start(self, spec: Any, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Create the resource; everything created carries the tag. Returns before it is ready.

        ``on_death`` is the rule that holds, whether it is the spec's or its owner's.

        Raises:
            StartError: nothing is left of the attempt.
        """
        ...

    def find(self, tag: str) -> list[Handle]:
        """Return what exists under this tag, whoever made it."""
        ...

    def inspect(self, handle: Handle) -> Status:
        """Look at the resource now. Raises DriverUnavailable if that can't be done."""
        ...

    def stop(self, handle: Handle, grace: float) -> None:
        """End the resource politely, by force after ``grace`` seconds; returns when it has ended. Idempotent."""
        ...

    def destroy(self, handle: Handle) -> None:
        """End the resource by force and remove what was made for it; returns when it has ended. Idempotent."""
        ...

    def usage(self, handle: Handle) -> Usage:
        """Say what the resource uses now."""
        ...


@runtime_checkable
class CanAdopt(Protocol):
    """A driver whose resources may outlive their owner and be taken over by the next one."""

    def adopt(self, handle: Handle, fence: int) -> int | None:
        """Become the owner of a live resource, with a fence that is newer than any before.

        Returns:
            The exit code of its command if that has ended, else None.

        Raises:
            Gone: it has ended.
            Busy: it has an owner, or is ending.
        """
        ...

    def receipt(self, tag: str) -> Ended | None:
        """Return how a resource ended while nobody owned it; None if that is not known."""
        ...


@runtime_checkable
class CanPause(Protocol):
    """A driver whose resources can be continued after a stop signal."""

    def resume(self, handle: Handle) -> None:
        """Continue the resource."""
        ...


@runtime_checkable
class HasLog(Protocol):
    """A driver whose resources have their output in a file."""

    def log_path(self, handle: Handle) -> Path | None:
        """Return the file, or None if this one has none."""
        ...


@runtime_checkable
class HasPort(Protocol):
    """A driver whose resources may listen on a port."""

    def port(self, handle: Handle) -> int | None:
        """Return the port on this machine, or None if this one has none."""
        ...


@runtime_checkable
class HasStreams(Protocol):
    """A driver whose resources may have pipes to this process."""

    def streams(self, handle: Handle) -> dict[str, Any]:
        """Return the binary streams by name: stdin, stdout, stderr."""
        ...
