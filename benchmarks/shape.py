"""The least that a spawn of tether's shape can cost: the same processes, messages and records, and nothing else.

A bare Python forks spare processes. Each makes itself a subreaper, enters a cgroup of its own and says so; it is sent argv,
environment and descriptors, executes them, and answers with the pid. One transaction of the ledger comes before that, and one
after. There are no checks, no identities, no guard, no end: what is left out is what tether adds to its shape.
"""

from __future__ import annotations

import marshal
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import tether
from tether.ledger.store import Ledger
from tether.life.managed import new_id
from tether.linux import cgroup
from tether.model import Handle, State

__all__ = ["Shape"]

_SPARES = 2

_FORKER = """
import _socket as socket, gc, marshal, os, select, signal, struct, sys
sys.path.insert(0, sys.argv[1])
from tether.linux.subreaper import become_subreaper

asked = socket.socket(fileno=0)
folder = sys.argv[2]
defaults = [signum for signum in signal.valid_signals() if signum not in (signal.SIGKILL, signal.SIGSTOP)]
signal.signal(signal.SIGCHLD, lambda signum, frame: None)
poll = select.poll()


def hold(channel, tree):
    os.setpgid(0, 0)
    become_subreaper()
    if folder:
        fd = os.open(tree + "/cgroup.procs", os.O_WRONLY)
        os.write(fd, b"0")
        os.close(fd)
    wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write)
    poll.register(wake, select.POLLIN)
    poll.register(channel.fileno(), select.POLLIN)
    channel.send(b"armed")
    poll.poll()
    data, ancillary, _, _ = channel.recvmsg(1 << 20, 64)
    if not data:
        return
    fds = struct.unpack("3i", ancillary[0][2])
    path, argv, env = marshal.loads(data)
    pid = os.posix_spawn(
        path,
        argv,
        env,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(fds)],
        setsid=True,
        setsigmask=[],
        setsigdef=defaults,
    )
    for fd in fds:
        os.close(fd)
    channel.send(b"%d" % pid)
    poll.poll()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def reap(options):
    try:
        while os.waitpid(-1, options)[0]:
            pass
    except ChildProcessError:
        pass


gc.collect()
gc.disable()
gc.freeze()
forked = 0
while asked.recv(1):
    reap(os.WNOHANG)
    forked += 1
    tree = f"{folder}/{forked}"
    if folder:
        os.mkdir(tree)
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        theirs.close()
        asked.close()
        try:
            hold(ours, tree)
        finally:
            os._exit(0)
    ours.close()
    asked.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", theirs.fileno()))])
    theirs.close()
reap(0)
"""


class Shape:
    """A forker and a ledger.

    Args:
        folder: for ledger and logs.
    """

    def __init__(self, folder: Path) -> None:
        self._logs = folder
        self._ledger = Ledger(folder)
        self._cgroup = cgroup.owner_folder(f"shape-{os.getpid()}")
        if self._cgroup is not None and not cgroup.make(self._cgroup):
            self._cgroup = None
        self._asked, theirs = socket.socketpair()
        self._forker = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _FORKER, str(Path(tether.__file__).parents[1]), self._cgroup or ""],
            stdin=theirs.fileno(),
            env={**os.environ, "LD_BIND_NOW": "1"},
        )
        theirs.close()
        self._held: list[socket.socket] = []
        self._asked.send(b"x" * _SPARES)

    def spawn(self, path: bytes, argv: list[bytes]) -> None:
        """Record, execute, record."""
        tag = new_id()
        self._ledger.add_resource(tag, "shape", tag, "process", {"argv": os.fsdecode(b" ".join(argv))}, "kill", 1.0)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        log = os.open(self._logs / tag, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        _, ancillary, _, _ = self._asked.recvmsg(1, 64)
        channel = socket.socket(fileno=struct.unpack("i", ancillary[0][2])[0])
        self._held.append(channel)
        channel.recv(5)
        env = {**os.environb, b"TETHER_RESOURCE": tag.encode()}
        fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("3i", null, log, log))]
        channel.sendmsg([marshal.dumps((path, argv, env))], fds)
        pid = int(channel.recv(20))
        self._asked.send(b"x")
        os.close(null)
        os.close(log)
        handle = Handle("process", tag, {"main": [pid, 0], "log": os.fspath(self._logs / tag)})
        self._ledger.write(tag, 1, State.READY, [("created", ""), ("ready", "")], handle=handle)

    def end_all(self) -> None:
        """End what was spawned: each holder kills its command when its channel is closed."""
        for channel in self._held:
            channel.close()
        self._held.clear()

    def close(self) -> None:
        """End everything."""
        self.end_all()
        self._asked.shutdown(socket.SHUT_WR)
        # The ends of the spares' channels are in flight here, and closed when they are received.
        while received := self._asked.recvmsg(1, 64)[1]:
            os.close(struct.unpack("i", received[0][2])[0])
        self._forker.wait()
        self._asked.close()
        if self._cgroup is not None:
            cgroup.remove(self._cgroup)
        self._ledger.close()
