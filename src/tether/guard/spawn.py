"""How a shim executes a command."""

from __future__ import annotations

import errno
import fcntl
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tether.guard.wire import Message

__all__ = ["SpawnFailed", "spawn"]


class SpawnFailed(Exception):
    """The kernel refused. Attributes: number (errno) and filename (bytes), as in subprocess's exceptions."""

    def __init__(self, number: int, filename: bytes) -> None:
        super().__init__(number, filename)
        self.number = number
        self.filename = filename


_SIGNALS = tuple(int(signum) for signum in signal.valid_signals() if signum not in (signal.SIGKILL, signal.SIGSTOP))


def _placed(fds: list[int], targets: list[int]) -> list[tuple[int, int, int]]:
    """File actions that put ``fds`` at ``targets``; first out of the way where a target would overwrite a source."""
    above = max(targets)
    if min(fds) <= above:
        sources = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above + 1) for fd in fds]
        for fd in fds:
            os.close(fd)
        fds[:] = sources
    return [(os.POSIX_SPAWN_DUP2, source, target) for source, target in zip(fds, targets, strict=True)]


def _execute(request: Message, actions: list[tuple[int, int, int]]) -> int:
    argv: list[bytes] = request["argv"]
    env: dict[bytes, bytes] = request["env"]
    defaults = [signum for signum in _SIGNALS if signum not in request["ignored"]]
    group: int = request["group"]
    refused = errno.ENOENT
    for path in request["programs"]:
        try:
            if group:
                return os.posix_spawn(
                    path, argv, env, file_actions=actions, setpgroup=group, setsigmask=[], setsigdef=defaults
                )
            return os.posix_spawn(path, argv, env, file_actions=actions, setsid=True, setsigmask=[], setsigdef=defaults)
        except OSError as error:
            # A file that may not be executed tells more than the absence of others on the path.
            if error.errno not in (errno.ENOENT, errno.ENOTDIR) or refused == errno.ENOENT:
                refused = error.errno or errno.EIO
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                break
    raise SpawnFailed(refused, argv[0])


def spawn(request: Message, fds: list[int]) -> int:
    """Start the command of ``request`` and return its pid. Its descriptors are closed here, whatever happens.

    The command leads a new session, or joins the process group ``request["group"]`` if that is not 0.
    The shim is single-threaded and otherwise without a task, so it changes its own working directory and umask rather
    than to run code between fork and exec; posix_spawn(3) reports the errno of the exec itself.

    Raises:
        SpawnFailed: there is no such directory or program, or the kernel refused it.
    """
    try:
        if request["cwd"] is not None:
            try:
                os.chdir(request["cwd"])
            except OSError as error:
                raise SpawnFailed(error.errno or errno.EIO, request["cwd"]) from None
        if request["umask"] is not None:
            os.umask(request["umask"])
        return _execute(request, _placed(fds, request["targets"]))
    finally:
        for fd in fds:
            os.close(fd)
        # Keep no file system busy.
        os.chdir("/")
