"""The guards of dead owners. One that somebody stopped does not hear that its owner has died, and stays for ever."""

from __future__ import annotations

import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from tether.estate import receipts
from tether.linux import proc, signals

__all__ = ["wake"]


def wake(state_dir: Path, owners: Collection[str]) -> None:
    """Continue the hubs and shims of owners whose estate is settled, should they be stopped: they end by themselves then.

    Recognised by the file of receipts that they hold open, which is their owner's alone. Other users' can't be looked at.
    """
    files = {identity for owner in owners if (identity := _identity(receipts.path(state_dir, owner))) is not None}
    if not files:
        return
    for stat in proc.all_stats():
        if stat.state == "T" and stat.name.startswith(b"tether-") and _holds(stat.pid, files):
            with suppress(PermissionError):
                signals.send(stat.pid, stat.start, signal.SIGCONT)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _holds(pid: int, files: Collection[tuple[int, int]]) -> bool:
    try:
        held = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    return any(_identity(each) in files for each in held)
