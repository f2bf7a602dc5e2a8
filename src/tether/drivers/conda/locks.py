"""Who makes an environment, and who uses one: locks of the kernel, which takes them from the dead.

Who makes one holds a lock that stands beside its folder, so that apps with state directories of their own meet there. Who uses one
holds a shared lock on its mark, so that nobody removes it meanwhile. Source: flock(2), proc_locks(5).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tether.errors import StartError
from tether.ledger import place
from tether.model import Progress

__all__ = ["beside", "is_held", "locked", "locked_if_free", "share", "shared"]

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


def beside(prefix: Path) -> Path:
    """Return the lock of a folder, by whatever path that is reached."""
    real = Path(os.path.realpath(prefix))
    return real.parent / f".tether-{hashlib.sha256(os.fsencode(real.name)).hexdigest()[:16]}.lock"


def _take(path: Path, how: int) -> int | None:
    """Open a lock's file and take the lock; None if somebody has it, or had, and removed the file."""
    fd = place.open_private(path, os.O_RDWR)
    try:
        fcntl.flock(fd, how)
        if _is_at(fd, path):
            return fd
    except BlockingIOError:
        pass
    except OSError as error:
        os.close(fd)
        if error.errno in _UNSUPPORTED:
            raise StartError(
                f"the file system of {path.parent} has no locks that processes share ({error.strerror}), so nobody could tell "
                "who makes an environment there; choose a prefix= or a state directory on another"
            ) from error
        raise
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _is_at(fd: int, path: Path) -> bool:
    """Whether a descriptor is of the file that stands at a path now."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _let_go(fd: int, path: Path) -> None:
    # Removed while it is held: whoever waits for it sees that it stands there no more, and takes the next.
    with suppress(OSError):
        path.unlink()
    os.close(fd)


@contextmanager
def locked(path: Path, progress: Progress) -> Iterator[int]:
    """Hold a lock, waiting for whoever has it; its descriptor keeps it also in a child that inherits it.

    Raises:
        StartError: the file system has no such locks.
        OSError: the lock's file can't be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = _take(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if fd is None:
        progress("waiting for another process that is making it")
    while fd is None:
        fd = _take(path, fcntl.LOCK_EX)
    try:
        yield fd
    finally:
        _let_go(fd, path)


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold a lock together with others, waiting for who has it alone. Raises as `locked`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = None
    while fd is None:
        fd = _take(path, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock if nobody has it, and say whether it is held."""
    fd = _take(path, fcntl.LOCK_EX | fcntl.LOCK_NB) if path.parent.is_dir() else None
    if fd is None:
        yield not path.parent.is_dir()
        return
    try:
        yield True
    finally:
        _let_go(fd, path)


def is_held(path: Path) -> bool:
    """Whether somebody whom this process can see holds a lock on a file; only looks, and takes none."""
    try:
        there = path.stat()
        table = Path("/proc/locks").read_text()
    except OSError:
        return False
    # By the inode alone: the device is another one on file systems with several below one number, such as btrfs.
    inode = f":{there.st_ino}"
    return any(word.endswith(inode) for line in table.splitlines() if "->" not in line for word in line.split())


def share(path: Path, how: int = fcntl.LOCK_SH) -> int | None:
    """Take a lock on a file that is there, without waiting: a shared one of who uses it, or an exclusive one of who removes it.

    Returns:
        The descriptor, which holds it; None if somebody else's is in the way, or there is no such file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        # No locks on this file system: what is only to protect others is not worth a refusal.
        return fd
    if _is_at(fd, path):
        return fd
    os.close(fd)
    return None
