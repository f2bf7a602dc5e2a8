"""How the shim of a kept tree gets another owner."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from tether.errors import Busy, Gone
from tether.guard import wire
from tether.guard.launch import ShimChannel
from tether.guard.wire import Kind
from tether.linux import signals, tier
from tether.model import Handle

__all__ = ["meet"]

_MEETING_S = 5.0


def meet(run_dir: Path, handle: Handle, fence: int, lifeline: int) -> tuple[ShimChannel, int | None]:
    """Give a shim the lifeline of this process.

    Args:
        run_dir: where its socket is, which only its user can open.
        handle: of the tree.
        fence: newer than any before.
        lifeline: the descriptor that ends with this process.

    Returns:
        The line to it, and the exit code of its command if that has ended.

    Raises:
        Gone: it does not answer.
        Busy: it has an owner, or is ending.
    """
    line = socket.socket(socket.AF_UNIX)
    life = handle.data.get("life", 1)
    folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    owner = [lifeline, *([os.pidfd_open(os.getpid())] if tier.has_pidfd() else [])]
    pid, start = handle.data["shim"][:2]
    try:
        # Somebody may have stopped it.
        signals.send(pid, start, signal.SIGCONT)
        line.settimeout(_MEETING_S)
        line.connect(f"/proc/self/fd/{folder}/{handle.tag}.{life}.sock")
        wire.send(line, Kind.ADOPT, {"fence": fence, "life": life}, owner)
        received = wire.receive(line)
    except OSError as error:
        line.close()
        raise Gone(f"resource {handle.tag} can't be adopted: its shim does not answer: {error}") from error
    finally:
        os.close(folder)
        for fd in owner[1:]:
            os.close(fd)
    if received is None or received[0].kind != Kind.ADOPTED:
        line.close()
        raise Busy(f"resource {handle.tag} can't be adopted: it has an owner, or is ending")
    line.settimeout(None)
    channel = ShimChannel(line, pid, start, handle.data["cgroup"], handle.data["tier"])
    return channel, received[0].number("status")
