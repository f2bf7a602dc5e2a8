"""Wait until something can be read, also where gevent or eventlet has replaced what waits."""

from __future__ import annotations

import select
from collections.abc import Sequence

__all__ = ["await_readable"]


def await_readable(fds: Sequence[int], timeout_s: float | None) -> list[int]:
    """Return those of some descriptors that can be read, or have ended; none if the time limit passed first."""
    if not hasattr(select, "poll"):
        # eventlet takes it away; what it leaves holds up nobody else, and knows no limit of numbers.
        return list(select.select(list(fds), [], [], timeout_s)[0])
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000)]
