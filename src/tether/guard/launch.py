"""The owner's side: start a hub, and get shims from it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.errors import ReaperError
from tether.guard import binary, wire
from tether.guard.wire import Kind, Message
from tether.ledger import place
from tether.linux import members, signals, tier

__all__ = ["Hub", "ShimChannel"]

_SPARES = 2
"""Shims that wait for a command, so that starts in a row do not wait for forks; some 30 kB each."""

_HELLO_S = 20.0
"""How long an owner waits for the hub or a shim to say that it is armed."""

_FORK = wire.encode(Kind.FORK, {})

_SOON_S = 0.5
"""After so long without a shim the hub is woken, should somebody have stopped it."""

_TRIES = _SPARES + 1
"""So many shims may be refused or killed before a start gives up: those that were asked for in advance, and its own."""

_SETTLE = (
    "import json, runpy, sys; more = json.loads(sys.argv[1]); sys.path += [each for each in more if each not in sys.path]; "
    "sys.argv[1:2] = []; runpy.run_module('tether.estate', run_name='__main__', alter_sys=True)"
)
"""Isolated, with the standard library first: an app's folder may have a module that is called like one of its."""


@dataclass
class ShimChannel:
    """A shim, and the socket to it.

    Attributes:
        socket: from this process to the shim.
        pid, start: its identity.
        cgroup: the folder that its command will be born in, or None.
        tier: how it will hold the tree.
    """

    socket: socket.socket
    pid: int
    start: int
    cgroup: str | None
    tier: str

    def ask(self, request: dict[str, Any], fds: list[int]) -> bool:
        """Ask the shim to execute its command; False if the shim was lost."""
        try:
            wire.send(self.socket, Kind.SPAWN, request, fds)
        except OSError:
            return False
        return True

    def answer(self) -> Message | None:
        """Wait for its answer to that; None if the shim was lost."""
        try:
            received = wire.receive(self.socket)
        except OSError:
            return None
        return None if received is None else received[0]

    def request(self, kind: Kind, fields: dict[str, Any] | None = None) -> None:
        """Send a message; a shim that somebody stopped is woken first. A shim that has gone gets nothing."""
        with contextlib.suppress(OSError):
            signals.send(self.pid, self.start, signal.SIGCONT)
        with contextlib.suppress(OSError):
            wire.send(self.socket, kind, fields)


def _settle_command(state_dir: Path, owner: str) -> list[str]:
    """The command that settles what an owner left; none where this program is no Python that could be started again."""
    if not sys.executable or getattr(sys, "frozen", False):
        return []
    return [sys.executable, "-I", "-c", _SETTLE, json.dumps([each for each in sys.path if each]), str(state_dir), owner]


