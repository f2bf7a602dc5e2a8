"""What an owner stands on before it starts anything: ledger, record, the proof that it lives, guard. All of it, or nothing."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tether.errors import LedgerError, ReaperError, TetherError
from tether.guard.line import Guard
from tether.ledger.proof import Proof
from tether.ledger.store import Ledger
from tether.ledger.writer import Writer
from tether.linux import descriptors, identity

__all__ = ["Ground", "lay"]

_NEEDED = 8
"""So many descriptors are open at once while it is laid; a test counts them."""


class Ground(NamedTuple):
    """What an owner has from its beginning to its end.

    Attributes:
        ledger: what it asks.
        record: what it writes.
        proof: its lock, by which others know that it lives.
        guard: what ends everything should it die.
    """

    ledger: Ledger
    record: Writer
    proof: Proof
    guard: Guard


def lay(owner: str, name: str, state_dir: Path, note: Callable[[str, str], None]) -> Ground:
    """Open everything for an owner, and put it on record.

    Args:
        owner: its id.
        name: its name.
        state_dir: the state directory, which `place.prepare` made.
        note: told of what happens to the guard.

    Raises:
        StateDirError, LedgerError: the state directory can't be used, or its ledger not be opened.
        ReaperError: this process can open no more files, or the kernel refused something else that a guard needs.
            Whatever is raised, nothing stays open, and no file that says that the owner lives.

    Crash:
        The lock goes with the process; whoever sweeps next finds an owner without resources, and ends it on record.
    """
    with _explained(name), ExitStack() as undo:
        me = identity.identify()
        if me is None:
            raise TetherError("/proc is not mounted: tether can't tell who this process is, and starts nothing")
        ledger = Ledger(state_dir)
        undo.callback(ledger.close)
        record = Writer(state_dir, owner)
        undo.callback(record.close)
        proof = Proof(state_dir, owner)
        undo.callback(proof.drop)
        guard = Guard(owner, name, state_dir, note)
        undo.callback(guard.disarm, orderly=True, empty=True)
        record.add_owner(name, me, guard.cgroup)
        undo.pop_all()
    return Ground(ledger, record, proof, guard)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, LedgerError) as error:
        if _is_short(error):
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            raise ReaperError(
                f"owner {name} can't begin: no more files can be opened ({error}); nothing was started. This process may have "
                f"{most} (ulimit -n): close some, or allow it more"
            ) from error
        if isinstance(error, TetherError):
            raise
        raise ReaperError(f"owner {name} can't begin: {error}; nothing was started, try again") from error


def _is_short(error: BaseException) -> bool:
    """Whether files are what is missing. SQLite does not say why it could not open one."""
    cause = error.__cause__ if isinstance(error, TetherError) else error
    if isinstance(cause, OSError):
        return cause.errno in (errno.EMFILE, errno.ENFILE)
    return not descriptors.can_open(_NEEDED)
