"""The owner's side: start a reaper, and get shims from it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.errors import ReaperError
from tether.linux import proc, signals, tier
from tether.reaper import limits, wire
from tether.reaper.main import CONTROL_FD, LIFELINE_FD

__all__ = ["Reaper", "ShimChannel"]

_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from tether.reaper.main import main; main()"


@dataclass
class ShimChannel:
    """A shim that waits for its command, and the socket to it.

    Attributes:
        socket: from this process to the shim.
        pid: the shim.
        start: when it started, in clock ticks since boot.
        cgroup: the folder that its command will be born in, or None.
        tier: how it will hold the tree; known once it said that it is armed.
    """

    socket: socket.socket
    pid: int
    start: int
    cgroup: str | None
    tier: str = ""

    def request(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """Send a message; a shim that somebody stopped is woken first. A shim that has gone gets nothing."""
        with contextlib.suppress(PermissionError):
            signals.send(self.pid, self.start, signal.SIGCONT)
        with contextlib.suppress(OSError):
            wire.send(self.socket, message, fds or [])


class Reaper:
    """The owner's line to its reaper process.

    Attributes:
        pid: of the reaper process.
        tier: how its shims hold their trees.
        forked: the pids of its shims.
        control: the socket to it.

    Args:
        owner: the owner's id.
        state_dir: where the ledger and the reaper's own log are.
        environ: the environment for the reaper (what it needs to reach services when it settles an estate).
        cgroup: the folder for this owner's trees, or None.
        new_session: False to stay in the session of this process, for a command that needs its terminal.

    Raises:
        ReaperError: it did not start, or did not say that it is armed.

    Crash:
        The reaper ends when its lifeline does, so that a crash of this process at any point leaves nothing.
    """

    def __init__(
        self,
        owner: str,
        state_dir: Path,
        environ: dict[str, str],
        cgroup: str | None,
        *,
        new_session: bool = True,
    ) -> None:
        self.forked: set[int] = set()
        self._spares: queue.SimpleQueue[ShimChannel | None] = queue.SimpleQueue()
        lifeline, self._lifeline = os.pipe()
        self.control, theirs = socket.socketpair()
        try:
            self.pid = self._spawn(state_dir, environ, theirs.fileno(), lifeline, new_session)
        except OSError as error:
            self.close()
            raise ReaperError(f"cannot start a reaper with {sys.executable!r}: {error}; nothing was started") from error
        finally:
            os.close(lifeline)
            theirs.close()
        # It is our child and not waited for: the pid is its own.
        self._start = proc.start_time(self.pid) or 0
        self.tier = self._arm(
            {
                "owner": owner,
                "owner_pid": os.getpid(),
                "state_dir": str(state_dir),
                "cgroup": cgroup,
                "path": sys.path,
            }
        )

    def _spawn(
        self, state_dir: Path, environ: dict[str, str], control: int, lifeline: int, new_session: bool
    ) -> int:
        if not sys.executable:
            raise FileNotFoundError("sys.executable is empty: this interpreter is embedded in another program")
        log = os.open(state_dir / "reaper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        # Sources are moved above the targets, so that no dup2 in the child overwrites one that is still needed.
        high = [_above(fd) for fd in (control, lifeline, log, null)]
        try:
            return os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-c", _PROGRAM, str(Path(__file__).parents[2])],
                environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, high[3], 0),
                    (os.POSIX_SPAWN_DUP2, high[3], 1),
                    (os.POSIX_SPAWN_DUP2, high[2], 2),
                    (os.POSIX_SPAWN_DUP2, high[0], CONTROL_FD),
                    (os.POSIX_SPAWN_DUP2, high[1], LIFELINE_FD),
                ],
                setsigmask=[],
                setsigdef=set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP},
                **({"setsid": True} if new_session else {"setpgroup": 0}),
            )
        finally:
            for fd in (log, null, *high):
                os.close(fd)

    def _arm(self, config: dict[str, Any]) -> str:
        self.control.settimeout(limits.HELLO_S)
        try:
            wire.send(self.control, config)
            wire.send(self.control, {"fork": True})
            hello = wire.receive(self.control)
        except OSError as error:
            self.close()
            raise ReaperError(f"the reaper (pid {self.pid}) did not say that it is armed: {error}; see reaper.log") from error
        if hello is None or "ready" not in hello[0]:
            self.close()
            raise ReaperError(f"the reaper (pid {self.pid}) ended before it was armed; see reaper.log")
        self.control.settimeout(None)
        return str(hello[0]["ready"])

    # -- what the owner's watching thread does -----------------------------------------------------------------------

    def receive(self) -> dict[str, Any] | None:
        """Read one message; a new shim is set aside for `shim`. None when the reaper has gone."""
        try:
            received = wire.receive(self.control)
        except OSError:
            received = None
        if received is None:
            self._spares.put(None)
            return None
        message, fds = received
        if "shim" in message:
            channel = ShimChannel(socket.socket(fileno=fds[0]), message["shim"], message["start"], message["cgroup"])
            self.forked.add(channel.pid)
            self._spares.put(channel)
        return message

    # -- what the owner's other threads do ---------------------------------------------------------------------------

    def shim(self) -> ShimChannel:
        """Return a shim that said that it holds the lifeline, and have the reaper fork the next one meanwhile.

        Raises:
            ReaperError: the reaper has gone, or no shim said so in time.
        """
        for _ in range(3):
            try:
                channel = self._spares.get(timeout=limits.HELLO_S)
            except queue.Empty:
                break
            if channel is None:
                # For the next thread that waits here.
                self._spares.put(None)
                break
            with contextlib.suppress(OSError):
                wire.send(self.control, {"fork": True})
            if self._is_armed(channel):
                return channel
            channel.socket.close()
        raise ReaperError(f"the reaper (pid {self.pid}) has no shim that is armed; nothing was started, try again")

    def _is_armed(self, channel: ShimChannel) -> bool:
        channel.socket.settimeout(limits.HELLO_S)
        try:
            hello = wire.receive(channel.socket)
        except OSError:
            return False
        channel.socket.settimeout(None)
        if hello is None or "armed" not in hello[0]:
            return False
        channel.tier = tier.CGROUP if channel.cgroup and hello[0]["armed"] == tier.SHIM else hello[0]["armed"]
        return True

    def say_bye(self) -> None:
        """Tell the reaper that the owner ends in order: nothing is left to settle."""
        with contextlib.suppress(OSError):
            wire.send(self.control, {"bye": True})

    def close(self) -> None:
        """Close this process's ends, the lifeline among them. In a fork of the owner this harms nothing."""
        with contextlib.suppress(OSError):
            os.close(self._lifeline)
        self.control.close()
        while not self._spares.empty():
            spare = self._spares.get()
            if spare is not None:
                spare.socket.close()

    def wait(self, timeout_s: float) -> None:
        """Wait for the reaper process, which ends when its last shim has, and collect its exit status."""
        if signals.wait_end(self.pid, self._start, timeout_s):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)


def _above(fd: int) -> int:


    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LIFELINE_FD + 1)
