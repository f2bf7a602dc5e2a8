"""What a driver may use of the process it runs in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    # The command line looks through drivers, and must start in no time: what only types need is not imported.
    from tether.guard.line import Shim
    from tether.guard.watcher import Readable
    from tether.life.machine import Event
    from tether.model import Terminal

__all__ = ["Context", "Emit"]


class _TakeShim(Protocol):
    def __call__(self, *, in_session: bool = False) -> Shim: ...


class Emit(Protocol):
    """Tells an owner what was seen of a resource, in the order in which it happened."""

    def __call__(self, tag: str, /, *events: Event) -> None:
        """What was seen at once is recorded at once."""
        ...


def _no_shim(*, in_session: bool = False) -> Shim:  # noqa: ARG001 - the contract's
    raise RuntimeError("only an owner starts processes")


def _ignore(*_: Any) -> None:
    return None


@dataclass(frozen=True)
class Context:
    """What a driver may use of the process it runs in.

    Attributes:
        state_dir: for logs and the like.
        owner: the id of the owner whose resources these are; empty for who only looks.
        shim: returns a shim that is armed, with ``in_session=True`` one in the session of this process. Only an owner has shims.
        prepare: has the next one forked, once this one has its command.
        watch: has the owner's thread call a function whenever a socket, or the like, can be read, until that returns False; then
            it is closed.
        emit: tells the owner what happened to the resource with a tag.
        await_orphans: waits until the reaper said that it ended the tree of a shim (by pid) that was killed, or is gone itself.
        subject: returns what a `call` probe of the resource with a tag is called with; None if it has ended.
        lifeline: returns the descriptor that says when this process dies.
        terminal: how commands share the terminal of this process; None for a session of their own.
    """

    state_dir: Path
    owner: str = ""
    shim: _TakeShim = _no_shim
    prepare: Callable[[Shim], None] = _ignore
    watch: Callable[[Readable, Callable[[], bool]], None] = _ignore
    emit: Emit = _ignore
    await_orphans: Callable[[int], None] = _ignore
    subject: Callable[[str], Any] = _ignore
    lifeline: Callable[[], int] = int
    terminal: Callable[[], Terminal | None] = _ignore
