"""Starts, finds, inspects, stops and destroys process trees on other hosts."""

from __future__ import annotations

import contextlib
import errno
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

from tether.drivers import Context
from tether.drivers.ssh import details, diagnosis, machine, request
from tether.drivers.ssh.agent import FarError, identities, receipt
from tether.drivers.ssh.host import Host, Loop
from tether.drivers.ssh.hosts import Hosts, in_thread
from tether.drivers.ssh.output import Output
from tether.drivers.ssh.spec import RemoteProcess
from tether.drivers.ssh.where import Where
from tether.errors import Busy, DeadlineExceeded, DriverUnavailable, Gone, NotCreated, StartError, exec_error
from tether.guard.line import describe_stuck
from tether.guard.wire import Kind, Message
from tether.ledger import logs
from tether.life.machine import Ended, MainExited, Paused, Reached, Stuck, Unreachable
from tether.life.probes import Target
from tether.linux import faults
from tether.model import Finding, Handle, OnDeath, Progress, Reachable, State, Status, Usage
from tether.protocol import PluginExecutionMode

__all__ = ["SshDriver"]

_VERSION = 1
_STUCK_S = 10.0
_LOOK_PAUSE_S = 0.05
_CLEAR_S = 2.0
_RETRY_PAUSE_S = 0.3
_EXEC_ERRORS = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENOEXEC, errno.EPERM)


class _NotReached(DriverUnavailable):
    """There was no connection, so nothing was asked for."""


