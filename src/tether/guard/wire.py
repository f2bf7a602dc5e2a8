"""Messages with file descriptors over a stream socket between an owner, its reaper and its shims.

A message is a dict, packed by `marshal` behind its length. marshal is no format for strangers; these sockets are
anonymous pairs between processes of one user that run the same interpreter, and it costs the shim no import.
"""

from __future__ import annotations

import _socket as socket
import marshal
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Message = dict[str, Any]

__all__ = ["pack", "receive", "send", "unpack"]

_LENGTH = struct.Struct("<I")
# Readable by every Python since 3.4, should the two ends ever differ.
_MARSHAL_VERSION = 4
_ANCILLARY = socket.CMSG_SPACE(64 * struct.calcsize("i"))


def pack(message: Message) -> bytes:
    """Return the bytes of one message without descriptors."""
    data = marshal.dumps(message, _MARSHAL_VERSION)
    return _LENGTH.pack(len(data)) + data


def unpack(packet: bytes) -> Message:
    """Return the message that `pack` packed. Raises ValueError or EOFError if it is not whole."""
    message: Message = marshal.loads(packet[_LENGTH.size :])
    return message


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message, with copies of ``fds``. Raises OSError, for instance BrokenPipeError when nobody reads."""
    packet = pack(message)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    sent = sock.sendmsg([packet], ancillary, socket.MSG_NOSIGNAL)
    if sent < len(packet):
        sock.sendall(memoryview(packet)[sent:])


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = sock.recv(size)
    if len(data) == size:
        return data
    parts = [data]
    size -= len(data)
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
    head, ancillary, _, _ = sock.recvmsg(_LENGTH.size, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    fds = [fd for _, _, data in ancillary for fd in memoryview(data).cast("i")]
    if not head:
        return None
    try:
        if len(head) < _LENGTH.size:
            head += _exactly(sock, _LENGTH.size - len(head))
        return marshal.loads(_exactly(sock, _LENGTH.unpack(head)[0])), fds
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
