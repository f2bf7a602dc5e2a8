"""The shim: the parent of one command and of all that is below it. It ends only when that has ended.

Messages to it: ``spawn`` (once), ``stop``, ``kill``, ``continue``.
Messages from it: ``armed``, ``spawned`` or ``refused``, ``exited`` (the command itself), ``paused``, ``stuck``, ``ended``.
"""

from __future__ import annotations

import _socket as socket
import os
import signal
import struct
import sys
import time

from tether.guard import ending, limits, spawn, wire
from tether.guard.watch import Ready, Watch
from tether.linux import cgroup, members, proc, shm, subreaper, tier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tether.guard.wire import Message

__all__ = ["Shim", "leave_receipt", "listen"]

_ARMED = wire.pack({"armed": tier.SHIM})
_ARMED_PORTABLE = wire.pack({"armed": tier.PORTABLE})


class Stopping:
    """A polite end: the signal, sent again at growing pauses, until the grace is over.

    The first to be asked is the command with its process group. What is left when that group has ended
    (a helper that made a session of its own) is asked in its turn, within the same grace.
    """

    def __init__(self, grace_s: float, signum: int, to_main: bool) -> None:
        now = time.monotonic()
        self.deadline = now + grace_s
        self.signums = (signum, signal.SIGCONT)
        self.to_main = to_main
        self._next = now
        self._pause = limits.POLITE_AGAIN_S
        self._asked_rest = False

    def timeout_s(self) -> float:
        """Until when nothing is to be done."""
        return max(0.0, min(self._next, self.deadline) - time.monotonic())

    def is_due(self, main_ended: bool) -> bool:
        """Whether the signal is to be sent now; what the command leaves behind is asked as soon as it has ended."""
        now = time.monotonic()
        if main_ended and not self._asked_rest:
            self._asked_rest = True
        elif now < self._next:
            return False
        self._next = now + self._pause
        self._pause *= 2
        return True

    def is_over(self) -> bool:
        """Whether the grace is over."""
        return time.monotonic() >= self.deadline


