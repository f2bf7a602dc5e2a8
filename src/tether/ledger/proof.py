"""Proof that somebody lives: a lock on a file of his own, which the kernel lets go when he dies, whoever looks from wherever.

A pid can be judged in its own namespaces only. A lock of flock(2) is of the kernel's open file: it is seen from every
namespace, and on most network file systems from other hosts.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from tether.errors import StateDirError
from tether.ledger import place

__all__ = ["Proof", "is_held", "path"]


def path(state_dir: Path, who: str) -> Path:
    """Return the file that an owner (by its id), or who settles estates, holds for as long as it lives."""
    return state_dir / "run" / f"{who}.lives"


class Proof:
    """Held from now on until it is dropped, or this process dies.

    A fork must forget it, or the lock would outlive its holder in the fork; programs that are executed do not inherit it.

    Raises:
        StateDirError: the file can't be made or locked; somebody else can't have it, its name is nobody else's.
    """

    def __init__(self, state_dir: Path, who: str) -> None:
        self._path = path(state_dir, who)
        self._fd = -1
        try:
            self._fd = place.open_private(self._path, os.O_RDWR)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.forget()
            raise StateDirError(
                f"{self._path} can't be locked: {error}; so nobody could tell that this process lives, and nothing was "
                f"started. Set {place.VARIABLE} to a directory on a file system with locks"
            ) from error

    @property
    def fd(self) -> int:
        """The descriptor that holds the lock."""
        return self._fd

    def forget(self) -> None:
        """Close the file and leave it: what holds it otherwise goes on to hold it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def drop(self) -> None:
        """Say that one lives no more."""
        if self._fd >= 0:
            with suppress(OSError):
                self._path.unlink()
        self.forget()


def is_held(file: Path) -> bool | None:
    """Whether somebody holds this file, wherever he is; None if that can't be known, for instance without such a file."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(fd)
