"""What is said to a command by its pipe and what it says, both at once: neither waits for the other for ever."""

from __future__ import annotations

import io
import os
import select
import selectors
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tether.errors import DeadlineExceeded, SpecError
from tether.life.managed import Managed

__all__ = ["Conversation", "of"]

_PART = 1 << 16


class Conversation:
    """May be interrupted by a time limit and gone on with: nothing of it is lost.

    Args:
        streams: our ends of the pipes, by name; text or binary.
    """

    def __init__(self, streams: Mapping[str, Any]) -> None:
        self.streams = dict(streams)
        self._heard: dict[str, list[bytes]] = {name: [] for name in ("stdout", "stderr") if name in streams}
        self._left = memoryview(b"")
        self._begun = False

    def proceed(self, said: str | bytes | None, deadline: float | None) -> None:
        """Send and receive until the output has ended.

        Raises:
            ValueError: there is something new to say, after it was begun.
            DeadlineExceeded: it has not ended by then.
        """
        self._begin(said)
        with selectors.DefaultSelector() as selector:
            for name, stream in self.streams.items():
                if not stream.closed:
                    selector.register(stream, selectors.EVENT_WRITE if name == "stdin" else selectors.EVENT_READ, name)
            while selector.get_map():
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise DeadlineExceeded("its output has not ended")
                for key, _ in selector.select(left):
                    go_on = self._send(key.fd) if key.data == "stdin" else self._receive(key.data, key.fd)
                    if not go_on:
                        selector.unregister(key.fileobj)
                        _close(key.fileobj)

    def _begin(self, said: str | bytes | None) -> None:
        if said and self._begun:
            raise ValueError("it was begun already, and what is to be said was given then")
        stdin = self.streams.get("stdin")
        if said and stdin is None:
            raise SpecError("there is no pipe to say it to: start it with stdin='pipe'")
        if stdin is None or self._begun:
            return
        if isinstance(said, str):
            if not isinstance(stdin, io.TextIOBase):
                raise TypeError("what is said must be bytes: its pipes are not text")
            said = said.encode(stdin.encoding, stdin.errors or "strict")
        elif isinstance(stdin, io.TextIOBase) and said is not None:
            raise TypeError("what is said must be text, as its pipes are")
        self._left = memoryview(said or b"")
        self._begun = True
        # What was written before. A command that no longer reads is no error here, as with subprocess.
        with suppress(BrokenPipeError, ValueError):
            stdin.flush()
        if not self._left:
            _close(stdin)

    def _send(self, fd: int) -> bool:
        try:
            # So much is taken without waiting: pipe(7).
            self._left = self._left[os.write(fd, self._left[: select.PIPE_BUF]) :]
        except BrokenPipeError:
            return False
        return bool(self._left)

    def _receive(self, name: str, fd: int) -> bool:
        try:
            data = os.read(fd, _PART)
        except OSError:
            # So a terminal says that nobody has its other end open: EIO.
            return False
        self._heard[name].append(data)
        return bool(data)

    def heard(self, name: str) -> Any:
        """Return all that came by one of the two; None if there is no pipe."""
        if name not in self._heard:
            return None
        data, stream = b"".join(self._heard[name]), self.streams[name]
        if not isinstance(stream, io.TextIOBase):
            return data
        return io.TextIOWrapper(io.BytesIO(data), encoding=stream.encoding, errors=stream.errors).read()


def _close(stream: Any) -> None:
    with suppress(BrokenPipeError):
        stream.close()


_going: weakref.WeakKeyDictionary[Managed, Conversation] = weakref.WeakKeyDictionary()


def of(managed: Managed) -> Conversation:
    """Return the conversation with a resource: the one that goes on, of one that was restarted another. Raises SpecError."""
    conversation = _going.get(managed)
    if conversation is None or conversation.streams != managed.streams:
        for stream in managed.streams.values():
            try:
                stream.fileno()
            except (OSError, AttributeError):
                raise SpecError(f"the pipes of {managed.name} are not of this machine: read and write them") from None
            except ValueError:
                # It was closed.
                continue
        conversation = _going[managed] = Conversation(managed.streams)
    return conversation
