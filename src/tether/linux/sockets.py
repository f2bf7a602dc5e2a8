"""Who listens on a port. Source: proc_pid_net(5)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from tether.linux import proc

__all__ = ["free_port", "holds_socket", "listening_inodes", "parse_listeners"]

_LISTEN = b"0A"


def free_port() -> int:
    """Return a port of the loopback address on which nobody listens now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def parse_listeners(table: bytes, port: int) -> set[int]:
    """Return the inodes of the sockets that listen on ``port``, from the text of /proc/PID/net/tcp or tcp6."""
    found = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN and int(fields[1].rpartition(b":")[2], 16) == port:
            found.add(int(fields[9]))
    return found


def listening_inodes(port: int, pid: int | str = "self") -> set[int]:
    """Return the inodes of the TCP sockets that listen on ``port`` in the network namespace of ``pid``."""
    found: set[int] = set()
    for table in ("tcp", "tcp6"):
        try:
            found |= parse_listeners(proc.read(f"/proc/{pid}/net/{table}"), port)
        except OSError:
            # No IPv6 here, or the process has gone.
            continue
    return found


def holds_socket(pids: Iterable[int], inodes: set[int]) -> bool:
    """Whether one of ``pids`` has one of these sockets open."""
    targets = {f"socket:[{inode}]" for inode in inodes}
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            try:
                if os.readlink(f"{folder}/{name}") in targets:
                    return True
            except OSError:
                continue
    return False