class Hub:
    """The owner's line to its hub process.

    Attributes:
        pid, start: the identity of the hub process.
        tier: how its shims hold their trees.
        forked: the pids of its shims.
        is_deaf: it has closed the line on which shims are asked for, so that no start comes of it any more.
        control: the socket to it.

    Args:
        owner: the owner's id.
        state_dir: where the ledger and the guard's own log are.
        cgroup: the folder for this owner's trees, or None.
        lifeline: the read end of the owner's lifeline.
        new_session: False to stay in the session of this process, for commands that need its terminal.

    Raises:
        ReaperError: it did not start, or did not say that it is armed.

    Crash:
        The hub ends when its lifeline does, so that a crash of this process at any point leaves nothing.
    """

    def __init__(
        self, owner: str, state_dir: Path, cgroup: str | None, lifeline: int, *, new_session: bool = True
    ) -> None:
        self.forked: set[int] = set()
        self.is_deaf = False
        self._surplus = 0
        self._next = threading.Lock()
        self._counting = threading.RLock()
        try:
            self.control, control = socket.socketpair()
        except OSError as error:
            raise _not_started(error) from error
        try:
            self._shims, shims = socket.socketpair()
        except OSError as error:
            self.control.close()
            control.close()
            raise _not_started(error) from error
        try:
            _execute(state_dir, [lifeline, control.fileno(), shims.fileno()], new_session)
        except OSError as error:
            self.close()
            raise _not_started(error) from error
        finally:
            control.close()
            shims.close()
        ready = self._arm(
            {
                "owner": owner,
                "state_dir": str(state_dir),
                "cgroup": cgroup,
                "settle": _settle_command(state_dir, owner),
            }
        )
        self.pid = ready.number("pid") or 0
        self.start = ready.number("start") or 0
        self.tier = ready.text("tier")

    def _arm(self, config: dict[str, Any]) -> Message:
        self.control.settimeout(_HELLO_S)
        self._shims.settimeout(_SOON_S)
        try:
            wire.send(self.control, Kind.CONFIG, config)
            for _ in range(_SPARES):
                self.prepare()
            hello = wire.receive(self.control)
        except OSError as error:
            self.close()
            raise ReaperError(f"the guard did not say that it is armed: {error}; see guard.log") from error
        if hello is None or hello[0].kind != Kind.READY:
            self.close()
            raise ReaperError("the guard ended before it was armed; see guard.log in the state directory")
        self.control.settimeout(None)
        return hello[0]

    def receive(self) -> Message | None:
        """Read one message of the hub itself; None when it has gone. For the owner's watching thread."""
        try:
            received = wire.receive(self.control)
        except OSError:
            return None
        return received[0] if received else None

    def wake(self) -> None:
        """Continue the hub, should somebody have stopped it."""
        with contextlib.suppress(OSError):
            signals.send(self.pid, self.start, signal.SIGCONT)

    def prepare(self) -> None:
        """Have the hub fork a shim for the next start, so that no start waits for a fork."""
        with self._counting:
            if self._surplus > 0:
                self._surplus -= 1
                return
        self.fork(1)

    def fork(self, count: int) -> None:
        """Have the hub fork so many shims, for as many starts that follow at once."""
        with contextlib.suppress(OSError):
            self._shims.sendall(_FORK * count, socket.MSG_NOSIGNAL)

    def leave(self, count: int) -> None:
        """So many of those that were forked were not used: the next starts use them, and have none forked."""
        with self._counting:
            self._surplus += count

    def shim(self) -> ShimChannel:
        """Return a shim that said that it holds the lifeline. Ask for the next one with `prepare`.

        Raises:
            ReaperError: the hub has gone, or no shim said so in time.
        """
        number = errno.ESRCH
        for _ in range(_TRIES):
            received = self._hear_shim()
            if received is None:
                break
            message, fds = received
            if message.kind == Kind.SHIM and fds:
                return self._channel(message, fds[0])
            # What was refused may be long ago, when it was asked for in advance: by now there may be room again.
            self.fork(1)
            number = message.number("errno") or errno.EMFILE
        if received is None or number == errno.ESRCH:
            # The hub has gone, or shims were killed before they said anything.
            raise ReaperError(f"the guard (pid {self.pid}) has no shim that is armed; nothing was started, try again")
        raise ReaperError(f"no shim can be had now: {os.strerror(number)}; nothing was started, try again")

    def _hear_shim(self) -> tuple[Message, list[int]] | None:
        with self._next:
            try:
                return self._received()
            except TimeoutError:
                # Somebody may have stopped it; or a start that was interrupted took a shim and asked for no other.
                self.wake()
                self.prepare()
            except OSError:
                return None
            try:
                self._shims.settimeout(_HELLO_S)
                return self._received()
            except OSError:
                return None
            finally:
                # The watching thread may have seen the hub's end meanwhile, and closed it.
                with contextlib.suppress(OSError):
                    self._shims.settimeout(_SOON_S)

    def _received(self) -> tuple[Message, list[int]] | None:
        received = wire.receive(self._shims)
        self.is_deaf = received is None
        return received

    def _channel(self, message: Message, fd: int) -> ShimChannel:
        pid = message.number("pid") or 0
        self.forked.add(pid)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, _above_standard(fd))
        # The app may have set one for all sockets.
        sock.settimeout(None)
        return ShimChannel(
            sock, pid, message.number("start") or 0, message.text("cgroup") or None, message.text("tier")
        )

    def say_bye(self) -> None:
        """Tell the hub that the owner ends in order: nothing is left to settle."""
        with contextlib.suppress(OSError):
            wire.send(self.control, Kind.BYE)

    def release(self) -> None:
        """Close the socket for shims; whoever watches ``control`` closes that."""
        # The spare shims' ends may be in flight in this socket; closing it closes them too.
        self._shims.close()

    def close(self) -> None:
        """Close all of this process's ends. In a fork of the owner this harms nothing."""
        self.release()
        self.control.close()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the hub process, which ends when its last shim has; False if it goes on after that time."""
        return signals.wait_end(self.pid, self.start, timeout_s)


def _not_started(error: OSError) -> ReaperError:
    return ReaperError(f"cannot start the guard: {error}; nothing was started, try again")


def _above_standard(fd: int) -> int:
    """Keep our own out of the places of standard input, output and error, should the app have closed these."""
    if fd > 2:
        return fd
    above = int(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))
    os.close(fd)
    return above


def _execute(state_dir: Path, lines: list[int], new_session: bool) -> None:
    """Start the program. What is started forks the hub and ends at once, so that the hub is no child of ours. Raises OSError."""
    program = binary.path()
    log = place.open_private(state_dir / "guard.log", os.O_WRONLY | os.O_APPEND)
    opened = [os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC), log]
    # A fork of this process may hold a copy of the lifeline's other end, but its pidfd is this process's alone.
    if tier.has_pidfd():
        opened.append(os.pidfd_open(os.getpid()))
    targets = [opened[0], opened[0], log, *lines, *opened[2:]]
    # Its own environment carries no tag: it is no stray of its owner's.
    environ = {name: value for name, value in os.environ.items() if name not in (members.OWNER, members.RESOURCE)}
    try:
        # Sources are moved above the targets, so that no dup2 in the child overwrites one that is still needed.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, len(targets)) for fd in targets]
        opened += high
        actions: list[Any] = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(high)]
        pid = os.posix_spawn(
            program,
            ["tether-guard", "hub", *(["pidfd"] if len(targets) > 6 else [])],
            environ,
            file_actions=actions,
            setsigmask=[],
            setsigdef=set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP},
            **({"setsid": True} if new_session else {"setpgroup": 0}),
        )
    finally:
        for fd in opened:
            os.close(fd)
    with contextlib.suppress(ChildProcessError):
        # It has all but ended. waitpid() would be gevent's where that has taken its place, which may wait for ever for a child that
        # was quicker than its watcher.
        os.waitid(os.P_PID, pid, os.WEXITED)