class Shim:
    """One managed process tree.

    Made in the reaper, as a pattern; each fork of the reaper has its copy, and serves.

    Args:
        watch: watches the owner's lifeline.
        report: the socket to the reaper, for receipts.
        reaper_pidfd: the reaper, to be woken should somebody have stopped it; None without pidfds.
        can_subreap: whether the kernel gives the orphans below a process to it.
    """

    def __init__(self, watch: Watch, report: socket.socket, reaper_pidfd: int | None, can_subreap: bool) -> None:
        self._channel: socket.socket | None = None
        self._watch = watch
        self._report = report
        self._reaper_pidfd = reaper_pidfd
        self._reaper_pid = os.getpid()
        self._folder: str | None = None
        self._is_subreaper = can_subreap
        self._tree: ending.Tree | None = None
        self._request: Message = {}
        self._main = 0
        self._main_status: int | None = None
        self._stopping: Stopping | None = None
        self._killing: ending.Killing | None = None
        self._why = "by itself"
        self._keep_until: float | None = None
        self._fence = 1
        self._listener: socket.socket | None = None
        self._shm: set[str] = set()

    # -- saying ----------------------------------------------------------------------------------------------------

    def _say(self, message: Message) -> None:
        if self._channel is not None:
            try:
                wire.send(self._channel, message)
            except OSError:
                # The owner died: the lifeline says so too, and what follows is decided there.
                self._drop_channel()

    def _say_to_reaper(self, message: Message) -> None:
        try:
            self._report.setblocking(False)
            wire.send(self._report, message)
        except OSError:
            # The reaper was killed, or stopped with a full buffer; a sweep will see that the tree has gone.
            return

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._watch.remove(self._channel.fileno())
            self._channel.close()
            self._channel = None

    # -- the loop --------------------------------------------------------------------------------------------------

    def serve(self, channel: socket.socket, folder: str | None) -> None:
        """Be a shim, in a process just forked from the reaper. Returns when its tree has ended, or if there never was one.

        It has a process group of its own: should the reaper be killed while this process is stopped, the group becomes
        an orphan and the kernel wakes it (SIGHUP, which is ignored, and SIGCONT; setpgid(2), POSIX "orphaned process group").

        Args:
            channel: the socket to the owner.
            folder: the cgroup that the command is to be born in, or None.
        """
        try:
            os.setpgid(0, 0)
            if self._is_subreaper:
                subreaper.become_subreaper()
            if folder is not None and cgroup.enter(folder):
                self._folder = folder
            self._channel = channel
            self._watch.begin()
            self._watch.add(channel.fileno())
            channel.sendall(_ARMED if self._is_subreaper else _ARMED_PORTABLE)
        except OSError:
            # The owner ended before it had a use for this one.
            return
        try:
            self._run()
        except BaseException as error:
            # A fault of ours must not free the tree: whatever it was, the tree ends, and the reaper learns of it.
            sys.stderr.write(f"tether-shim {os.getpid()}: {type(error).__name__}: {error}\n")
            _end_all()
            raise

    def _run(self) -> None:
        while True:
            self._heed(self._watch.wait(self._timeout_s()))
            if self._tree is not None:
                self._tree.look()
                if self._tree.gone(self._reap()):
                    return self._finish()
                self._proceed(self._tree)
            elif self._channel is None:
                return None

    def _timeout_s(self) -> float | None:
        if self._tree is None:
            return None
        limit = [] if self._tree.look_s is None else [self._tree.look_s]
        if self._killing is not None:
            limit.append(self._killing.timeout_s())
        elif self._stopping is not None:
            limit.append(self._stopping.timeout_s())
        elif self._keep_until is not None:
            limit.append(max(0.0, self._keep_until - time.monotonic()))
        return min(limit) if limit else None

    def _heed(self, ready: Ready) -> None:
        if self._channel is not None and self._channel.fileno() in ready.fds:
            self._receive(self._channel)
        if ready.owner_died:
            self._owner_died()
        if self._listener is not None and self._listener.fileno() in ready.fds:
            self._meet(self._listener)
        if ready.signals and signal.SIGTERM in ready.signals:
            self._stop("asked by signal", self._request.get("grace", 0.0))
        if ready.signals and signal.SIGUSR1 in ready.signals:
            self._kill("asked by signal")

    def _receive(self, channel: socket.socket) -> None:
        try:
            received = wire.receive(channel)
        except OSError:
            received = None
        if received is None:
            # The owner let go of this tree without ending: as good as dead for it.
            self._owner_died()
            return
        message, fds = received
        if "spawn" in message:
            self._spawn(message["spawn"], fds)
        elif "stop" in message:
            self._stop(message["why"], message["stop"])
        elif "kill" in message:
            self._kill(message["why"])
        elif "continue" in message:
            self._continue_tree()

    # -- starting --------------------------------------------------------------------------------------------------

    def _spawn(self, request: Message, fds: list[int]) -> None:
        try:
            pid = spawn.spawn(request, fds)
        except spawn.SpawnFailed as error:
            self._say({"refused": error.number, "filename": error.filename})
            self._drop_channel()
            return
        self._main = pid
        # The environment is not needed any more, and may be large.
        del request["env"], request["argv"]
        self._request = request
        self._tree = ending.Tree() if self._is_subreaper else self._followed_tree(pid)
        self._say({"spawned": pid})
        if request["on_death"] == "keep":
            self._listener = listen(request["run_dir"], request["tag"])
            self._watch.add(self._listener.fileno())

    def _followed_tree(self, pid: int) -> ending.FollowedTree:
        """On a kernel without subreapers: tell the reaper too by what the tree is recognised, should this process be killed."""
        # It is our child and not waited for: the pid can't be anybody else's yet.
        followed = (pid, proc.start_time(pid) or 0, self._request["tag"], self._request["log"])
        self._say_to_reaper({"followed": followed, "shim": os.getpid()})
        marks = members.Marks([followed[:2]], [followed[2]], log=followed[3], exclude=(os.getpid(), os.getppid()))
        return ending.FollowedTree(marks)

    def _continue_tree(self) -> None:
        if self._tree is not None:
            self._tree.signal((signal.SIGCONT,))

    # -- adoption ------------------------------------------------------------------------------------------------------

    def _meet(self, listener: socket.socket) -> None:
        """Hear somebody who wants to adopt this tree; only this user, only without a living owner, only with a newer fence."""
        fd, _ = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - the heavier module socket adds accept()
        line = socket.socket(fileno=fd)
        line.settimeout(limits.MEETING_S)
        try:
            received = wire.receive(line) if _is_same_user(line) else None
            if received is None or len(received[1]) == 0:
                line.close()
                return
            message, fds = received
            if self._channel is not None or message["adopt"] <= self._fence or self._is_ending():
                wire.send(line, {"refused": "it has an owner, or is ending"})
                line.close()
                return
            self._fence = message["adopt"]
            wire.send(line, {"adopted": self._main, "exited": self._main_status})
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            # Whoever that was, it went away or does not speak our language.
            line.close()
            return
        line.settimeout(None)
        self._keep_until = None
        self._channel = line
        self._watch.follow(fds[0], fds[1] if len(fds) > 1 else None)
        self._watch.add(line.fileno())

    def _is_ending(self) -> bool:
        return self._stopping is not None or self._killing is not None

    # -- ending ----------------------------------------------------------------------------------------------------

    def _owner_died(self) -> None:
        self._drop_channel()
        self._continue_reaper()
        if self._tree is None or self._killing is not None:
            return
        on_death = self._request["on_death"]
        if on_death == "kill":
            # At once means at once, also in the middle of a polite end.
            self._kill("its owner died")
        elif self._stopping is not None:
            return
        elif on_death == "keep":
            self._keep_until = time.monotonic() + self._request["keep_for"]
            self._say_to_reaper({"kept": os.getpid()})
        else:
            self._stop("its owner died", self._request["grace"])

    def _continue_reaper(self) -> None:
        """Wake the reaper, should somebody have stopped it: it has an estate to settle."""
        try:
            if self._reaper_pidfd is not None:
                signal.pidfd_send_signal(self._reaper_pidfd, signal.SIGCONT)
            elif os.getppid() == self._reaper_pid:
                # Our parent, so that the pid is its own; were it gone, we would have another.
                os.kill(self._reaper_pid, signal.SIGCONT)
        except ProcessLookupError:
            # Killed: its other children are ours to do without.
            return

    def _stop(self, why: str, grace_s: float) -> None:
        if self._tree is None or self._killing is not None:
            return
        if self._stopping is None:
            self._why = why
            to_main = self._request["stop_to"] == "main"
            self._stopping = Stopping(grace_s, self._request["stop_signal"], to_main)
        else:
            # Asked again: the shorter grace counts.
            self._stopping.deadline = min(self._stopping.deadline, time.monotonic() + grace_s)

    def _kill(self, why: str) -> None:
        if self._tree is None or self._killing is not None:
            return
        if self._stopping is None:
            self._why = why
        self._shm |= shm.made_by(self._tree.pids, self._request["since"])
        self._killing = ending.Killing(self._tree, self._folder, self._say_stuck)

    def _say_stuck(self, pids: list[int]) -> None:
        self._say({"stuck": [(pid, proc.wait_channel(pid)) for pid in pids]})

    def _proceed(self, tree: ending.Tree) -> None:
        if self._killing is None and self._keep_until is not None and time.monotonic() >= self._keep_until:
            self._keep_until = None
            self._stop("nobody adopted it in time", self._request["grace"])
        if self._killing is None and self._stopping is not None:
            if self._stopping.is_over():
                self._kill(self._why)
            elif self._stopping.is_due(self._main_status is not None):
                self._ask(tree, self._stopping)
        if self._killing is not None:
            self._killing.proceed()

    def _ask(self, tree: ending.Tree, stopping: Stopping) -> None:
        self._shm |= shm.made_by(tree.pids, self._request["since"])
        if self._main_status is not None:
            tree.signal(stopping.signums)
        elif stopping.to_main:
            for signum in stopping.signums:
                os.kill(self._main, signum)
        else:
            tree.signal_group(self._main, stopping.signums)

    def _reap(self) -> bool:
        """Wait for what has ended; True if the kernel says that there is nobody left to wait for (ECHILD)."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return True
            if not pid:
                return False
            if os.WIFSTOPPED(status):
                if pid == self._main:
                    self._say({"paused": os.WSTOPSIG(status)})
            elif pid == self._main:
                self._main_status = os.waitstatus_to_exitcode(status)
                self._say({"exited": self._main_status, "ending": self._is_ending()})

    def _finish(self) -> None:
        removed = shm.remove_unused(self._shm)
        how = "in order" if self._killing is None else "by force"
        proof = "ECHILD" if self._is_subreaper else "seen gone twice"
        receipt: Message = {
            "tag": self._request["tag"],
            "status": self._main_status,
            "why": self._why,
            "said": f"shim {os.getpid()} ended it {how}: {proof}",
            "shm": removed,
        }
        self._say({"ended": receipt})
        self._say_to_reaper({"ended": receipt})
        if self._listener is not None:
            leave_receipt(self._request["run_dir"], receipt)


def _is_same_user(line: socket.socket) -> bool:
    _, uid, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(uid == os.getuid())


def listen(run_dir: bytes, tag: str) -> socket.socket:
    """Listen on the socket by which a kept tree is adopted, which only its user can open."""
    folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    listener = socket.socket(socket.AF_UNIX)
    try:
        # By way of the folder's descriptor, since the name of a socket has room for 107 bytes only; unix(7).
        listener.bind(f"/proc/self/fd/{folder}/{tag}.sock")
        listener.listen()
    finally:
        os.umask(mask)
        os.close(folder)
    return listener


def leave_receipt(run_dir: bytes, receipt: Message) -> None:
    """Write how a kept tree ended, for whoever asks later; its socket goes."""
    path = os.path.join(run_dir, os.fsencode(receipt["tag"]))
    try:
        fd = os.open(path + b".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.write(fd, wire.pack(receipt))
        os.close(fd)
        os.rename(path + b".new", path + b".ended")
        os.unlink(path + b".sock")
    except OSError as error:
        sys.stderr.write(f"tether-shim {os.getpid()}: the receipt of {receipt['tag']} could not be written: {error}\n")


def _end_all() -> None:
    members_of = ending.Tree()
    while True:
        members_of.signal((signal.SIGKILL,))
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
