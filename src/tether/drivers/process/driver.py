"""Process trees of this machine, each held by a shim."""

from __future__ import annotations

import os
import signal
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tether.drivers import Context
from tether.drivers.process import request
from tether.errors import Busy, DeadlineExceeded, Gone, StartError, exec_error
from tether.guard import wire
from tether.guard.launch import ShimChannel
from tether.ledger import logs
from tether.life.machine import Ended, MainExited, Paused, Stuck
from tether.linux import faults, identity, members, proc, signals, tier, tree
from tether.linux.sockets import free_port
from tether.model import Handle, Identity, OnDeath, Progress, State, Status, Usage
from tether.protocol import PluginExecutionMode
from tether.spec import Process

__all__ = ["ProcessDriver"]

_TICK_HZ = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_STUCK_S = 10.0
_MEETING_S = 5.0
_SHIM_TRIES = 3
_VERSION = 1


@dataclass
class _Held:
    """A tree that this process holds the line to."""

    channel: ShimChannel
    streams: dict[str, Any] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)


class ProcessDriver:
    """See `tether.drivers.Driver`. The handle has the identities of shim and command, the port, the log and the cgroup."""

    kind: ClassVar[str] = "process"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.SUBPROCESS})

    def __init__(self, context: Context) -> None:
        self._context = context
        self._held: dict[str, _Held] = {}

    # -- start ---------------------------------------------------------------------------------------------------------

    def start(self, spec: Process, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Execute the command under a shim that said that it holds the lifeline.

        Raises:
            ExecError: as subprocess would raise it; also a StartError.
            StartError: the shim was lost.
            ReaperError: there is no shim to guard it.

        Crash:
            The shim ends with the lifeline. Before the command was executed there is nothing else.
        """
        port = (spec.port or free_port()) if spec.uses_port else None
        log = self._log(tag) if "log" in (spec.stdout, spec.stderr) else None
        streams = request.Streams(spec, log)
        try:
            asked = request.build(spec, tag, on_death, port, log, self._context.terminal(), self._run_dir)
            channel, main = self._execute(asked, [*streams.fds, *spec.pass_fds], spec.name or str(spec.argv[0]))
        except BaseException:
            streams.close()
            raise
        streams.close_theirs()
        data = {
            "boot": identity.boot_id(),
            "shim": [channel.pid, channel.start],
            "main": main,
            "port": port,
            "log": None if log is None else str(log),
            "cgroup": channel.cgroup,
            "tier": channel.tier,
            "uid": os.getuid(),
        }
        handle = Handle(self.kind, tag, data, _VERSION)
        self._hold(channel, handle, streams.ours)
        return handle

    def _hold(self, channel: ShimChannel, handle: Handle, streams: dict[str, Any]) -> None:
        held = self._held[handle.tag] = _Held(channel, streams)
        self._context.watch(channel.socket, lambda: self._receive(held, handle))

    def _execute(self, asked: dict[str, Any], fds: list[int], name: str) -> tuple[ShimChannel, list[int]]:
        """Have a shim execute the command; another one, should somebody have killed the first."""
        for _ in range(_SHIM_TRIES):
            with self._context.shim() as channel:
                faults.point("start.armed")
                try:
                    answer = channel.spawn(asked, fds)
                except OSError:
                    answer = None
            if answer is not None and "spawned" in answer:
                return channel, [answer["spawned"], answer["start"]]
            channel.socket.close()
            if answer is not None:
                raise exec_error(answer["refused"], os.fsdecode(answer["filename"]), name)
            # If it had come as far as executing it, the reaper ends that first.
            self._context.await_orphans(channel.pid)
        raise StartError(
            f"cannot start {name}: {_SHIM_TRIES} shims were killed before it ran; try again", resource=name
        )

    def _receive(self, held: _Held, handle: Handle) -> bool:
        """Read one message of a shim; False when there will be no more. Runs in the owner's watching thread."""
        try:
            received = wire.receive(held.channel.socket)
        except OSError:
            received = None
        if received is None:
            if not held.ended.is_set():
                threading.Thread(
                    target=self._end_lost, args=(held, handle), name="tether-end-lost", daemon=True
                ).start()
            return False
        message = received[0]
        if "exited" in message:
            self._context.emit(handle.tag, MainExited(message["exited"], message["ending"]))
        elif "paused" in message:
            self._context.emit(handle.tag, Paused(message["paused"]))
        elif "stuck" in message:
            self._context.emit(handle.tag, Stuck(_describe_stuck(message["stuck"])))
        elif "ended" in message:
            self._ended(held, handle.tag, outcome(message["ended"]))
        return True

    def _ended(self, held: _Held, tag: str, event: Ended) -> None:
        # The socket stays open until the shim closes its end: `_receive` must see the end of it.
        self._held.pop(tag, None)
        self._context.emit(tag, event)
        held.ended.set()

    def _end_lost(self, held: _Held, handle: Handle) -> None:
        """End what a shim left that was killed: the reaper inherited it, and what it can't know of is looked for here."""
        self._context.await_orphans(held.channel.pid)
        proof = self._end_rest(handle)
        self._ended(held, handle.tag, Ended(None, "its shim was killed, so its tree was ended", proof=proof))

    # -- look ----------------------------------------------------------------------------------------------------------

    def find(self, tag: str) -> list[Handle]:
        """Look for processes that carry the tag, or have its log as their output."""
        log = self._log(tag)
        found = members.find(members.Marks(tags=[tag], log=str(log)))
        if not found:
            return []
        data = {"boot": identity.boot_id(), "shim": None, "main": list(found[0]), "log": str(log), "uid": os.getuid()}
        return [Handle(self.kind, tag, data, _VERSION)]

    def inspect(self, handle: Handle) -> Status:
        """Look at the shim; where that has gone, at what is left."""
        marks = self._marks(handle)
        if _is_alive(handle, "shim"):
            below = tree.descendants(handle.data["shim"][0])
            if below:
                return Status(State.READY, pids=_main_first(handle, below))
            # It is just about to end itself; or it can't see its tree by lineage, on a kernel without subreapers.
            marks.exclude.add(handle.data["shim"][0])
        left = [] if _is_of_earlier_boot(handle) else members.find(marks)
        if left:
            return Status(State.READY, reason="its shim has gone", pids=tuple(pid for pid, _ in left))
        return Status(State.GONE, reason="seen to be gone")

    def is_guarded(self, handle: Handle) -> bool:
        """Whether its shim lives."""
        return _is_alive(handle, "shim")

    def usage(self, handle: Handle) -> Usage:
        """Add up the live members."""
        stats = [stat for pid in self.inspect(handle).pids if (stat := proc.read_stat(pid)) is not None]
        return Usage(len(stats), sum(stat.cpu for stat in stats) / _TICK_HZ, sum(stat.rss for stat in stats) * _PAGE)

    def port(self, handle: Handle) -> int | None:
        """Return the port that ``{port}`` stood for."""
        return handle.data.get("port")

    def log_path(self, handle: Handle) -> Path | None:
        """Return the log file."""
        return Path(handle.data["log"]) if handle.data.get("log") else None

    def streams(self, handle: Handle) -> dict[str, Any]:
        """Return the pipes."""
        held = self._held.get(handle.tag)
        return held.streams if held else {}

    # -- adoption ------------------------------------------------------------------------------------------------------

    def adopt(self, handle: Handle, fence: int) -> int | None:
        """Give the shim of a kept tree this process's lifeline. See `tether.drivers.CanAdopt`."""
        line = socket.socket(socket.AF_UNIX)
        folder = os.open(self._run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        owner = [self._context.lifeline(), *([os.pidfd_open(os.getpid())] if tier.has_pidfd() else [])]
        try:
            line.settimeout(_MEETING_S)
            line.connect(f"/proc/self/fd/{folder}/{handle.tag}.sock")
            wire.send(line, {"adopt": fence}, owner)
            received = wire.receive(line)
        except OSError as error:
            line.close()
            raise Gone(f"resource {handle.tag} can't be adopted: its shim does not answer: {error}") from error
        finally:
            os.close(folder)
            for fd in owner[1:]:
                os.close(fd)
        if received is None or "adopted" not in received[0]:
            line.close()
            raise Busy(f"resource {handle.tag} can't be adopted: it has an owner, or is ending")
        line.settimeout(None)
        pid, start = handle.data["shim"]
        channel = ShimChannel(line, pid, handle.data["cgroup"], handle.data["tier"], start)
        self._hold(channel, handle, {})
        exited: int | None = received[0]["exited"]
        return exited

    def receipt(self, handle: Handle) -> Ended | None:
        """Read what the shim of a kept tree left at its end. See `tether.drivers.CanAdopt`."""
        try:
            return outcome(wire.unpack((self._run_dir / f"{handle.tag}.ended").read_bytes()))
        except (OSError, ValueError, EOFError, KeyError):
            return None

    @property
    def _run_dir(self) -> Path:
        return self._context.state_dir / "run"

    # -- end -----------------------------------------------------------------------------------------------------------

    def stop(self, handle: Handle, grace: float) -> None:
        """Ask the shim to end its tree within ``grace`` seconds; from another process too.

        Raises:
            DeadlineExceeded: members are stuck in the kernel; the shim goes on, and the tree ends when they do.
            PermissionError: the tree is another user's.
        """
        self._end(handle, grace, {"stop": grace, "why": "stopped by its owner"}, signal.SIGTERM)

    def destroy(self, handle: Handle) -> None:
        """Have the shim kill its tree; from another process too. Raises as `stop`."""
        self._end(handle, 0.0, {"kill": True, "why": "killed by its owner"}, signal.SIGUSR1)

    def resume(self, handle: Handle) -> None:
        """Continue a command that somebody stopped (SIGCONT)."""
        held = self._held.get(handle.tag)
        if held is not None:
            held.channel.request({"continue": True})

    def _end(self, handle: Handle, grace: float, message: dict[str, Any], signum: int) -> None:
        held = self._held.get(handle.tag)
        if held is not None:
            held.channel.request(message)
            if not held.ended.wait(grace + _STUCK_S):
                raise DeadlineExceeded(_still_there(handle))
            return
        if _is_of_earlier_boot(handle):
            return
        if handle.data["shim"] is not None:
            self._end_shim(handle, grace, signum)
        self._end_rest(handle)

    def _end_shim(self, handle: Handle, grace: float, signum: int) -> None:
        """Signal a shim whose line another process holds, or nobody; when it has gone, its tree has."""
        pid, start = handle.data["shim"]
        for each in (signal.SIGCONT, signum):
            signals.send(pid, start, each)
        if signals.wait_end(pid, start, grace):
            return
        signals.send(pid, start, signal.SIGUSR1)
        if not signals.wait_end(pid, start, _STUCK_S):
            raise DeadlineExceeded(_still_there(handle))

    def marks(self, handle: Handle | None, tag: str) -> members.Marks | None:
        """Say by what its members are recognised. See `tether.drivers.HasMarks`."""
        if handle is None:
            return members.Marks(tags=[tag], log=str(self._log(tag)))
        return None if _is_of_earlier_boot(handle) else self._marks(handle)

    def _marks(self, handle: Handle) -> members.Marks:
        data = handle.data
        return members.Marks(
            [tuple(data["main"])], [handle.tag], folder=data.get("cgroup"), log=data.get("log"), uid=data["uid"]
        )

    def _end_rest(self, handle: Handle) -> str:
        """End what is left without a shim, as far as it can be recognised, and return the proof."""
        if members.end(self._marks(handle), _STUCK_S):
            raise DeadlineExceeded(_still_there(handle))
        return "nothing of it is found any more"

    def _log(self, tag: str) -> Path:
        return logs.path(self._context.state_dir, tag)


def outcome(receipt: dict[str, Any]) -> Ended:
    """Turn what a shim says at its end into an event."""
    asked = receipt["why"] == "asked by signal"
    why = "ended by itself" if receipt["why"] == "by itself" else receipt["why"]
    proof = receipt["said"]
    if receipt["shm"]:
        proof += f"; removed {', '.join(receipt['shm'])}"
    return Ended(receipt["status"], why, asked=asked, proof=proof)


def _describe_stuck(stuck: list[tuple[int, str]]) -> str:
    where = ", ".join(f"pid {pid} in {channel or 'the kernel'}" for pid, channel in stuck)
    return f"killed and still there: {where}; it is settled when the kernel lets go"


def _still_there(handle: Handle) -> str:
    return (
        f"resource {handle.tag} was killed and is still there, probably in an uninterruptible sleep; it stays on record, "
        f"see 'tether events'"
    )


def _is_of_earlier_boot(handle: Handle) -> bool:
    return bool(handle.data["boot"] != identity.boot_id())


def _is_alive(handle: Handle, who: str) -> bool:
    pair = handle.data.get(who)
    return pair is not None and identity.is_alive(Identity(handle.data["boot"], *pair))


def _main_first(handle: Handle, below: list[int]) -> tuple[int, ...]:
    main = handle.data["main"][0]
    return tuple([pid for pid in below if pid == main] + [pid for pid in below if pid != main])
