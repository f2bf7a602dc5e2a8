"""How ``tether run`` runs its command: it is started, put on record, and then the guard takes this process's place."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Sequence

from tether.errors import ExecError, TetherError
from tether.linux import descriptors, tier
from tether.owner.owner import Owner
from tether.spec import Process

__all__ = ["execute"]

_NOT_FOUND = 127
_NOT_PERMITTED = 126
_FAILED = 125


def execute(
    command: Sequence[str],
    name: str | None,
    grace_s: float,
    *,
    port: int | None = None,
    with_parent: bool | None = None,
) -> int:
    """Run a command, and return an exit code only if it never ran, or has ended before the guard could take over.

    Args:
        command: the program and its arguments, as they are.
        name: what it is called in ``tether ps``; None for the program's name.
        grace_s: seconds from SIGTERM to the end by force.
        port: with one, ``{port}`` in the words is replaced by it, 0 for a free one; with None they are left as they are.
        with_parent: whether the command ends with the process that started this one; None for where standard input is no
            terminal, unless a hang-up is ignored, as nohup(1) has it.
    """
    # Before any thread begins, so that signals wait for who takes over.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    code = _run(command, name, grace_s, port, with_parent, mask)
    return _end_by(-code) if code < 0 else code


def _run(
    command: Sequence[str],
    name: str | None,
    grace_s: float,
    port: int | None,
    with_parent: bool | None,
    mask: set[signal.Signals | int],
) -> int:
    parent = _open_parent() if (_is_clients() if with_parent is None else with_parent) else None
    passed = descriptors.inheritable()
    words = list(command) if port is not None else [word.replace("{port}", "{{port}}") for word in command]
    called = name or _name_of(command[0].rpartition("/")[2])
    try:
        owner = Owner(called, on_death="kill")
    except TetherError as error:
        return _failed(error)
    try:
        owner.share_terminal(mask=sum(1 << (each - 1) for each in mask))
        spec = Process(
            words,
            name=called,
            stdin="inherit",
            stdout="inherit",
            stderr="inherit",
            stop_grace=grace_s,
            port=port or None,
            pass_fds=passed,
        )
        started = owner.start(spec)
        owner.hand_over(started, grace_s=grace_s, parent=parent)
        # It had ended by then.
        code = started.wait()
        return _FAILED if code is None else code
    except ExecError as error:
        if error.filename is None:
            return _failed(error)
        sys.stderr.write(f"tether run: {error}\n")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_PERMITTED
    except TetherError as error:
        return _failed(error)
    finally:
        owner.shutdown()


def _failed(error: TetherError) -> int:
    sys.stderr.write(f"tether run: {error}\n")
    return _FAILED


def _end_by(signum: int) -> int:
    """End by a signal, as the command did; its core is not written twice."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if signum not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
    return 128 + signum


def _name_of(text: str) -> str:
    # isalnum() alone takes letters of every alphabet.
    cleaned = "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "-" for each in text)
    return cleaned.lstrip("._-")[:128] or "command"


def _is_clients() -> bool:
    """Whether a program started this one, and nobody at a terminal, or for later: nohup(1) takes the terminal away as well."""
    return not os.isatty(0) and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN


def _open_parent() -> int | None:
    """Open a pidfd of who started this process; if that has died meanwhile, somebody else is the parent by now."""
    parent = os.getppid()
    if parent <= 1 or not tier.has_pidfd():
        return None
    try:
        fd = os.pidfd_open(parent)
    except OSError:
        return None
    if os.getppid() == parent:
        return fd
    os.close(fd)
    return None
