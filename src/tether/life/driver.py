"""What a driver is. Each driver is one module here, found by the entry point group ``tether.drivers``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    # The command line looks through drivers, and must start in no time: what only types need is not imported.
    from tether.life.context import Context
    from tether.life.machine import Ended
    from tether.life.probes import Target
    from tether.life.steps import Steps
    from tether.linux.members import Marks
    from tether.model import Finding, Handle, OnDeath, Progress, Status, Usage
    from tether.protocol import PluginExecutionMode

__all__ = [
    "CanAdopt",
    "CanAsk",
    "CanAttach",
    "CanCheck",
    "CanCompare",
    "CanCopy",
    "CanDiagnose",
    "CanExecute",
    "CanInsist",
    "CanLook",
    "CanPause",
    "CanSignal",
    "Driver",
    "HasConnections",
    "HasDetails",
    "HasGuard",
    "HasInside",
    "HasLine",
    "HasLog",
    "HasLogsApart",
    "HasMarks",
    "HasOutput",
    "HasPids",
    "HasPlan",
    "HasPort",
    "HasRemains",
    "HasReserve",
    "HasSteps",
    "HasStreams",
    "HasStreamsApart",
    "HasTarget",
    "HasUrl",
    "HoldsCommands",
]


class Driver(Protocol):
    """Starts, finds, inspects, stops and destroys one kind of resource.

    A driver whose resources have no processes on this machine may say so with ``has_pids = False``.
    """

    kind: ClassVar[str]
    modes: ClassVar[frozenset[PluginExecutionMode]]

    def __init__(self, context: Context) -> None:
        """Make no connection yet: a service that is down is said when it is used."""
        ...

    def start(self, spec: Any, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Create the resource; everything created carries the tag. Returns before it is ready.

        ``on_death`` is the rule that holds, whether it is the spec's or its owner's.

        Raises:
            NotCreated: nothing was asked for yet.
            StartError: nothing is left of the attempt; where the driver has a plan, its caller destroys what is.
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

    def receipt(self, handle: Handle) -> Ended | None:
        """Return how a resource ended while nobody owned it; None if that is not known."""
        ...


@runtime_checkable
class CanAsk(Protocol):
    """A driver that can ask for an end without waiting for it: many end side by side without a thread for each."""

    def can_ask(self, handle: Handle) -> bool:
        """Whether the end of this resource would be heard through ``Context.emit``."""
        ...

    def ask(self, handle: Handle, grace: float, *, again: bool) -> None:
        """Do what `Driver.stop` does (`CanInsist.insist` with ``again``), but for waiting; after `can_ask` it raises nothing."""
        ...


@runtime_checkable
class CanCheck(Protocol):
    """A driver that can tell before an end whether it could start the same again."""

    def check(self, spec: Any) -> None:
        """Raise what `Driver.start` would, as far as that can be known without creating anything."""
        ...


@runtime_checkable
class CanCompare(Protocol):
    """A driver that can tell whether what was kept is still what an equal spec would start."""

    def is_outdated(self, handle: Handle, spec: Any, progress: Progress) -> str:
        """Say why it is not; empty if it is, as far as is known."""
        ...


@runtime_checkable
class CanCopy(Protocol):
    """A driver whose resources have files of their own."""

    def copy_in(self, handle: Handle, source: bytes | str | os.PathLike[str], path: str) -> None:
        """Copy content, or a file or folder of this machine, to a path there."""
        ...

    def copy_out(self, handle: Handle, path: str, target: Path) -> None:
        """Copy a file or folder there to a path of this machine."""
        ...


@runtime_checkable
class CanExecute(Protocol):
    """A driver that can execute further commands in its resources."""

    def execute(
        self,
        handle: Handle,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        user: str | None,
        workdir: str | None,
        sent: bytes,
        timeout_s: float | None,
        heard: Callable[[int, bytes], object] | None = None,
    ) -> tuple[int | None, bytes, bytes]:
        """Execute a command with this input, and return its exit code, output and error output.

        Where ``heard`` is given, it is called with what comes when it comes (1 is output, 2 error output), and none is returned.
        """
        ...


@runtime_checkable
class HasStreamsApart(Protocol):
    """A driver that can tell what was written to standard output and what to standard error."""

    def read_stream(self, handle: Handle, stream: Literal["stdout", "stderr"], lines: int | None) -> bytes:
        """Return the last lines of one of the two, or all of it; also of one that has ended, as far as it was saved."""
        ...


@runtime_checkable
class CanLook(Protocol):
    """A driver that can look at all its resources at once."""

    def look(self, within_s: float) -> None:
        """Look, for `HasDetails`; what is not seen in time is said there as unknown, with its age. Never raises for that."""
        ...


@runtime_checkable
class HasPids(Protocol):
    """A driver that knows the processes of its resources without asking their service."""

    def pids(self, handle: Handle) -> tuple[int, ...]:
        """Return the live processes on this machine."""
        ...


@runtime_checkable
class HasConnections(Protocol):
    """A driver that keeps connections open."""

    def close(self) -> None:
        """Close them; what the driver started goes on."""
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
class HasLogsApart(Protocol):
    """A driver whose resources may have more than one such file."""

    def log_paths(self, handle: Handle) -> tuple[Path, ...]:
        """Return the files: that of standard output, or of both, first."""
        ...


@runtime_checkable
class HasPort(Protocol):
    """A driver whose resources may listen on a port."""

    def port(self, handle: Handle) -> int | None:
        """Return the port on this machine, or None if this one has none."""
        ...


@runtime_checkable
class HasUrl(Protocol):
    """A driver whose resources answer elsewhere than at a port of this machine, or not by plain HTTP."""

    def url(self, handle: Handle) -> str | None:
        """Return where it answers, or None if this one does not."""
        ...


@runtime_checkable
class HasTarget(Protocol):
    """A driver whose resources are probed in another way than a process tree of this machine."""

    def target(self, handle: Handle) -> Target:
        """Return what is probed; its ``subject`` is filled in by the caller."""
        ...


@runtime_checkable
class HasOutput(Protocol):
    """A driver whose resources' output is kept elsewhere than in a file of this machine."""

    def read_log(self, handle: Handle, lines: int | None) -> bytes:
        """Return the last lines of the output, or all of it; also of one that has ended, as far as it was saved."""
        ...

    def follow_log(self, handle: Handle) -> Iterator[bytes]:
        """Yield what is written from now on, until it ends; empty bytes now and then, when there is nothing new."""
        ...


