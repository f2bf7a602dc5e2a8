"""Messages with file descriptors over a stream socket between an owner, its reaper and its shims.

A message is a dict, packed by `marshal` behind its length. marshal is no format for strangers; these sockets are
anonymous pairs between processes of one user that run the same interpreter, and it costs the shim no import.
"""

from __future__ import annotations

import array
import marshal
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Message = dict[str, Any]

__all__ = ["receive", "send"]

_LENGTH = struct.Struct("<I")
# Readable by every Python since 3.4, should the two ends ever differ.
_MARSHAL_VERSION = 4
_MOST_FDS = 64


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message, with copies of ``fds``. Raises OSError, for instance BrokenPipeError when nobody reads."""
    data = marshal.dumps(message, _MARSHAL_VERSION)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    packet = _LENGTH.pack(len(data)) + data
    sent = sock.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)
    if sent < len(packet):
        sock.sendall(memoryview(packet)[sent:])


def _exactly(sock: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = sock.recv(min(size, 1 << 20))
        if not part:
            raise ConnectionResetError("the other end closed in the middle of a message")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """Receive one message and the descriptors with it (close-on-exec, the caller's to close); None at the end.

    Raises:
        OSError: the other end closed in the middle of a message, or the socket's time limit passed.
    """
    fds = array.array("i")
    head, ancillary, _, _ = sock.recvmsg(
        _LENGTH.size, socket.CMSG_SPACE(_MOST_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not head:
        return None
    try:
        if len(head) < _LENGTH.size:
            head += _exactly(sock, _LENGTH.size - len(head))
        return marshal.loads(_exactly(sock, _LENGTH.unpack(head)[0])), list(fds)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
