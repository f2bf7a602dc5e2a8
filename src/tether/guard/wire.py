"""Messages with file descriptors between an owner, its hub and its shims.

The other end is ``native/wire.c``, which says the form.
"""

from __future__ import annotations

import enum
import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tether.linux.readable import await_readable

__all__ = [
    "FIELDS",
    "REFUSED_AT",
    "VERSION",
    "Encoded",
    "Incoming",
    "Kind",
    "Message",
    "decode",
    "encode",
    "encode_fields",
    "receive",
    "send",
]

T = TypeVar("T")

VERSION = 1
_MOST = 32 << 20
_SHORT_S = 0.005
_SHORT_TRIES = 200
_FDS_AT_ONCE = 250
_AT_ONCE = 65536

_HEAD = struct.Struct("<I")
_BODY = struct.Struct("<BB")
_FIELD = struct.Struct("<HI")
_NUMBER = struct.Struct("<q")
_NUMBER_FIELD = struct.Struct("<HIq")
_SEVERAL = (list, tuple)
_ANCILLARY = socket.CMSG_SPACE(_FDS_AT_ONCE * struct.calcsize("i"))


class Kind(enum.IntEnum):
    """What a message says; ``native/wire.h`` says who says it to whom."""

    CONFIG = 1
    BYE = 2
    READY = 3
    LOST = 4
    STUCK = 5
    FORK = 6
    SHIM = 7
    REFUSED = 8
    ARMED = 9
    SPAWNED = 10
    EXITED = 11
    PAUSED = 12
    ENDED = 13
    SPAWN = 14
    STOP = 15
    KILL = 16
    CONTINUE = 17
    SIGNAL = 18
    ADOPT = 19
    ADOPTED = 20
    HELLO = 64
    ANSWER = 65
    STATE = 66
    RENEW = 67
    LOOK = 68
    LOG = 69
    CLEAR = 70
    PORT = 71
    LISTENS = 72
    DIAGNOSE = 73


FIELDS: dict[str, tuple[int, type]] = {
    "owner": (1, bytes),
    "state_dir": (2, bytes),
    "cgroup": (3, bytes),
    "settle": (4, bytes),
    "tier": (5, bytes),
    "pid": (6, int),
    "start": (7, int),
    "errno": (8, int),
    "filename": (9, bytes),
    "status": (10, int),
    "ending": (11, int),
    "signal": (12, int),
    "why": (13, bytes),
    "said": (14, bytes),
    "shm": (15, bytes),
    "tag": (16, bytes),
    "life": (17, int),
    "arg": (18, bytes),
    "env": (19, bytes),
    "program": (20, bytes),
    "cwd": (21, bytes),
    "umask": (22, int),
    "target": (23, int),
    "session": (24, int),
    "group": (25, int),
    "terminal": (26, int),
    "ignored": (27, int),
    "mask": (28, int),
    "step_signal": (29, int),
    "step_ms": (30, int),
    "to_main": (31, int),
    "again": (32, int),
    "on_death": (33, int),
    "keep_ms": (34, int),
    "log": (35, bytes),
    "run_dir": (36, bytes),
    "fence": (37, int),
    "uid": (38, int),
    "gid": (39, int),
    "groups": (40, bytes),
    "rlimit": (41, bytes),
    "nice": (42, int),
    "affinity": (43, bytes),
    "oom": (44, int),
    "reason": (45, bytes),
    "detail": (46, bytes),
    "to": (47, int),
    "version": (48, int),
    "inode": (49, int),
    "ends_with_main": (50, int),
    "shell": (51, int),
    "id": (64, int),
    "lease_ms": (65, int),
    "offset": (66, int),
    "size": (67, int),
    "data": (68, bytes),
    "boot": (69, bytes),
    "home": (70, bytes),
    "alive": (71, int),
    "shim": (72, int),
    "shim_start": (73, int),
    "member": (74, int),
    "cpu_ms": (75, int),
    "memory": (76, int),
    "receipt": (77, bytes),
    "port": (78, int),
    "free": (79, int),
    "running": (80, bytes),
    "missing": (81, bytes),
    "machine": (82, bytes),
    "build": (83, bytes),
}
"""The key and the type of each field; a test compares the keys with ``native/wire.h``."""

