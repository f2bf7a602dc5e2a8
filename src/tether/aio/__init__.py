"""tether for asyncio: the same names as `tether.Owner` and `tether.Resource`, what takes time is awaited.

Waiting takes no thread: a wait is completed by the owner's watching thread. Nothing is done in the loop's own executor; what
blocks (a start, a question to an engine) has threads of tether's own, made as they are needed, and each end a thread of its own.

Works under asyncio, under trio, and under anyio with either. trio is not imported here, anyio for pipes only, if it is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.aio.owner import Owner
from tether.aio.resource import Resource
from tether.aio.watch import Watch

if TYPE_CHECKING:
    from tether.aio.streams import (
        BrokenResourceError,
        BusyResourceError,
        ClosedResourceError,
        EndOfStream,
        ReceiveStream,
        SendStream,
    )

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


def __getattr__(name: str) -> object:
    """Import the streams, and anyio where that is installed, when one of their names is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'tether.aio' has no attribute {name!r}")
    from tether.aio import streams

    return getattr(streams, name)
