"""Who listens on a port. Source: proc_pid_net(5)."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from tether.linux import proc

__all__ = ["Listener", "free_port", "holders", "holds_socket", "listeners", "listening_inodes", "parse_listeners"]

_LISTEN = b"0A"
_MAPPED = bytes(10) + b"\xff\xff"
"""What an address of IPv4 begins with in a socket of IPv6. Source: RFC 4291, 2.5.5.2."""


def free_port() -> int:
    """Return a port of the loopback address on which nobody listens now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass(frozen=True)
class Listener:
    """A TCP socket that listens.

    Attributes:
        address: where, "0.0.0.0" or "::" for everywhere; of IPv4 also where that is in a socket of IPv6.
        port, inode: of it.
    """

    address: str
    port: int
    inode: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def _address(text: bytes) -> str:
    """Return an address of a table of the kernel, which has words of four bytes in the order of this machine."""
    data = bytes.fromhex(text.decode("ascii"))
    if sys.byteorder == "little":
        data = b"".join(data[start : start + 4][::-1] for start in range(0, len(data), 4))
    data = data.removeprefix(_MAPPED)
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)


def _listening(table: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield address, port and inode of each socket that listens, from the text of /proc/PID/net/tcp or tcp6."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN:
            address, _, port = fields[1].rpartition(b":")
            yield address, int(port, 16), int(fields[9])


def _tables(pid: int | str) -> Iterator[bytes]:
    for table in ("tcp", "tcp6"):
        try:
            yield proc.read(f"/proc/{pid}/net/{table}")
        except OSError:
            # No IPv6 here, or the process has gone.
            continue


def parse_listeners(table: bytes, port: int) -> set[int]:
    """Return the inodes of the sockets that listen on ``port``, from the text of /proc/PID/net/tcp or tcp6."""
    return {inode for _, listening, inode in _listening(table) if listening == port}


def listening_inodes(port: int, pid: int | str = "self") -> set[int]:
    """Return the inodes of the TCP sockets that listen on ``port`` in the network namespace of ``pid``."""
    return {inode for table in _tables(pid) for inode in parse_listeners(table, port)}


def listeners(pid: int | str = "self") -> list[Listener]:
    """Return the TCP sockets that listen in the network namespace of ``pid``."""
    return [
        Listener(_address(address), port, inode) for table in _tables(pid) for address, port, inode in _listening(table)
    ]


def holders(pids: Iterable[int], inodes: Collection[int]) -> dict[int, int]:
    """Return, by inode, the first of ``pids`` that has each of these sockets open; those that none has are not in it."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, int] = {}
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            if len(found) == len(wanted):
                return found
            try:
                inode = wanted.get(os.readlink(f"{folder}/{name}"))
            except OSError:
                continue
            if inode is not None:
                found.setdefault(inode, pid)
    return found


def holds_socket(pids: Iterable[int], inodes: set[int]) -> bool:
    """Whether one of ``pids`` has one of these sockets open."""
    return any(holders([pid], inodes) for pid in pids)
