"""``tether run``: run a command so that nothing of it outlives this one, and otherwise as if tether was not there."""

from __future__ import annotations

from tether.cli import asked, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]


def run(argv: Sequence[str]) -> int:
    """Run a command; when it ends, or this process does by whatever cause, nothing of it is left."""
    given = asked.read(argv)
    from tether.cli.execute import execute

    text.in_own_words()
    return execute(given.command, given.name, given.grace_s, port=given.port, with_parent=given.with_parent)
