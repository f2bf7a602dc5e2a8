"""Messages between owner, hub and shims: both directions, odd sizes, and whatever nonsense somebody sends."""

from __future__ import annotations

import collections
import os
import random
import socket
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import eventually
from tether import Owner, Process
from tether.guard import wire
from tether.guard.wire import Kind
from tether.linux import tree

VALUES = {int: st.integers(-(2**63), 2**63 - 1), bytes: st.binary(max_size=300)}
FIELDS = st.fixed_dictionaries(
    {}, optional={name: st.lists(VALUES[kind], min_size=1, max_size=4) for name, (_, kind) in wire.FIELDS.items()}
)


@given(st.sampled_from(list(Kind)), FIELDS)
def test_what_is_encoded_is_decoded(kind: Kind, fields: dict[str, list[int | bytes]]) -> None:
    """Every field comes back with its values in their order."""
    packet = wire.encode(kind, fields)
    message = wire.decode(packet[4:])
    assert message.kind == kind
    assert dict(message.fields) == fields


@given(st.binary(max_size=200))
def test_nonsense_is_refused_or_read(body: bytes) -> None:
    """Any bytes are a message or a ValueError, never anything else."""
    try:
        message = wire.decode(body)
    except ValueError:
        return
    assert body[0] == wire.VERSION
    assert message.kind == body[1]


def test_what_comes_at_once_is_read_at_once() -> None:
    """Several messages in one look, and one in pieces when it is whole; the end after the last."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        incoming = wire.Incoming(ours)
        packets = [wire.encode(Kind.EXITED, {"status": 3}), wire.encode(Kind.ENDED, {"why": "x" * 300})]
        theirs.sendall(packets[0] + packets[1] + packets[1][:7])
        assert [message.kind for message in incoming.read() or ()] == [Kind.EXITED, Kind.ENDED]
        theirs.sendall(packets[1][7:100])
        assert not incoming.read()
        theirs.sendall(packets[1][100:])
        assert [message.text("why") for message in incoming.read() or ()] == ["x" * 300]
        theirs.close()
        assert incoming.read() is None


@pytest.mark.parametrize(
    "sent",
    [wire.encode(Kind.EXITED, {"status": 3})[:-1], b"\xff\xff\xff\xff", b"\x02\0\0\0\x09\x01"],
    ids=["cut", "huge", "of another version"],
)
def test_what_is_no_message_is_an_error_of_the_line(sent: bytes) -> None:
    """As if the line were broken: nothing of it is believed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        incoming = wire.Incoming(ours)
        theirs.sendall(sent)
        theirs.close()
        with pytest.raises(ConnectionResetError):
            collections.deque(iter(incoming.read, None), maxlen=0)


@pytest.mark.parametrize("count", [0, 1, 249, 250, 251, 300, 600])
def test_descriptors_of_any_number_arrive(count: int) -> None:
    """The kernel takes 253 with one byte; more come in pieces."""
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    fds = [os.dup(write) for _ in range(count)]
    try:
        with ours, theirs:
            wire.send(ours, Kind.SPAWN, {"arg": [b"x" * 20] * max(1, count)}, fds)
            got: list[int] = []
            data = b""
            while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "little"):
                piece, ancillary, _, _ = theirs.recvmsg(1 << 16, socket.CMSG_SPACE(4 * 253))
                data += piece
                got += [fd for _, _, part in ancillary for fd in memoryview(part).cast("i")]
            assert len(got) == count
            for fd in got:
                os.close(fd)
    finally:
        for fd in [*fds, read, write]:
            os.close(fd)


def _messages(rng: random.Random) -> list[bytes]:
    """Messages that look right and are not: cut, too long, with wrong lengths, numbers of other sizes, unknown kinds and keys."""
    packets = []
    for _ in range(60):
        fields = {
            name: rng.choice([rng.randbytes(rng.randrange(40)), rng.randrange(-(2**40), 2**40)])
            for name in rng.sample(sorted(wire.FIELDS), 6)
        }
        packet = bytearray(
            wire.encode(rng.choice([Kind.STOP, Kind.SIGNAL, Kind.CONTINUE, Kind.ADOPT, Kind.READY]), fields)
        )
        # A signal that means something would do what it says.
        for _ in range(rng.randrange(1, 6)):
            packet[rng.randrange(6, len(packet))] = rng.randrange(256)
        packets.append(bytes(packet))
    return packets


@pytest.mark.parametrize("seed", range(6))
def test_a_shim_survives_nonsense_or_ends_its_tree(make_owner: Callable[..., Owner], seed: int) -> None:
    """Whatever is written to its channel, the shim goes on or ends its tree: nothing is left, and no other tree is touched."""
    owner = make_owner("fuzz")
    other = owner.start(Process(["sleep", "60"]))
    resource = owner.start(Process(["sh", "-c", "sleep 61 & sleep 62"], stop_grace=0.2))
    pids = eventually(lambda: found if len(found := resource.pids()) == 3 else None)
    line = resource._supervisor.drivers.of("process")._held[resource.id].channel.socket  # type: ignore[attr-defined]
    rng = random.Random(seed)
    try:
        for packet in _messages(rng):
            line.send(packet, socket.MSG_DONTWAIT)
        line.send(rng.randbytes(2000), socket.MSG_DONTWAIT)
    except OSError:
        # It has hung up on us.
        pass
    resource.kill()
    assert [pid for pid in pids if tree.is_running(pid)] == []
    assert other.pids() != []


@pytest.mark.slow
def test_the_hub_survives_nonsense_under_sanitizers(sanitized: str, runner: object) -> None:
    """The program built with sanitizers reads random configurations; none of it is out of bounds. Slow: many processes."""
    rng = random.Random(7)
    for _ in range(40):
        ours, theirs = socket.socketpair()
        more, shims = socket.socketpair()
        read, write = os.pipe()
        packet = rng.choice([rng.randbytes(rng.randrange(1, 200)), *[bytes(each) for each in _messages(rng)[:1]]])
        with ours, theirs, more, shims:
            process = subprocess.Popen(
                ["bash", "-c", f"exec 3<&{read} 4<&{theirs.fileno()} 5<&{shims.fileno()}; exec {sanitized} hub"],
                pass_fds=[read, theirs.fileno(), shims.fileno()],
                stderr=subprocess.PIPE,
            )
            os.close(read)
            theirs.close()
            shims.close()
            ours.send(packet)
            ours.close()
            os.close(write)
            # The hub is the fork of what was started; its standard error ends with it.
            said = process.communicate(timeout=30)[1]
            assert b"Sanitizer" not in said, said.decode(errors="replace")
            assert b"runtime error" not in said, said.decode(errors="replace")
