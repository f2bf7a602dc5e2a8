"""Starts, finds, inspects, stops and destroys process trees on other hosts."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from tether.drivers import Context
from tether.drivers.ssh import diagnosis
from tether.drivers.ssh.agent import FarError
from tether.drivers.ssh.host import Host, Loop, Where
from tether.drivers.ssh.spec import RemoteProcess
from tether.errors import DeadlineExceeded, DriverUnavailable, Gone, NotCreated, StartError, exec_error
from tether.ledger import logs, place
from tether.life.machine import Ended, MainExited, Reached, Unreachable
from tether.life.probes import Target
from tether.linux import faults
from tether.model import Finding, Handle, OnDeath, Progress, State, Status, Usage
from tether.protocol import PluginExecutionMode
from tether.spec import put_port

__all__ = ["SshDriver"]

_VERSION = 1
_STUCK_S = 10.0
_ANSWER_S = 30.0
_LOOK_PAUSE_S = 0.05
_FOLLOW_PAUSE_S = 0.3
_SAVED_BYTES = 1 << 20
_PIECE = 1 << 20
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
        self._hosts: dict[Where, Host] = {}
        self._held: dict[str, Handle] = {}
        self._ports: dict[str, int] = {}
        self._ended: dict[str, threading.Event] = {}

    # -- hosts ---------------------------------------------------------------------------------------------------------

    def _host(self, handle: Handle) -> Host:
        where = Where.recorded(handle.data["where"])
        with self._lock:
            if where not in self._hosts:
                self._hosts[where] = Host(
                    where,
                    self._loop.connecting,
                    self._heard,
                    lambda reason: self._lost(where, reason),
                    lambda: self._in_thread(self._back, where),
                )
            return self._hosts[where]

    def _ask(self, handle: Handle, do: str, **more: Any) -> Any:
        """Have one thing done for a resource on its host. Raises DriverUnavailable, also where it was refused there."""
        host = self._host(handle)
        try:
            return self._loop.run(host.call(do, tag=handle.tag, **more))
        except FarError as error:
            raise DriverUnavailable(f"host {host.where} refused: {error.said} {error.filename}".rstrip()) from error

    @staticmethod
    def _in_thread(work: Any, *arguments: Any) -> None:
        """Do what waits for the loop's thread in another one."""
        threading.Thread(target=work, args=arguments, name="tether-ssh-work", daemon=True).start()

    # -- start ---------------------------------------------------------------------------------------------------------

    def plan(self, spec: RemoteProcess, tag: str) -> Handle:
        """Say how its host is reached; there it is found by the tag. See `HasPlan`."""
        where = Where(
            spec.host,
            spec.port,
            spec.user,
            tuple(_absolute(str(key)) for key in spec.key or ()),  # type: ignore[union-attr]
            spec.jump,
            None if spec.known_hosts is None else _absolute(str(spec.known_hosts)),
            spec.verify_host,
            None if spec.config is None else _absolute(str(spec.config)),
        )
        data = {"where": where.record(), "lease": spec.lease, "signal": int(spec.stop_signal)}
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
        host = self._host(plan)
        called = f"{spec.name or spec.default_name} on {host.where}"
        progress(f"connecting to {host.where}")
        # Its end may be heard before its beginning.
        with self._lock:
            self._held[tag] = plan
            self._ended[tag] = threading.Event()
        try:
            return self._loop.run(self._begin(spec, plan, host, on_death))
        except FarError as error:
            self._let_go(plan)
            if error.number in _EXEC_ERRORS:
                raise exec_error(error.number, error.filename, called) from error
            raise NotCreated(f"cannot start {called}: {error.said} there", resource=spec.name or "") from error
        except _NotReached as error:
            self._let_go(plan)
            raise NotCreated(f"cannot start {called}: {error}", resource=spec.name or "") from error
        except (DriverUnavailable, OSError) as error:
            raise StartError(f"cannot start {called}: {error}", resource=spec.name or "") from error

    async def _begin(self, spec: RemoteProcess, plan: Handle, host: Host, on_death: OnDeath) -> Handle:
        """All of a start that is done in the loop's thread, in one go. Raises _NotReached, FarError, DriverUnavailable, OSError."""
        try:
            await host.reach()
            port = None
            if spec.uses_port:
                port = spec.listen or int(await host.call("port", tag=plan.tag))
        except DriverUnavailable as error:
            raise _NotReached(str(error)) from error
        faults.point("start.making")
        who = await host.call("spawn", tag=plan.tag, **_request(spec, port, on_death))
        faults.point("start.making")
        local = None if port is None else await host.forward(plan.tag, port)
        handle = Handle(self.kind, plan.tag, {**plan.data, **who, "far_port": port, "port": local}, _VERSION)
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
            ended = self._ended.pop(handle.tag, None)
        self._loop.run(self._host(handle).let_go(handle.tag))
        if ended is not None:
            ended.set()

    # -- what is heard -------------------------------------------------------------------------------------------------

    def _heard(self, message: dict[str, Any]) -> None:
        """Take in an event of the other side. Runs in the loop's thread, so it never waits."""
        tag = message["tag"]
        with self._lock:
            handle = self._held.get(tag)
        if message["event"] == "exited" and handle is not None:
            self._context.emit(tag, MainExited(message["exited"], message["ending"]))
        elif message["event"] == "ended" and handle is not None:
            self._in_thread(self._settle, handle, message["ended"])
        elif message["event"] == "lost shim" and handle is not None:
            self._in_thread(self._settle_lost, handle)

    def _settle_lost(self, handle: Handle) -> None:
        """Its shim there was killed: what can be found of it is ended there."""
        with contextlib.suppress(DriverUnavailable):
            self._ask(handle, "stop", grace=0, why="its shim there was killed", signal=handle.data["signal"])
            self._settle(
                handle,
                self._ask(handle, "look").get("ended") or {"status": None, "why": "its shim was killed", "said": ""},
            )

    def _settle(self, handle: Handle, receipt: dict[str, Any]) -> None:
        """It has ended there: keep its output, remove what is left of it there, and say so."""
        try:
            self._clear(handle)
        except DriverUnavailable:
            # Lost in the same moment; found again when there is a connection.
            return
        self._context.emit(handle.tag, _outcome(receipt))
        self._let_go(handle)

    def _clear(self, handle: Handle) -> None:
        piece = self._ask(handle, "log", offset=-_SAVED_BYTES, size=_SAVED_BYTES)
        if piece["size"]:
            with contextlib.suppress(OSError):
                # A full disk here keeps nothing there.
                place.write_private(self._saved(handle.tag), piece["data"].encode("latin-1"))
        self._ask(handle, "clear")

    def _lost(self, where: Where, reason: str) -> None:
        for handle in self._held_on(where):
            self._context.emit(handle.tag, Unreachable(reason))

    def _held_on(self, where: Where) -> list[Handle]:
        with self._lock:
            held = list(self._held.values())
        return [handle for handle in held if self._host(handle).where == where]

    def _back(self, where: Where) -> None:
        """There is a connection again: say how each is."""
        for handle in self._held_on(where):
            try:
                seen = self._ask(handle, "look")
            except DriverUnavailable:
                return
            if seen.get("alive"):
                self._context.emit(handle.tag, Reached())
                if seen["exited"] is not None:
                    self._context.emit(handle.tag, MainExited(seen["exited"]))
            elif seen.get("ended"):
                if seen["ended"]["status"] is not None:
                    self._context.emit(handle.tag, MainExited(seen["ended"]["status"], ending=True))
                self._settle(handle, seen["ended"])
            elif seen["known"]:
                self._settle_lost(handle)
            else:
                self._context.emit(handle.tag, Ended(None, "nothing is known of it there any more"))
                self._let_go(handle)

    # -- look ----------------------------------------------------------------------------------------------------------

    def find(self, tag: str) -> list[Handle]:
        """Return nothing: the plan says where it is."""
        return []

    def inspect(self, handle: Handle) -> Status:
        """Ask its host. The pids there are none of this machine. Raises DriverUnavailable."""
        seen = self._ask(handle, "look")
        if not seen["known"]:
            return Status(State.GONE, reason="nothing is known of it there")
        if seen["ended"]:
            return Status(State.STOPPING, seen["ended"]["status"], f"{seen['ended']['why']}; to be cleared there")
        if seen["alive"]:
            return Status(State.READY, seen["exited"])
        return Status(State.STOPPING, reason="its shim there is gone; something of it may be left")

    def usage(self, handle: Handle) -> Usage:
        """Ask its host for the live members. Raises DriverUnavailable."""
        seen = self._ask(handle, "look")
        if not seen["known"]:
            return Usage()
        return Usage(len(seen["pids"]), seen["cpu_s"], seen["memory"])

    def port(self, handle: Handle) -> int | None:
        """Return the port of this machine that is forwarded to it."""
        return self._ports.get(handle.tag, handle.data.get("port"))

    def details(self, handle: Handle) -> dict[str, Any]:
        """Return its host, and the pid of its command there."""
        where, main = handle.data["where"], handle.data.get("main")
        return {
            "ssh_host": where["host"],
            "ssh_port": where["port"] or 22,
            "ssh_user": where["user"],
            "far_pid": main[0] if main else None,
        }

    def is_guarded(self, handle: Handle) -> bool:
        """Whether its shim there lives, which ends it when lease and time of keeping are over."""
        return bool(self._ask(handle, "look").get("alive"))

    def target(self, handle: Handle) -> Target:
        """Probe through the forwarded port, once a member of the tree there listens."""
        return Target(
            port=self.port(handle),
            missing=lambda: str(self._ask(handle, "listens", port=handle.data["far_port"])),
            log=lambda: self.read_log(handle, None),
        )

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
            seen = self._ask(handle, "diagnose")
        except DriverUnavailable as error:
            return [Finding("connection", False, str(error), "nothing can be started there")]
        return diagnosis.findings(self._host(handle).hello, seen)

    # -- output --------------------------------------------------------------------------------------------------------

    def _saved(self, tag: str) -> Path:
        return logs.path(self._context.state_dir, tag)

    def read_log(self, handle: Handle, lines: int | None) -> bytes:
        """Ask its host; of one that has ended, read what was saved. Raises DriverUnavailable."""
        saved = self._saved(handle.tag)
        if saved.exists():
            data = saved.read_bytes()
        elif lines is None:
            data = b"".join(self._pieces(handle, 0))
        else:
            data = self._ask(handle, "log", offset=-max(1 << 16, 512 * lines), size=_PIECE)["data"].encode("latin-1")
        return logs.last_lines(data, lines)

    def _pieces(self, handle: Handle, offset: int) -> Iterator[bytes]:
        """The log from an offset to its end."""
        while data := self._ask(handle, "log", offset=offset, size=_PIECE)["data"].encode("latin-1"):
            offset += len(data)
            yield data

    def follow_log(self, handle: Handle) -> Iterator[bytes]:
        """Yield what is written there from now on, until it ends."""
        offset = self._ask(handle, "log", offset=0, size=0)["size"]
        while True:
            alive = self._ask(handle, "look").get("alive")
            for data in self._pieces(handle, offset):
                offset += len(data)
                yield data
            if not alive:
                return
            time.sleep(_FOLLOW_PAUSE_S)

    # -- adoption ------------------------------------------------------------------------------------------------------

    def adopt(self, handle: Handle, fence: int) -> int | None:
        """Renew the lease of a kept tree from now on, with a newer fence. See `tether.drivers.CanAdopt`."""
        lease = handle.data["lease"]
        if not self._ask(handle, "renew", tags={handle.tag: (lease, fence)})[handle.tag]:
            raise Gone(f"resource {handle.tag} can't be adopted: it has ended on its host")
        inside = handle.data.get("far_port")
        if inside is not None:
            host = self._host(handle)
            for outside in (handle.data["port"], 0):
                with contextlib.suppress(OSError):
                    self._ports[handle.tag] = self._loop.run(host.forward(handle.tag, inside, outside))
                    break
        with self._lock:
            self._held[handle.tag] = handle
            self._ended[handle.tag] = threading.Event()
        self._loop.loop.call_soon_threadsafe(self._hold, handle, self._host(handle), fence)
        exited: int | None = self._ask(handle, "look").get("exited")
        return exited

    def receipt(self, handle: Handle) -> Ended | None:
        """Return what its shim left there."""
        seen = self._ask(handle, "look")
        return _outcome(seen["ended"]) if seen.get("ended") else None

    # -- end -----------------------------------------------------------------------------------------------------------

    def stop(self, handle: Handle, grace: float) -> None:
        """Have the shim there end its tree, and remove what is left of it there.

        Raises:
            DriverUnavailable: the host does not answer; the lease ends it, and this is to be tried again.
            DeadlineExceeded: members are stuck in the kernel there.
        """
        self._end(handle, grace, "stopped by its owner")

    def destroy(self, handle: Handle) -> None:
        """The same by force. Raises as `stop`."""
        self._end(handle, 0.0, "killed by its owner")

    def _end(self, handle: Handle, grace: float, why: str) -> None:
        with self._lock:
            ended = self._ended.get(handle.tag)
        # Where there is only sh, the answer comes when it has ended.
        more = {"why": why, "signal": handle.data["signal"], "within": grace + _ANSWER_S}
        answer = self._ask(handle, "stop", grace=grace, **more)
        deadline = time.monotonic() + grace + _STUCK_S
        if answer == "asked":
            while time.monotonic() < deadline:
                if ended is not None and ended.wait(_LOOK_PAUSE_S):
                    return
                if ended is None:
                    time.sleep(_LOOK_PAUSE_S)
                if not self._ask(handle, "look").get("alive"):
                    break
            else:
                raise DeadlineExceeded(
                    f"resource {handle.tag} was killed and is still there on {self._host(handle).where}; it stays on record"
                )
        seen = self._ask(handle, "look")
        if seen["known"]:
            if seen.get("ended") and ended is not None and seen["ended"]["status"] is not None:
                self._context.emit(handle.tag, MainExited(seen["ended"]["status"], ending=True))
            self._clear(handle)
        self._let_go(handle)

    def close(self) -> None:
        """Close the connections; what is held goes on until its lease is over."""
        with self._lock:
            hosts = list(self._hosts.values())
            self._hosts.clear()
        if hosts:
            self._loop.run(_close_all(hosts))
        self._loop.close()


async def _close_all(hosts: list[Host]) -> None:
    await asyncio.gather(*(host.close() for host in hosts), return_exceptions=True)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _request(spec: RemoteProcess, port: int | None, on_death: OnDeath) -> dict[str, Any]:
    return {
        "argv": [put_port(str(word), port) for word in spec.argv],
        "env": {name: None if value is None else put_port(value, port) for name, value in spec.env.items()},
        "cwd": spec.cwd,
        "umask": spec.umask,
        "lease": spec.lease,
        "fence": 1,
        "on_death": on_death,
        "keep_for": spec.keep_for,
        "grace": spec.stop_grace,
        "stop_signal": int(spec.stop_signal),
        "stop_to": spec.stop_to,
    }


def _outcome(receipt: dict[str, Any]) -> Ended:
    return Ended(receipt["status"], receipt["why"], proof=receipt["said"])
