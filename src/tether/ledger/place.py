"""The state directory: where it is, and that it is the user's alone."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from tether.errors import StateDirError

__all__ = ["VARIABLE", "key", "open_private", "prepare", "state_dir"]

VARIABLE = "TETHER_STATE_DIR"


def state_dir(given: str | os.PathLike[str] | None = None) -> Path:
    """Return where state is kept: what was given, else ``TETHER_STATE_DIR``, else the platform's user state directory."""
    chosen = given if given is not None else os.environ.get(VARIABLE)
    if chosen:
        return Path(os.path.abspath(os.fspath(chosen)))
    import platformdirs

    return Path(platformdirs.user_state_dir("tether", appauthor=False))


_OURS = frozenset({"ledger.db", "logs", "run"})


def _check_own(folder: Path) -> None:
    status = folder.lstat()
    if stat.S_ISLNK(status.st_mode) or not stat.S_ISDIR(status.st_mode):
        raise StateDirError(
            f"state directory {folder} is not a directory of its own (a link or a file is in its place); "
            f"remove it, or set {VARIABLE} to another"
        )
    if status.st_uid != os.geteuid():
        raise StateDirError(
            f"state directory {folder} belongs to user {status.st_uid}, not to {os.geteuid()}; "
            f"set {VARIABLE} to one of your own"
        )


def _check_ours(folder: Path) -> None:
    """Refuse a folder that somebody else uses: to make it private would take it from them, and not to would show our logs."""
    _check_own(folder)
    mode = stat.S_IMODE(folder.lstat().st_mode)
    if not mode & 0o077:
        return
    with os.scandir(folder) as entries:
        names = {entry.name for entry in entries}
    # A sticky bit is for many users, as /tmp has it, whatever was left in it.
    if mode & stat.S_ISVTX or (names and not names >= _OURS):
        raise StateDirError(
            f"state directory {folder} is not tether's: others can read it, and it is in use for other things; "
            f"set {VARIABLE} to a folder of its own, for instance {folder / 'tether'}"
        )
    folder.chmod(0o700)


def prepare(folder: Path) -> Path:
    """Make the state directory and its parts, with mode 0700 whatever the umask, and return it.

    A folder that is there already is made private only if it is empty or tether's; one that others use is left as it is.

    Raises:
        StateDirError: it can't be made or written, or is somebody else's; nothing was started.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        _check_ours(folder)
        for each in (folder / "logs", folder / "run"):
            each.mkdir(mode=0o700, exist_ok=True)
            _check_own(each)
            if stat.S_IMODE(each.lstat().st_mode) & 0o077:
                each.chmod(0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} is not writable")
    except FileExistsError as error:
        raise StateDirError(
            f"state directory {folder}: {error}; remove what is in its place, or set {VARIABLE}"
        ) from error
    except OSError as error:
        raise StateDirError(
            f"state directory {folder} can't be used: {error}; nothing was started. Set {VARIABLE} to a directory that "
            f"you can write"
        ) from error
    return folder


def open_private(path: str | Path, flags: int) -> int:
    """Open a file of the state directory, made with mode 0600; a symbolic link in its place is refused. Raises OSError."""
    fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if stat.S_IMODE(os.fstat(fd).st_mode) & 0o077:
        os.fchmod(fd, 0o600)
    return fd


def write_private(path: Path, data: bytes) -> None:
    """Write a whole file of the state directory, of mode 0600. Raises OSError."""
    fd = open_private(path, os.O_WRONLY | os.O_TRUNC)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def key(folder: Path) -> bytes:
    """Return the secret of this state directory, made when it is first asked for: 32 bytes.

    Fingerprints of specs are made with it, so that values of environments can't be guessed from the ledger.
    """
    path = folder / "key"
    fd = open_private(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        secret = os.read(fd, 32)
        if len(secret) < 32:
            secret = os.urandom(32)
            os.pwrite(fd, secret, 0)
        return secret
    finally:
        os.close(fd)
