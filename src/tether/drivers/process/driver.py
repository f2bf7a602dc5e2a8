"""Process trees of this machine, each held by a shim."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from tether import threads
from tether.drivers import Context
from tether.drivers.process import adoption, receipts, refused, request
from tether.drivers.process.capping import Capping
from tether.drivers.process.held import Held
from tether.drivers.process.receipts import outcome
from tether.drivers.process.streams import Streams
from tether.errors import DeadlineExceeded, DriverUnavailable, GuardLost, NotCreated, SpecError, TetherError, exec_error
from tether.guard.launch import ShimChannel
from tether.guard.line import Shim
from tether.guard.wire import Kind
from tether.ledger import logs
from tether.life.machine import Ended, Event
from tether.life.steps import Steps, alone
from tether.linux import cgroup, faults, identity, members, proc, signals, tree
from tether.model import Handle, Identity, OnDeath, Progress, State, Status, Usage
from tether.protocol import PluginExecutionMode
from tether.spec import Process

__all__ = ["ProcessDriver"]

_log = logging.getLogger("tether")

_TICK_HZ, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_STUCK_S = 10.0
_AGAIN_S = 1.0
_VERSION = 2


class ProcessDriver:
    """See `tether.drivers.Driver`. The handle has the identities of shim and command, the port, the log and the cgroup."""

    kind: ClassVar[str] = "process"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.SUBPROCESS})

    def __init__(self, context: Context) -> None:
        self._context = context
        self._held: dict[str, Held] = {}
        self._streams: dict[str, dict[str, Any]] = {}
        self._reserved: dict[str, tuple[Shim, Handle]] = {}
        self._capping = Capping(context.watch)
        self._run_dir = context.state_dir / "run"

    # -- start ---------------------------------------------------------------------------------------------------------

    def reserve(self, spec: Process, tag: str, life: int, former: Handle | None = None) -> Handle:
        """Take a shim that said that it holds the lifeline. See `tether.drivers.HasReserve`.

        Raises:
            ReaperError: there is no shim to guard it.
            NotCreated: limits were asked for that can't be set here.
        """
        shim = self._context.shim(in_session=spec.terminal == "share")
        channel = shim.channel
        try:
            self._limit(spec, channel)
            port = request.port(spec, None if former is None else former.data.get("port"))
        except BaseException:
            channel.socket.close()
            self._context.prepare(shim)
            raise
        data = {
            "boot": identity.boot_id(),
            "shim": [channel.pid, channel.start],
            "main": None,
            "port": port,
            "log": str(self._log(tag)) if request.is_logged(spec) else None,
            "error_log": str(logs.of_stream(self._log(tag), "stderr")) if spec.stderr == "own-log" else None,
            "log_max": spec.log_max,
            "cgroup": channel.cgroup,
            "tier": channel.tier,
            "uid": os.getuid(),
            "life": life,
        }
        handle = Handle(self.kind, tag, data, _VERSION)
        self._reserved[tag] = shim, handle
        return handle

    def check(self, spec: Process) -> None:
        """See that the command and its directory are there. See `tether.drivers.CanCheck`."""
        name = spec.name or spec.default_name
        try:
            request.check(spec)
        except OSError as error:
            attribute = "cwd" if error.filename == request.folder(spec) else ""
            raise exec_error(error.errno or 0, os.fsdecode(error.filename), name, attribute=attribute) from None

    def release(self, tag: str) -> None:
        """Let go of a shim that is not needed after all. See `tether.drivers.HasReserve`."""
        reserved = self._reserved.pop(tag, None)
        if reserved is not None:
            reserved[0].channel.socket.close()
            self._context.prepare(reserved[0])

    @staticmethod
    def _limit(spec: Process, channel: ShimChannel) -> None:
        if spec.memory is None and spec.cpus is None:
            return
        missing = cgroup.limit(channel.cgroup, memory=spec.memory, cpus=spec.cpus)
        if missing:
            raise NotCreated(
                f"cannot start {spec.name or spec.default_name}: memory= and cpus= can't be set here: {missing}; "
                "nothing was started. 'tether doctor' says what this machine offers",
                resource=spec.name or "",
            )

    def start(self, spec: Process, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Execute the command under a shim that said that it holds the lifeline. Raises as `starting`."""
        return alone(self.starting(spec, tag, on_death, progress))

    def starting(self, spec: Process, tag: str, on_death: OnDeath, progress: Progress) -> Steps[Handle]:
        """As `start`, in steps: once the shim was asked, others can be. See `tether.life.driver.HasSteps`.

        Raises:
            ExecError: as subprocess would raise it; also a StartError.
            GuardLost: somebody killed the shim; what it may have started was ended.
            ReaperError: there is no shim to guard it.

        Crash:
            The shim ends with the lifeline. Before the command was executed there is nothing else.
        """
        if tag not in self._reserved:
            self.reserve(spec, tag, 1)
        shim, handle = self._reserved.pop(tag)
        name = spec.name or spec.default_name
        streams = main = None
        try:
            log = handle.data["log"]
            streams = Streams(spec, log)
            asked = request.build(
                *(spec, tag, handle.data["life"], on_death, handle.data["port"], log),
                *(self._context.terminal(), str(self._run_dir), (shim.born, shim.now), streams.targets),
            )
            faults.point("start.armed")
            was_asked = shim.channel.ask(asked, streams.fds)
            yield
            main = self._hear_main(spec, shim, was_asked, asked, handle)
            streams.close_theirs()
            handle = Handle(self.kind, tag, {**handle.data, "main": main}, _VERSION)
            self._streams[tag] = streams.ours
            self._hold(shim.channel, handle)
        except BaseException as error:
            if streams is not None:
                streams.close()
            self._streams.pop(tag, None)
            self._held.pop(tag, None)
            # Interrupted, or where nobody can watch it, it may run already, and be one to be kept.
            shim.channel.request(Kind.KILL, {"why": "its start was interrupted"})
            # It ends by itself when nobody holds the line to it.
            shim.channel.socket.close()
            if main is not None:
                signals.wait_end(shim.channel.pid, shim.channel.start, _STUCK_S)
            if isinstance(error, OSError) and not isinstance(error, TetherError):
                raise exec_error(error.errno or 0, str(error.filename or name), name) from None
            raise
        finally:
            # Only now: before, the two would share the processor.
            self._context.prepare(shim)
        return handle

    def _hold(self, channel: ShimChannel, handle: Handle) -> None:
        held = self._held[handle.tag] = Held(channel)
        most: int | None = handle.data.get("log_max")
        for log in self.log_paths(handle):
            if most is not None:
                # First: it may have ended before this thread goes on.
                self._capping.begin(log.name, log, most)
        self._context.watch(channel.socket, lambda: self._receive(held, handle))

    def _hear_main(
        self, spec: Process, shim: Shim, was_asked: bool, asked: dict[str, Any], handle: Handle
    ) -> list[int]:
        """Wait until a shim has executed the command, and return who that is."""
        name = spec.name or spec.default_name
        answer = shim.channel.answer() if was_asked else None
        if answer is None or answer.kind not in (Kind.SPAWNED, Kind.REFUSED):
            # If it had come as far as executing it, that is ended first: by the hub, and by what marks it.
            self._context.await_orphans(shim.channel.pid)
            self._end_rest(handle)
            raise GuardLost(f"cannot start {name}: its shim was killed before it ran; try again", resource=name)
        if answer.kind != Kind.SPAWNED:
            raise refused.error(spec, asked, answer.number("errno") or 0, answer.number("to") or 0, name)
        return [answer.number("pid") or 0, answer.number("start") or 0, answer.number("inode") or 0]

    def _receive(self, held: Held, handle: Handle) -> bool:
        """Read what a shim says; False when there will be no more. Runs in the owner's watching thread."""
        try:
            messages = held.incoming.read()
        except OSError:
            messages = None
        if messages is None:
            if not held.ended:
                work = partial(self._end_lost, held, handle)
                if not threads.begin(work, "tether-end-lost"):
                    work()
            return False
        events = [event for message in messages for event in held.events(message)]
        if any(isinstance(event, Ended) for event in events):
            # Nothing comes after that.
            self._ended(held, handle, *events)
            return False
        if events:
            self._context.emit(handle.tag, *events)
        return True

    def _ended(self, held: Held, handle: Handle, *events: Event) -> None:
        self._held.pop(handle.tag, None)
        for log in self.log_paths(handle):
            self._capping.end(log.name)
        self._context.emit(handle.tag, *events)
        held.end()

    def _end_lost(self, held: Held, handle: Handle) -> None:
        """End what a shim left that was killed: the hub inherited it, and what that can't know of is looked for here."""
        while True:
            try:
                self._end_of_lost(held, handle)
                return
            except (OSError, DeadlineExceeded) as error:
                # What can't be looked at, for want of descriptors, or is stuck has not ended: that is said when it has.
                _log.warning("%s: its shim was killed, and its tree can't be ended yet: %s", handle.tag, error)
                time.sleep(_AGAIN_S)

    def _end_of_lost(self, held: Held, handle: Handle) -> None:
        signals.wait_end(held.channel.pid, held.channel.start, _STUCK_S)
        said = receipts.of_life(self._context.state_dir, self._context.owner, handle.tag, handle.data.get("life", 1))
        if said is not None:
            # It had only lost its line to us.
            self._ended(held, handle, outcome(said))
            return
        self._context.await_orphans(held.channel.pid)
        proof = self._end_rest(handle)
        self._ended(held, handle, Ended(None, "its shim was killed, so its tree was ended", proof=proof))

    def close(self) -> None:
        """Rotate logs no more. See `tether.drivers.HasConnections`."""
        self._capping.close()

    # -- look ----------------------------------------------------------------------------------------------------------

    def find(self, tag: str) -> list[Handle]:
        """Look for processes that carry the tag, or have its log as their output."""
        log = self._log(tag)
        found = members.find(members.Marks(tags=[tag], log=str(log)))
        if not found:
            return []
        main = list(found[0])
        data = {"boot": identity.boot_id(), "shim": None, "main": main, "log": str(log), "uid": os.getuid(), "life": 0}
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

    def log_paths(self, handle: Handle) -> tuple[Path, ...]:
        """Return the log, and that of its standard error where that is apart. See `tether.drivers.HasLogsApart`."""
        return tuple(Path(log) for name in ("log", "error_log") if (log := handle.data.get(name)))

    def read_stream(self, handle: Handle, stream: Literal["stdout", "stderr"], lines: int | None) -> bytes:
        """Return what went to one of the two. See `tether.drivers.HasStreamsApart`. Raises SpecError: they go to one log."""
        paths = self.log_paths(handle)
        if len(paths) < 2:
            raise SpecError(
                "its standard output and error are not kept apart: start it with stderr='own-log', or stderr='pipe'"
            )
        return logs.read(paths[stream == "stderr"], lines)

    def streams(self, handle: Handle) -> dict[str, Any]:
        """Hand over the pipes; whoever asked for them has them from then on. See `tether.drivers.HasStreams`."""
        return self._streams.pop(handle.tag, {})

    def line(self, handle: Handle) -> int | None:
        """Return the descriptor of the socket to its shim; None if this process does not hold it."""
        held = self._held.get(handle.tag)
        return None if held is None else held.channel.socket.fileno()

    # -- adoption ------------------------------------------------------------------------------------------------------

    def adopt(self, handle: Handle, fence: int) -> int | None:
        """Give the shim of a kept tree this process's lifeline. See `tether.drivers.CanAdopt`."""
        channel, exit_code = adoption.meet(self._run_dir, handle, fence, self._context.lifeline())
        self._hold(channel, handle)
        return exit_code

    def receipt(self, handle: Handle) -> Ended | None:
        """Read what the shim of a kept tree left at its end. See `tether.drivers.CanAdopt`."""
        path = self._run_dir / f"{handle.tag}.{handle.data.get('life', 1)}.ended"
        try:
            return outcome(json.loads(path.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    # -- end -----------------------------------------------------------------------------------------------------------

    def stop(self, handle: Handle, grace: float) -> None:
        """Ask the shim to end its tree within ``grace`` seconds; from another process too.

        Raises:
            DeadlineExceeded: members are stuck in the kernel; the shim goes on, and the tree ends when they do.
            PermissionError: the tree is another user's.
        """
        self._end(handle, grace, Kind.STOP, request.politely(grace, again=False), signal.SIGTERM)

    def insist(self, handle: Handle, grace: float) -> None:
        """As `stop`, with the polite signal sent again while the grace runs. See `tether.drivers.CanInsist`."""
        self._end(handle, grace, Kind.STOP, request.politely(grace, again=True), signal.SIGTERM)

    def can_ask(self, handle: Handle) -> bool:
        """Whether this process holds the line to its shim. See `tether.drivers.CanAsk`."""
        return handle.tag in self._held

    def ask(self, handle: Handle, grace: float, *, again: bool) -> None:
        """Ask the shim, and return. See `tether.drivers.CanAsk`."""
        held = self._held.get(handle.tag)
        if held is not None:
            held.channel.request(Kind.STOP, request.politely(grace, again=again))

    def destroy(self, handle: Handle) -> None:
        """Have the shim kill its tree; from another process too. Raises as `stop`."""
        self._end(handle, 0.0, Kind.KILL, {"why": "killed by its owner"}, signal.SIGUSR1)

    def resume(self, handle: Handle) -> None:
        """Continue a command that somebody stopped (SIGCONT)."""
        held = self._held.get(handle.tag)
        if held is not None:
            held.channel.request(Kind.CONTINUE)

    def signal(self, handle: Handle, signum: int, to: str) -> None:
        """Signal the command, its process group or the whole tree. See `tether.drivers.CanSignal`."""
        held = self._held.get(handle.tag)
        if held is not None:
            held.channel.request(Kind.SIGNAL, {"signal": signum, "to": ("main", "group", "tree").index(to)})

    def _end(self, handle: Handle, grace: float, kind: Kind, fields: dict[str, Any], signum: int) -> None:
        held = self._held.get(handle.tag)
        if held is not None:
            held.channel.request(kind, fields)
            if not held.wait(grace + _STUCK_S):
                raise DeadlineExceeded(_still_there(handle, held.stuck))
            return
        if _is_of_earlier_boot(handle):
            return
        try:
            if handle.data["shim"] is not None:
                self._end_shim(handle, grace, signum)
            self._end_rest(handle)
        except OSError as error:
            if error.errno not in proc.SHORT:
                raise
            # Nobody could be looked at, so nobody was seen to be gone.
            raise DriverUnavailable(f"resource {handle.tag} can't be ended now: {error}; it stays on record") from error

    def _end_shim(self, handle: Handle, grace: float, signum: int) -> None:
        """Signal a shim whose line another process holds, or nobody; when it has gone, its tree has."""
        pid, start = handle.data["shim"][:2]
        for each in (signal.SIGCONT, signum):
            signals.send(pid, start, each)
        if signals.wait_end(pid, start, grace):
            return
        signals.send(pid, start, signal.SIGUSR1)
        if not signals.wait_end(pid, start, _STUCK_S):
            raise DeadlineExceeded(_still_there(handle, ""))

    def marks(self, handle: Handle | None, tag: str) -> members.Marks | None:
        """Say by what its members are recognised. See `tether.drivers.HasMarks`."""
        if handle is None:
            return members.Marks(tags=[tag], log=str(self._log(tag)))
        return None if _is_of_earlier_boot(handle) else self._marks(handle)

    def _marks(self, handle: Handle) -> members.Marks:
        data = handle.data
        pid, start, inode = [*(data["main"] or (0, 0)), 0][:3]
        roots = [(pid, start)] if pid and identity.has_inode(pid, inode) else []
        return members.Marks(roots, [handle.tag], folder=data.get("cgroup"), log=data.get("log"), uid=data["uid"])

    def _end_rest(self, handle: Handle) -> str:
        """End what is left without a shim, as far as it can be recognised, and return the proof."""
        if members.end(self._marks(handle), _STUCK_S):
            raise DeadlineExceeded(_still_there(handle, ""))
        return "nothing of it is found any more"

    def _log(self, tag: str) -> Path:
        return logs.path(self._context.state_dir, tag)


def _still_there(handle: Handle, said: str) -> str:
    why = said or "nothing is known of why"
    return f"resource {handle.tag} was killed and is still there: {why}; it stays on record, see 'tether events'"


def _is_of_earlier_boot(handle: Handle) -> bool:
    return bool(handle.data["boot"] != identity.boot_id())


def _is_alive(handle: Handle, who: str) -> bool:
    pair = handle.data.get(who)
    return pair is not None and identity.is_alive(Identity(handle.data["boot"], pair[0], pair[1]))


def _main_first(handle: Handle, below: list[int]) -> tuple[int, ...]:
    main = handle.data["main"][0] if handle.data["main"] else 0
    return tuple([pid for pid in below if pid == main] + [pid for pid in below if pid != main])