@runtime_checkable
class HasDetails(Protocol):
    """A driver that can tell more of its resources than all can."""

    def details(self, handle: Handle) -> dict[str, Any]:
        """Return what consumers look for (``container_id``, ``conda_env``, ...): ready for JSON, no secrets."""
        ...


@runtime_checkable
class HasInside(Protocol):
    """A driver whose resources are environments that commands run in."""

    def inside(self, handle: Handle, argv: Sequence[str], env: Mapping[str, str | None] | None = None) -> list[str]:
        """Return the command that runs ``argv`` in it, with the variables ``env`` on top of this process's own."""
        ...


@runtime_checkable
class HoldsCommands(Protocol):
    """A driver that holds what commands of another program make, such as ``docker run``. See `tether.life.registry.COMMANDS`."""

    @staticmethod
    def made_by(spec: Any, on_death: OnDeath) -> Any:
        """Return the spec of what a command would make: started before it as what it runs in, ended after it. None for nothing."""
        ...


@runtime_checkable
class HasPlan(Protocol):
    """A driver whose resources may survive this machine, or are found only where they are.

    The plan is recorded with a full sync to the disk before anything is created, and is enough for `destroy`: a crash between any
    two steps of `start` leaves nothing that can't be found.
    """

    def plan(self, spec: Any, tag: str) -> Handle:
        """Return by what the resource will be found. Creates nothing and talks to nobody."""
        ...


@runtime_checkable
class HasReserve(Protocol):
    """A driver whose resources are held by something that is there before them, and is on record before they are created."""

    def reserve(self, spec: Any, tag: str, life: int, former: Handle | None = None) -> Handle:
        """Get hold of it for a life of a resource, and return by what it is found; `start` with the same tag uses it.

        ``former`` is the handle of the life before a restart, of which what can be the same again is (its port).

        Raises:
            NotCreated: it can't be had; nothing was created.
        """
        ...

    def release(self, tag: str) -> None:
        """Let go of it, if `start` was not called."""
        ...


@runtime_checkable
class HasSteps(Protocol):
    """A driver that can start many side by side without a thread for each."""

    def starting(self, spec: Any, tag: str, on_death: OnDeath, progress: Progress) -> Steps[Handle]:
        """As `Driver.start`; it yields when it has asked for what it will wait for. Closed before its end it leaves nothing."""
        ...


@runtime_checkable
class CanInsist(Protocol):
    """A driver that can ask more than once: a program may miss the signal that comes while it is starting."""

    def insist(self, handle: Handle, grace: float) -> None:
        """As `Driver.stop`, asking again while the grace runs."""
        ...


@runtime_checkable
class CanSignal(Protocol):
    """A driver whose resources can be sent signals."""

    def signal(self, handle: Handle, signum: int, to: str) -> None:
        """Signal its command ("main"), that with its process group ("group"), or every process ("tree")."""
        ...


@runtime_checkable
class HasLine(Protocol):
    """A driver whose resources are reached by a line that another program may take over, by execve(2)."""

    def line(self, handle: Handle) -> int | None:
        """Return its descriptor; None if this process does not hold it."""


@runtime_checkable
class HasRemains(Protocol):
    """A driver of which something may be left that nobody but the owner that died could end."""

    def remains(self, handle: Handle) -> str:
        """Say what that is, and where; empty if there is nothing."""
        ...


@runtime_checkable
class HasGuard(Protocol):
    """A driver whose resources may be guarded by something that ends them by itself when their owner is dead."""

    def is_guarded(self, handle: Handle) -> bool:
        """Whether it is so guarded now."""
        ...


@runtime_checkable
class HasMarks(Protocol):
    """A driver whose resources are processes of this machine, which a sweep looks for by marks, all of them in one look."""

    def marks(self, handle: Handle | None, tag: str) -> Marks | None:
        """Return by what the members of a resource are recognised; without a handle by its tag alone; None if it can have none."""
        ...


@runtime_checkable
class CanDiagnose(Protocol):
    """A driver that can say whether what it needs is there."""

    def diagnose(self) -> Finding:
        """Look, for ``tether doctor``; never raises for what is merely missing."""
        ...


@runtime_checkable
class CanAttach(Protocol):
    """A driver whose resources may have been there before: those are let go of, and never ended."""

    def is_attached(self, handle: Handle) -> bool:
        """Whether this one was there before."""
        ...


@runtime_checkable
class HasStreams(Protocol):
    """A driver whose resources may have pipes to this process."""

    def streams(self, handle: Handle) -> dict[str, Any]:
        """Return the binary streams by name: stdin, stdout, stderr."""
        ...
