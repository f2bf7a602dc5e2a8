"""An interruption at any call of some work, as a signal handler's exception may come."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

__all__ = ["Interrupted", "interrupted"]


class Interrupted(BaseException):
    """What a signal handler raised."""


def interrupted(work: Callable[[], object], after: int) -> Interrupted | None:
    """Do it, but raise when so many calls have returned, as a signal handler may; what was raised, if it came to that."""
    left = after

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        if "weakref" in frame.f_code.co_filename:
            # The callback of a weak reference: what is raised there is swallowed by Python, wherever it comes from.
            return
        # A handler runs when a call has returned to code in Python, and nowhere in the middle of a `with`.
        if event == "c_return" or (event == "return" and not frame.f_code.co_name.startswith("<")):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                raise Interrupted

    sys.setprofile(count)
    try:
        work()
    except Interrupted as error:
        return error
    finally:
        sys.setprofile(None)
    return None
