"""Who settles an estate: one at a time, and somebody else should that one die or be stopped.

A claim stands in the ledger as ``boot:pid:start:namespace:number``. The number is of one sweep: two threads of one process
are two settlers.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tether.errors import StateDirError
from tether.ledger import proof
from tether.ledger.proof import Proof
from tether.linux import identity, proc, whereabouts

__all__ = ["Claim", "is_claimed"]

_mine: set[str] = set()
"""The numbers of the sweeps that this process makes now."""


class Claim:
    """One settler, which proves that it lives while it settles. A context manager."""

    def __init__(self, state_dir: Path) -> None:
        self._number = os.urandom(8).hex()
        self._proof: Proof | None = None
        me = identity.identify()
        here = whereabouts.here()
        pid, start = (me.pid, me.start) if me else (os.getpid(), 0)
        self.text = f"{here.boot}:{pid}:{start}:{here.pid_ns.replace(':', '')}:{self._number}"
        # Only who looks from another namespace needs the file.
        with suppress(StateDirError):
            self._proof = Proof(state_dir, f"settler-{self._number}")

    def __enter__(self) -> Self:
        _mine.add(self._number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _mine.discard(self._number)
        if self._proof is not None:
            self._proof.drop()


def is_claimed(settler: str | None, state_dir: Path) -> bool:
    """Whether somebody settles an estate now, goes on with it, and lives. ``settler`` is as recorded."""
    if settler is None:
        return False
    try:
        boot, pid_text, start_text, *more = settler.split(":")
        pid, start = int(pid_text), int(start_text)
    except ValueError:
        return False
    namespace, number = more if len(more) == 2 else ("", "")
    here = whereabouts.here()
    if boot != here.boot or (namespace and here.pid_ns and namespace != here.pid_ns.replace(":", "")):
        return proof.is_held(proof.path(state_dir, f"settler-{number}")) is True
    if pid == os.getpid():
        return number in _mine
    stat = proc.read_stat(pid)
    # One that is stopped does not go on. Should it be continued, its fences are old by then.
    return stat is not None and stat.start == start and stat.running and stat.state not in "Tt"