class SshDriver:
    """See `tether.drivers.Driver`. The handle has how the host is reached, who shim and command are there, and the ports."""

    kind: ClassVar[str] = "ssh"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.REMOTE_SSH})
    has_pids: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self._context = context
        self._loop = Loop()
        self._lock = threading.Lock()
        self._held: dict[str, Handle] = {}
        self._ports: dict[str, int] = {}
        self._ended: dict[str, threading.Event] = {}
        self._stuck: dict[str, str] = {}
        self._output = Output(self._loop)
        self._hosts = Hosts(context.state_dir, self._loop, self._heard, self._lost, self._back, self._are_machines_gone)

    # -- start ---------------------------------------------------------------------------------------------------------

    def plan(self, spec: RemoteProcess, tag: str) -> Handle:
        """Say how its host is reached; there it is found by the tag. See `HasPlan`."""
        data = {"where": Where.of(spec).record(), "lease": spec.lease, **machine.record(spec)}
        return Handle(self.kind, tag, data, _VERSION)

    def start(self, spec: RemoteProcess, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Have the command executed there, under a shim that holds the lease.

        Raises:
            NotCreated: the host can't be reached, or refused before anything was executed there.
            ExecError: there is no such program or folder there; as subprocess raises it, and a StartError too.
            StartError: the connection broke in the middle; what was made is the caller's to destroy, by the plan.

        Crash:
            What was made ends when its lease is over, or by the sweep, which finds it by the plan.
        """
        plan = self.plan(spec, tag)
        host = self._hosts.of(plan)
        called = f"{spec.name or spec.default_name} on {host.where}"
        progress(f"connecting to {host.where}")
        self._output.put_aside(tag, self._saved(tag))
        with self._lock:  # Its end may be heard before its beginning.
            self._held[tag] = plan
            self._ended[tag] = threading.Event()
        try:
            if isinstance(spec.on, Reachable):
                machine.await_boot(lambda: self._reach(host), spec.on, progress)
            return self._loop.run(self._begin(spec, plan, host, on_death))
        except FarError as error:
            self._let_go(plan)
            if error.number in _EXEC_ERRORS:
                raise exec_error(error.number, error.filename, called, here=False) from error
            raise NotCreated(f"cannot start {called}: {error.said} there", resource=spec.name or "") from error
        except _NotReached as error:
            self._let_go(plan)
            raise NotCreated(f"cannot start {called}: {error}", resource=spec.name or "") from error
        except (DriverUnavailable, OSError) as error:
            raise StartError(f"cannot start {called}: {error}", resource=spec.name or "") from error

    def _reach(self, host: Host) -> None:
        """Raises _NotReached."""
        try:
            self._loop.run(host.reach())
        except DriverUnavailable as error:
            raise _NotReached(str(error)) from error

    async def _begin(self, spec: RemoteProcess, plan: Handle, host: Host, on_death: OnDeath) -> Handle:
        """All of a start that is done in the loop's thread, in one go. Raises _NotReached, FarError, DriverUnavailable, OSError."""
        try:
            await host.reach()
            port = None
            if spec.uses_port:
                port = spec.listen or (await host.call(Kind.PORT)).number("port") or 0
                refused = await host.why_not_forwarded(port)
                if refused:
                    raise _NotReached(f"host {host.where}: {refused}")
        except DriverUnavailable as error:
            raise _NotReached(str(error)) from error
        faults.point("start.making")
        who = await host.call(Kind.SPAWN, tag=plan.tag, **request.build(spec, port, on_death))
        faults.point("start.making")
        local = None if port is None else await host.forward(plan.tag, port)
        more = {"far_port": port, "port": local, "tier": who.text("tier"), "boot": who.text("boot")}
        handle = Handle(self.kind, plan.tag, {**plan.data, **identities(who), **more}, _VERSION)
        self._hold(handle, host, 1)
        return handle

    def _hold(self, handle: Handle, host: Host, fence: int) -> None:
        """Renew its lease from now on. Called in the loop's thread."""
        with self._lock:
            if handle.tag not in self._held:
                # It has ended meanwhile, and all is done.
                return
            self._held[handle.tag] = handle
        host.hold(handle.tag, handle.data["lease"], fence)

    def _let_go(self, handle: Handle) -> None:
        with self._lock:
            self._held.pop(handle.tag, None)
            self._ports.pop(handle.tag, None)
            self._stuck.pop(handle.tag, None)
            ended = self._ended.pop(handle.tag, None)
        self._loop.run(self._hosts.of(handle).let_go(handle.tag))
        if ended is not None:
            ended.set()

    # -- what is heard -------------------------------------------------------------------------------------------------

    def _heard(self, message: Message) -> None:
        """Take in an event of the other side. Runs in the loop's thread, so it never waits."""
        tag = message.text("tag")
        with self._lock:
            handle = self._held.get(tag)
        if handle is None:
            return
        if message.kind == Kind.EXITED:
            self._context.emit(tag, MainExited(message.number("status") or 0, bool(message.number("ending"))))
        elif message.kind == Kind.PAUSED:
            self._context.emit(tag, Paused(message.number("signal") or 0))
        elif message.kind == Kind.STUCK:
            self._stuck[tag] = f"{describe_stuck(message)} on {handle.data['where']['host']}"
            self._context.emit(tag, Stuck(self._stuck[tag]))
        elif message.kind == Kind.ENDED:
            in_thread(self._settle, handle, receipt(message) or {})
        elif message.kind == Kind.LOST:
            in_thread(self._settle_lost, handle)

    def _settle_lost(self, handle: Handle) -> None:
        """Its shim there was killed: what can be found of it is ended there."""
        with contextlib.suppress(DriverUnavailable):
            self._hosts.ask(handle, Kind.STOP, why="its shim there was killed")
            self._settle(
                handle, self._hosts.look(handle).ended or {"status": None, "why": "its shim was killed", "said": ""}
            )

    def _settle(self, handle: Handle, told: dict[str, Any]) -> None:
        """It has ended there: say so, and only then fetch its output, however long that takes."""
        with self._lock:
            if self._held.get(handle.tag) is None:
                return
        collecting = self._collect(handle)
        # Little output is here in a moment.
        _wait(collecting, _LOOK_PAUSE_S)
        self._context.emit(handle.tag, details.outcome(told))
        self._let_go(handle)

    def _collect(self, handle: Handle) -> Future[None]:
        return self._output.fetch(self._hosts.of(handle), handle.tag, self._saved(handle.tag))

    def _lost(self, where: Where, reason: str) -> None:
        for handle in self._held_on(where):
            self._context.emit(handle.tag, Unreachable(reason))

    def _are_machines_gone(self, where: Where) -> bool:
        """Say of each that ran on a machine that is gone that it has ended; whether there was any. Runs in the loop's thread."""
        gone = [handle for handle in self._held_on(where) if machine.is_gone(self._context.state_dir, handle)]
        for handle in gone:
            self._context.emit(handle.tag, Ended(None, "its machine is gone"))
            in_thread(self._let_go, handle)
        return bool(gone)

    def _held_on(self, where: Where) -> list[Handle]:
        with self._lock:
            held = list(self._held.values())
        return [handle for handle in held if self._hosts.of(handle).where == where]

    def _back(self, where: Where) -> None:
        """There is a connection again: say how each is."""
        for handle in self._held_on(where):
            try:
                seen = self._hosts.look(handle)
            except DriverUnavailable:
                return
            if seen.alive:
                self._context.emit(handle.tag, Reached())
                if seen.exited is not None:
                    self._context.emit(handle.tag, MainExited(seen.exited))
            elif seen.ended:
                if seen.ended["status"] is not None:
                    self._context.emit(handle.tag, MainExited(seen.ended["status"], ending=True))
                self._settle(handle, seen.ended)
            elif seen.known:
                self._settle_lost(handle)
            else:
                self._context.emit(handle.tag, Ended(None, self._why_unknown(handle)))
                self._let_go(handle)

    def _why_unknown(self, handle: Handle) -> str:
        hello = self._hosts.of(handle).hello
        if hello is not None and handle.data.get("boot") not in (None, hello.boot):
            return "its host was rebooted"
        return "nothing is known of it there any more"

    # -- look ----------------------------------------------------------------------------------------------------------

    def find(self, tag: str) -> list[Handle]:
        """Return nothing: the plan says where it is."""
        return []

    def inspect(self, handle: Handle) -> Status:
        """Ask its host. The pids there are none of this machine. Raises DriverUnavailable."""
        try:
            seen = self._hosts.look(handle)
        except machine.MachineGone as error:
            return Status(State.GONE, reason=str(error))
        if not seen.known:
            return Status(State.GONE, reason=self._why_unknown(handle))
        if seen.ended:
            return Status(State.STOPPING, seen.ended["status"], f"{seen.ended['why']}; to be cleared there")
        if seen.alive:
            return Status(State.READY, seen.exited)
        return Status(State.STOPPING, reason="its shim there is gone; something of it may be left")

    def usage(self, handle: Handle) -> Usage:
        """Ask its host for the live members. Raises DriverUnavailable."""
        seen = self._hosts.look(handle)
        return Usage(len(seen.members), seen.cpu_s, seen.memory) if seen.known else Usage()

    def port(self, handle: Handle) -> int | None:
        """Return the port of this machine that is forwarded to it."""
        return self._ports.get(handle.tag, handle.data.get("port"))

    def details(self, handle: Handle) -> dict[str, Any]:
        """Return its host, the pid of its command there, and how it is held there."""
        return details.of(handle)

    def is_guarded(self, handle: Handle) -> bool:
        """Whether its shim there lives, which ends it when lease and time of keeping are over."""
        return self._hosts.look(handle).alive

    def target(self, handle: Handle) -> Target:
        """Probe through the forwarded port, once a member of the tree there listens."""
        return Target(
            port=self.port(handle),
            missing=lambda: self._missing(handle),
            log=lambda: self.read_log(handle, None),
        )

    def _missing(self, handle: Handle) -> str:
        """What is missing for a probe through the forwarded port to mean anything."""
        refused = self._hosts.of(handle).forward_refused(handle.tag)
        return refused or self._hosts.ask(handle, Kind.LISTENS, port=handle.data["far_port"]).text("missing")

    def diagnose(self) -> Finding:
        """Look for the extra; ``tether doctor user@host`` looks at a host."""
        from importlib.util import find_spec

        if find_spec("asyncssh") is None:
            return Finding("remote processes", False, "the extra is not installed", "run: pip install 'tether[ssh]'")
        return Finding("remote processes", True, "asyncssh", "'tether doctor user@host' looks at a host")

    def diagnose_host(self, destination: str) -> list[Finding]:
        """Look at a host for ``tether doctor``; what can't be reached is a finding."""
        handle = self.plan(RemoteProcess(destination, ["true"]), "doctor")
        try:
            seen = self._hosts.ask(handle, Kind.DIAGNOSE)
        except DriverUnavailable as error:
            return [Finding("connection", False, str(error), "nothing can be started there")]
        hello = self._hosts.of(handle).hello
        return [] if hello is None else diagnosis.findings(hello, seen)

    # -- output --------------------------------------------------------------------------------------------------------

    def _saved(self, tag: str) -> Path:
        return logs.path(self._context.state_dir, tag)

    def read_log(self, handle: Handle, lines: int | None) -> bytes:
        """Ask its host; of one that has ended, read what was saved. Raises DriverUnavailable."""
        return self._output.read(self._hosts.of(handle), handle.tag, self._saved(handle.tag), lines)

    def follow_log(self, handle: Handle) -> Iterator[bytes]:
        """Yield what is written there from now on, until it ends."""
        return self._output.follow(self._hosts.of(handle), handle.tag, lambda: self._hosts.look(handle).alive)

    # -- adoption ------------------------------------------------------------------------------------------------------

    def adopt(self, handle: Handle, fence: int) -> int | None:
        """Renew the lease of a kept tree from now on, with a newer fence. See `tether.drivers.CanAdopt`."""
        host = self._hosts.of(handle)
        lease_ms = int(handle.data["lease"] * 1000)
        try:
            self._loop.run(host.call(Kind.ADOPT, tag=handle.tag, lease_ms=lease_ms, fence=fence))
        except FarError as error:
            if error.number == errno.EBUSY:
                raise Busy(f"resource {handle.tag} can't be adopted: it has a newer owner, or is ending") from error
            raise Gone(f"resource {handle.tag} can't be adopted: it has ended on its host") from error
        inside = handle.data.get("far_port")
        if inside is not None:
            for outside in (handle.data["port"], 0):
                with contextlib.suppress(OSError):
                    self._ports[handle.tag] = self._loop.run(host.forward(handle.tag, inside, outside))
                    break
        with self._lock:
            self._held[handle.tag] = handle
            self._ended[handle.tag] = threading.Event()
        self._loop.loop.call_soon_threadsafe(self._hold, handle, self._hosts.of(handle), fence)
        return self._hosts.look(handle).exited

    def receipt(self, handle: Handle) -> Ended | None:
        """Return what its shim left there."""
        seen = self._hosts.look(handle)
        return details.outcome(seen.ended) if seen.ended else None

    # -- end -----------------------------------------------------------------------------------------------------------

    def stop(self, handle: Handle, grace: float) -> None:
        """Have the shim there end its tree, and remove what is left of it there. With its machine it has ended already.

        Raises:
            DriverUnavailable: the host does not answer; the lease ends it, and this is to be tried again.
            DeadlineExceeded: members are stuck in the kernel there.
        """
        self._end(handle, grace, "stopped by its owner")

    def insist(self, handle: Handle, grace: float) -> None:
        """The same, asking again while the grace runs: what is only starting may not have heard. See `tether.drivers.CanInsist`."""
        self._end(handle, grace, "stopped by its owner", again=True)

    def destroy(self, handle: Handle) -> None:
        """The same by force. Raises as `stop`."""
        self._end(handle, 0.0, "killed by its owner")

    def _end(self, handle: Handle, grace: float, why: str, *, again: bool = False) -> None:
        with self._lock:
            ended = self._ended.get(handle.tag)
        try:
            self._end_there(handle, grace, why, again=again)
        except machine.MachineGone:
            self._let_go(handle)
        except DriverUnavailable:
            # A machine that was rented for it goes as soon as its end was heard, whoever still looks.
            if "on" not in handle.data or ended is None or not ended.wait(_CLEAR_S):
                raise

    def _end_there(self, handle: Handle, grace: float, why: str, *, again: bool) -> None:
        with self._lock:
            ended = self._ended.get(handle.tag)
        host = self._hosts.of(handle)
        deadline = time.monotonic() + grace + _STUCK_S
        asked = self._ask_end(handle, grace, why, again=again)
        while asked:
            if ended is not None and ended.wait(_LOOK_PAUSE_S):
                _wait(self._collect(handle), _CLEAR_S)
                return
            if ended is None:
                time.sleep(_LOOK_PAUSE_S)
            if not self._hosts.look(handle).alive:
                break
            if time.monotonic() > deadline or (handle.tag in self._stuck and time.monotonic() > deadline - _STUCK_S):
                why_not = self._stuck.get(handle.tag, f"it was killed and is still there on {host.where}")
                raise DeadlineExceeded(f"resource {handle.tag}: {why_not}; it stays on record")
        seen = self._hosts.look(handle)
        if seen.known:
            if seen.ended and ended is not None and seen.ended["status"] is not None:
                self._context.emit(handle.tag, MainExited(seen.ended["status"], ending=True))
            _wait(self._collect(handle), _CLEAR_S)
        self._let_go(handle)

    def _ask_end(self, handle: Handle, grace: float, why: str, *, again: bool) -> bool:
        """Ask for the end, tried again while there is grace; False if there is no shim that could be asked."""
        fence = self._hosts.of(handle).fence(handle.tag)
        until = time.monotonic() + grace
        while True:
            left = max(0, int((until - time.monotonic()) * 1000))
            try:
                done = self._hosts.ask(handle, Kind.STOP, step_ms=left, again=int(again), why=why, fence=fence)
            except DriverUnavailable:
                if time.monotonic() + _RETRY_PAUSE_S > until:
                    raise
                time.sleep(_RETRY_PAUSE_S)
            else:
                return bool(done.number("ending"))

    def close(self) -> None:
        """Close the connections, once the output of what has ended is fetched. What is held goes on until its lease is over."""
        self._output.finish()
        self._hosts.close()
        self._loop.close()


def _wait(collecting: Future[None], timeout_s: float) -> None:
    """Give it a moment. What fails or lasts longer is nobody's trouble but the log's."""
    with contextlib.suppress(TimeoutError, DriverUnavailable, FarError):
        collecting.result(timeout_s)
