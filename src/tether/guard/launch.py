"""The owner's side: start a reaper, and get shims from it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.errors import ReaperError
from tether.guard import limits, wire
from tether.guard.hub import SHIMS_FD
from tether.ledger import place
from tether.linux import proc, signals, tier

__all__ = ["Reaper", "ShimChannel"]

_SPARES = 2
"""Shims that wait for a command, so that starts in a row do not wait for forks; half a megabyte each."""

_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from tether.guard.hub import main; main()"


@dataclass
class ShimChannel:
    """A shim that waits for its command, and the socket to it.

    Attributes:
        socket: from this process to the shim.
        pid: the shim.
        cgroup: the folder that its command will be born in, or None.
        tier: how it will hold the tree; known once it said that it is armed.
        start: when it started, in clock ticks since boot; known once it has a command.
    """

    socket: socket.socket
    pid: int
    cgroup: str | None
    tier: str = ""
    start: int = 0

    def spawn(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any] | None:
        """Have the shim execute its command, and return its answer; None if the shim was lost. Raises OSError.

        The shim's start time is read while it works: that it answers afterwards proves that the pid was still its own.
        The command's start time is read when it has answered: that the shim is its parent proves the pid. A command that
        has ended by then gets 0, which is nobody's.
        """
        wire.send(self.socket, {"spawn": request}, fds)
        self.start = proc.start_time(self.pid) or 0
        received = wire.receive(self.socket)
        if received is None:
            return None
        answer = received[0]
        if "spawned" in answer:
            stat = proc.read_stat(answer["spawned"])
            answer["start"] = stat.start if stat is not None and stat.ppid == self.pid else 0
        return answer

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
        lifeline: the read end of the owner's lifeline.
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
        lifeline: int,
        *,
        new_session: bool = True,
    ) -> None:
        self.forked: set[int] = set()
        self._next = threading.Lock()
        self.control, control = socket.socketpair()
        self._shims, shims = socket.socketpair()
        try:
            self.pid = self._spawn(state_dir, environ, [lifeline, control.fileno(), shims.fileno()], new_session)
        except OSError as error:
            self.close()
            raise ReaperError(f"cannot start a reaper with {sys.executable!r}: {error}; nothing was started") from error
        finally:
            control.close()
            shims.close()
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

    def _spawn(self, state_dir: Path, environ: dict[str, str], lines: list[int], new_session: bool) -> int:
        if not sys.executable:
            raise FileNotFoundError("sys.executable is empty: this interpreter is embedded in another program")
        log = place.open_private(state_dir / "reaper.log", os.O_WRONLY | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        # Sources are moved above the targets, so that no dup2 in the child overwrites one that is still needed.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SHIMS_FD + 1) for fd in (null, null, log, *lines)]
        try:
            return os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-c", _PROGRAM, str(Path(__file__).parents[2])],
                # Else each shim would look up the same functions again, in pages that it then no longer shares; ld.so(8).
                {**environ, "LD_BIND_NOW": "1"},
                file_actions=[(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(high)],
                setsigmask=[],
                setsigdef=set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP},
                **({"setsid": True} if new_session else {"setpgroup": 0}),
            )
        finally:
            for fd in (log, null, *high):
                os.close(fd)

    def _arm(self, config: dict[str, Any]) -> str:
        self.control.settimeout(limits.HELLO_S)
        self._shims.settimeout(limits.HELLO_S)
        try:
            wire.send(self.control, config)
            for _ in range(_SPARES):
                self.prepare()
            hello = wire.receive(self.control)
        except OSError as error:
            self.close()
            raise ReaperError(
                f"the reaper (pid {self.pid}) did not say that it is armed: {error}; see reaper.log"
            ) from error
        if hello is None or "ready" not in hello[0]:
            self.close()
            raise ReaperError(f"the reaper (pid {self.pid}) ended before it was armed; see reaper.log")
        self.control.settimeout(None)
        return str(hello[0]["ready"])

    def receive(self) -> dict[str, Any] | None:
        """Read one message of the reaper itself; None when it has gone. For the owner's watching thread."""
        try:
            received = wire.receive(self.control)
        except OSError:
            return None
        return received[0] if received else None

    def prepare(self) -> None:
        """Have the reaper fork a shim for the next start, so that no start waits for a fork."""
        with contextlib.suppress(OSError):
            wire.send(self._shims, {"fork": True})

    def shim(self) -> ShimChannel:
        """Return a shim that said that it holds the lifeline. Ask for the next one with `prepare`.

        Raises:
            ReaperError: the reaper has gone, or no shim said so in time.
        """
        for _ in range(3):
            channel = self._receive_shim()
            if channel is None:
                break
            if self._is_armed(channel):
                return channel
            # It was killed while it waited.
            channel.socket.close()
            self.prepare()
        raise ReaperError(f"the reaper (pid {self.pid}) has no shim that is armed; nothing was started, try again")

    def _receive_shim(self) -> ShimChannel | None:
        with self._next:
            try:
                received = wire.receive(self._shims)
            except OSError:
                return None
        if received is None:
            return None
        message, fds = received
        if "refused" in message or not fds:
            # For the next start: by then there may be room again.
            self.prepare()
            number = message.get("refused", errno.EMFILE)
            raise ReaperError(f"no shim can be had now: {os.strerror(number)}; nothing was started, try again")
        self.forked.add(message["shim"])
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fds[0])
        return ShimChannel(sock, message["shim"], message["cgroup"])

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

    def release(self) -> None:
        """Close the socket for shims; whoever watches ``control`` closes that."""
        # The spare shims' ends may be in flight in this socket; closing it closes them too.
        self._shims.close()

    def close(self) -> None:
        """Close all of this process's ends. In a fork of the owner this harms nothing."""
        self.release()
        self.control.close()

    def wait(self, timeout_s: float) -> None:
        """Wait for the reaper process, which ends when its last shim has, and collect its exit status."""
        if signals.wait_end(self.pid, self._start, timeout_s):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
