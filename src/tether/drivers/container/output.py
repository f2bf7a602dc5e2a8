"""What a container writes: asked of its engine while it is there, saved before it is removed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tether.drivers.container.engine import Absent, Engine, Engines
from tether.ledger import logs, place
from tether.model import Handle

__all__ = ["Output"]

_SAVED_LINES = 10_000
_STREAMS = ("stdout", "stderr")


class Output:
    """The output of a driver's containers.

    Args:
        state_dir: where it is saved.
        engines: the driver's.
        container: returns the id of a handle's container.
    """

    def __init__(self, state_dir: Path, engines: Engines, container: Callable[[Handle], str]) -> None:
        self._state_dir = state_dir
        self._engines = engines
        self._container = container

    def _saved(self, tag: str, stream: str | None) -> Path:
        log = logs.path(self._state_dir, tag)
        return log if stream is None else logs.of_stream(log, stream)

    def read(self, handle: Handle, lines: int | None, stream: str | None = None) -> bytes:
        """Return the last lines, or all, of both streams or of one; of one that has ended, as far as it was saved."""
        saved = self._saved(handle.tag, stream)
        if saved.exists():
            return logs.last_lines(saved.read_bytes(), lines)
        if handle.data.get("container") is None:
            return b""
        try:
            with self._engines.of(handle.data).asked() as client:
                return bytes(
                    client.logs(
                        self._container(handle),
                        stdout=stream != "stderr",
                        stderr=stream != "stdout",
                        tail="all" if lines is None else lines,
                    )
                )
        except Absent:
            return b""

    def follow(self, handle: Handle) -> Iterator[bytes]:
        """Yield what the engine passes on, until the container ends."""
        if self._saved(handle.tag, None).exists():
            return
        with suppress(Absent), self._engines.of(handle.data).asked() as client:
            yield from client.logs(self._container(handle), stream=True, follow=True, since=int(time.time()))

    def save(self, engine: Engine, tag: str, container: str) -> None:
        """Save the last lines of what is about to be removed; without its output it is removed all the same."""
        with suppress(Exception), engine.asked() as client:
            kept = {
                stream: client.logs(container, tail=_SAVED_LINES, stdout=stream == "stdout", stderr=stream == "stderr")
                for stream in _STREAMS
            }
            # As they came, where there is something of both.
            both = client.logs(container, tail=_SAVED_LINES) if all(kept.values()) else b"".join(kept.values())
            for stream, data in [(None, both), *kept.items()]:
                place.write_private(self._saved(tag, stream), data)
