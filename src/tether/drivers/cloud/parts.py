"""What was made beside something that is rented, removed with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tether.drivers.cloud.provider import Part
from tether.errors import DriverUnavailable

__all__ = ["remove_all"]

_LIMIT_S = 90.0
_PAUSE_S = 1.0


def remove_all(tag: str, left: Callable[[], Sequence[Part]], remove: Callable[[Part], None]) -> None:
    """Remove the parts of a resource until none is shown.

    Args:
        tag: the resource's.
        left: says which are there.
        remove: removes one.

    Raises:
        DriverUnavailable: they can't be removed, or the provider does not answer; to be tried again.
    """
    deadline = time.monotonic() + _LIMIT_S
    refused: DriverUnavailable | None = None
    while parts := left():
        for part in parts:
            try:
                remove(part)
            except DriverUnavailable as error:
                # A firewall rule is in use until the machine's interface is gone.
                refused = error
        if time.monotonic() > deadline:
            raise refused or DriverUnavailable(f"resource {tag}: {list(parts)} were removed and are still there")
        time.sleep(0 if refused is None else _PAUSE_S)
