"""What a driver is that can give commands terminals of their own, where its resources are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from tether.model import Handle

__all__ = ["FarTerminal", "HasTerminals", "HasTerminalsInside"]


class FarTerminal(Protocol):
    """The terminal of a command that a driver executed elsewhere."""

    def read(self) -> bytes:
        """Wait for what it shows next; empty when the command has ended."""
        ...

    def write(self, data: bytes) -> None:
        """Type something. May be called beside `read`, from another thread."""
        ...

    def resize(self, rows: int, columns: int) -> None:
        """Say how large it is by now."""
        ...

    def exit_code(self) -> int | None:
        """Return how the command ended; None if that is not known."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@runtime_checkable
class HasTerminals(Protocol):
    """A driver that can execute further commands with terminals of their own in its resources."""

    def open_terminal(
        self,
        handle: Handle,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        user: str | None,
        workdir: str | None,
        has_input: bool,
    ) -> FarTerminal:
        """Execute a command with a terminal."""
        ...


@runtime_checkable
class HasTerminalsInside(Protocol):
    """A driver whose `HasInside.inside` is a program that has to be told that there is a terminal."""

    def inside_terminal(self, handle: Handle, argv: Sequence[str]) -> list[str]:
        """Return the command that runs ``argv`` there, with the terminal of this process as its own."""
        ...
