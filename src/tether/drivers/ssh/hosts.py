"""The hosts of one owner, each with one connection, and what is asked of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tether.drivers.ssh import machine
from tether.drivers.ssh.agent import FarError, Seen
from tether.drivers.ssh.host import Host, Loop
from tether.drivers.ssh.where import Where
from tether.errors import DriverUnavailable
from tether.guard.wire import Kind, Message
from tether.model import Handle

__all__ = ["Hosts", "in_thread"]


class Hosts:
    """Makes a connection when it is first needed.

    Args:
        state_dir: the owner's.
        loop: the thread that all connections live in.
        heard: called there with each event of a host.
        lost: called there with a host whose connection has broken, and why.
        back: called in a thread of its own with a host that can be reached again after that.
        gone: called there with a host that can't be reached again: whether it is gone for ever.
    """

    def __init__(
        self,
        state_dir: Path,
        loop: Loop,
        heard: Callable[[Message], None],
        lost: Callable[[Where, str], None],
        back: Callable[[Where], None],
        gone: Callable[[Where], bool],
    ) -> None:
        self._state_dir = state_dir
        self._loop = loop
        self._lock = threading.Lock()
        self._hosts: dict[Where, Host] = {}
        self._heard, self._lost, self._back, self._gone = heard, lost, back, gone

    def of(self, handle: Handle) -> Host:
        """Return the host of a resource."""
        where = Where.recorded(handle.data["where"])
        with self._lock:
            if where not in self._hosts:
                self._hosts[where] = Host(
                    where,
                    self._loop.connecting,
                    self._heard,
                    lambda reason: self._lost(where, reason),
                    lambda: in_thread(self._back, where),
                    lambda: self._gone(where),
                )
            return self._hosts[where]

    def ask(self, handle: Handle, kind: Kind, **fields: Any) -> Message:
        """Have one thing done for a resource on its host.

        Raises:
            MachineGone: its host was a machine, which is gone.
            DriverUnavailable: the host does not answer, or refused.
        """
        host = self.of(handle)
        try:
            if not machine.is_gone(self._state_dir, handle):
                return self._loop.run(host.call(kind, tag=handle.tag, **fields))
        except FarError as error:
            raise DriverUnavailable(f"host {host.where} refused: {error.said} {error.filename}".rstrip()) from error
        except DriverUnavailable:
            if not machine.is_gone(self._state_dir, handle):
                raise
        raise machine.MachineGone(f"the machine of resource {handle.tag} is gone")

    def look(self, handle: Handle) -> Seen:
        """Look at a resource there. Raises as `ask`."""
        return Seen.told(self.ask(handle, Kind.LOOK))

    def close(self) -> None:
        """Close the connections. What is held there goes on until its lease is over."""
        with self._lock:
            hosts = list(self._hosts.values())
            self._hosts.clear()
        if hosts:
            self._loop.run(_close_all(hosts))


async def _close_all(hosts: list[Host]) -> None:
    await asyncio.gather(*(host.close() for host in hosts), return_exceptions=True)


def in_thread(work: Any, *arguments: Any) -> None:
    """Do what waits for the loop's thread in another one."""
    threading.Thread(target=work, args=arguments, name="tether-ssh-work", daemon=True).start()