REFUSED_AT = {
    "program": 0,
    "cwd": 1,
    "group": 2,
    "nice": 3,
    "affinity": 4,
    "oom": 5,
    "descriptors": 6,
    "terminal": 7,
    "groups": 8,
    "gid": 9,
    "uid": 10,
    "request": 11,
    "limit": 32,
    "most": 64,
}
"""What the kernel refused of a command, as a shim says it in ``to``: see ``native/wire.h``."""

_NAMES = {key: (name, kind) for name, (key, kind) in FIELDS.items()}


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it was received.

    Attributes:
        kind: what it says.
        fields: the values of each field that it has, in their order.
    """

    kind: int
    fields: Mapping[str, Sequence[Any]]

    def number(self, name: str) -> int | None:
        """Return a number; None if it has none of this name."""
        values = self.fields.get(name)
        return int(values[0]) if values else None

    def text(self, name: str) -> str:
        """Return a text; empty if it has none of this name."""
        values = self.fields.get(name)
        return os.fsdecode(values[0]) if values else ""

    def texts(self, name: str) -> list[str]:
        """Return all texts of this name."""
        return [os.fsdecode(value) for value in self.fields.get(name, ())]

    def numbers(self, name: str) -> list[int]:
        """Return all numbers of this name."""
        return list(self.fields.get(name, ()))


class Encoded(bytes):
    """Fields as they are sent, for what is sent again and again."""

    __slots__ = ()


def _encode_field(key: int, value: Any) -> bytes:
    if isinstance(value, int):
        return _NUMBER_FIELD.pack(key, _NUMBER.size, value)
    data = os.fsencode(value) if isinstance(value, str) else value
    return _FIELD.pack(key, len(data)) + data


def encode_fields(name: str, values: Iterable[Any]) -> Encoded:
    """Return a field that comes several times."""
    key, _ = FIELDS[name]
    return Encoded(b"".join([_encode_field(key, value) for value in values]))


def encode(kind: Kind, fields: Mapping[str, Any]) -> bytes:
    """Return the bytes of a message. A list or tuple is a field that comes several times; None is left out."""
    parts = [_BODY.pack(VERSION, kind)]
    for name, value in fields.items():
        if isinstance(value, Encoded):
            parts.append(value)
        elif isinstance(value, _SEVERAL):
            parts.append(encode_fields(name, value))
        elif value is not None:
            parts.append(_encode_field(FIELDS[name][0], value))
    body = b"".join(parts)
    return _HEAD.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """Return the message of a body. Raises ValueError if it is none, or of another version."""
    if len(body) < _BODY.size or body[0] != VERSION:
        raise ValueError(f"a message of version {body[:1].hex() or 'none'}, where version {VERSION} is spoken")
    fields: dict[str, list[Any]] = {}
    at = _BODY.size
    while at < len(body):
        try:
            key, size = _FIELD.unpack_from(body, at)
        except struct.error:
            raise ValueError("a message that is cut") from None
        data = body[at + _FIELD.size : at + _FIELD.size + size]
        at += _FIELD.size + size
        if len(data) < size:
            raise ValueError("a message that is cut")
        # What this version does not know may be left aside.
        name, kind = _NAMES.get(key, ("", bytes))
        if kind is int and size == _NUMBER.size:
            fields.setdefault(name, []).append(_NUMBER.unpack(data)[0])
        elif kind is bytes:
            fields.setdefault(name, []).append(data)
    return Message(body[1], fields)


def _patiently(call: Callable[..., T], *arguments: Any) -> T:
    """Call it, again after a moment where it failed for want of memory: to take that for the end of a line would end trees."""
    for _ in range(_SHORT_TRIES):
        try:
            return call(*arguments)
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.ENOBUFS):
                raise
        time.sleep(_SHORT_S)
    return call(*arguments)


def send(sock: socket.socket, kind: Kind, fields: Mapping[str, Any] | None = None, fds: Sequence[int] = ()) -> None:
    """Send one message, with copies of ``fds``. Raises OSError, for instance BrokenPipeError when nobody reads."""
    packet = encode(kind, fields or {})
    sent = 0
    for first in range(0, len(fds), _FDS_AT_ONCE):
        # Descriptors come with at least one byte each time; a message of many descriptors has many bytes.
        some = fds[first : first + _FDS_AT_ONCE]
        piece = packet[sent : sent + 1] if first + _FDS_AT_ONCE < len(fds) else packet[sent:]
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(some)}i", *some))]
        sent += _patiently(sock.sendmsg, [piece], ancillary, socket.MSG_NOSIGNAL)
    if not fds:
        sent = _patiently(sock.send, packet, socket.MSG_NOSIGNAL)
    if sent < len(packet):
        sock.sendall(memoryview(packet)[sent:], socket.MSG_NOSIGNAL)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = _patiently(sock.recv, size)
    if len(data) == size:
        return data
    parts = [data]
    size -= len(data)
    while size:
        part = _patiently(sock.recv, min(size, 1 << 20))
        if not part:
            raise ConnectionResetError("the other end closed in the middle of a message")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _begin(sock: socket.socket) -> tuple[bytes, list[tuple[int, int, bytes]]]:
    while True:
        try:
            return _patiently(sock.recvmsg, _HEAD.size, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)[:2]
        except BlockingIOError:
            # A socket of eventlet's waits in recv() only.
            if sock.gettimeout() == 0:
                raise
            if not await_readable([sock.fileno()], sock.gettimeout()):
                raise TimeoutError("timed out") from None


class Incoming:
    """What comes over a socket, without descriptors: each look takes all that is there, which may be several messages.

    Args:
        sock: the socket; what was received from it before is not seen here.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""

    def read(self) -> list[Message] | None:
        """Wait until there is something, and return the messages that are whole by now; None at the end.

        Raises:
            OSError: the other end closed in the middle of a message, or what came is no message of ours.
        """
        came = _patiently(self._sock.recv, _AT_ONCE)
        if not came:
            if self._rest:
                raise ConnectionResetError("the other end closed in the middle of a message")
            return None
        data, at, messages = self._rest + came, 0, []
        while len(data) - at >= _HEAD.size:
            (size,) = _HEAD.unpack_from(data, at)
            if size > _MOST:
                raise ConnectionResetError(f"a message of {size} bytes is none of ours")
            end = at + _HEAD.size + size
            if len(data) < end:
                break
            try:
                messages.append(decode(data[at + _HEAD.size : end]))
            except ValueError as error:
                raise ConnectionResetError(str(error)) from error
            at = end
        self._rest = data[at:]
        return messages


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """Receive one message and the descriptors with it (close-on-exec, the caller's to close); None at the end.

    Raises:
        OSError: the other end closed in the middle of a message, the time limit passed, or what came is no message of ours.
    """
    head, ancillary = _begin(sock)
    fds = [fd for _, _, data in ancillary for fd in memoryview(data).cast("i")]
    if not head:
        return None
    try:
        if len(head) < _HEAD.size:
            head += _exactly(sock, _HEAD.size - len(head))
        (size,) = _HEAD.unpack(head)
        if size > _MOST:
            raise ConnectionResetError(f"a message of {size} bytes is none of ours")
        return decode(_exactly(sock, size)), fds
    except BaseException as error:
        for fd in fds:
            os.close(fd)
        if isinstance(error, ValueError):
            raise ConnectionResetError(str(error)) from error
        raise
