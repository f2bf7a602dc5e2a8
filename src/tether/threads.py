"""Work in a thread of its own, where one can be made: pids.max or RLIMIT_NPROC may be reached just when things must end."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["begin"]


def begin(work: Callable[[], object], name: str) -> threading.Thread | None:
    """Have ``work`` done in a daemon thread called ``name``; None where no thread can be made now, and nothing was begun."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread
