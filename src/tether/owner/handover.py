"""``tether run`` becomes the guard once its command runs: the place of this process is taken by a small program.

It keeps the pid, and with it the owner's identity; the lifeline; and the lock that proves that the owner lives. When it ends,
the hub completes the record from the shim's receipt.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tether.errors import ReaperError
from tether.guard import binary
from tether.life.driver import HasLine
from tether.life.managed import Managed

if TYPE_CHECKING:
    from tether.guard.line import Guard
    from tether.ledger.proof import Proof
    from tether.ledger.writer import Writer

__all__ = ["hand_over"]


def hand_over(
    managed: Managed, guard: Guard, record: Writer, proof: Proof, *, grace_s: float, parent: int | None
) -> None:
    """Execute the guard in this process's place; returns only if the resource has ended by now.

    Args:
        managed: the resource.
        guard: its owner's.
        record: its owner's.
        proof: its owner's.
        grace_s: seconds from the polite signal to the end by force.
        parent: a pidfd; when that process ends, the command is ended too.

    Raises:
        ReaperError: there is nothing to hand over to.

    Crash:
        Before the program is executed the owner dies with this process, and its shims end their trees.
    """
    lifeline, control = guard.hand_over()
    # From here on nobody reads the line, so this is what was heard.
    handle = managed.handle
    if managed.state.is_final or handle is None or not isinstance(managed.driver, HasLine):
        return
    line = managed.driver.line(handle)
    if line is None:
        raise ReaperError(f"resource {managed.name} has no line that could be handed over")
    record.flush()
    kept = [line, control, lifeline, proof.fd, *([] if parent is None else [parent])]
    for fd in kept:
        os.set_inheritable(fd, True)
    status = managed.life.exit_code
    words = [str(line), str(control), str(int(grace_s * 1000)), str(-1 if parent is None else parent)]
    words += [str(handle.data["main"][0]), *([] if status is None else [str(status)])]
    os.execv(binary.path(), ["tether-guard", "run", *words])
