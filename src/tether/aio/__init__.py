"""tether for asyncio: the same names as `tether.Owner` and `tether.Resource`, what takes time is awaited.

Waiting takes no thread: a wait is completed by the owner's watching thread. Nothing is done in the loop's own executor; what
blocks (a start, a question to an engine) has threads of tether's own, made as they are needed, and each end a thread of its own.

Works under asyncio, under trio, and under anyio with either; none of them but asyncio is imported here.
"""

from __future__ import annotations

from tether.aio.owner import Owner
from tether.aio.resource import Resource
from tether.aio.streams import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
    ReceiveStream,
    SendStream,
)
from tether.aio.watch import Watch

__all__ = [
    "BrokenResourceError",
    "BusyResourceError",
    "ClosedResourceError",
    "EndOfStream",
    "Owner",
    "ReceiveStream",
    "Resource",
    "SendStream",
    "Watch",
]
