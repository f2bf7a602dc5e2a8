"""Work in a thread of its own, where one can be made: pids.max or RLIMIT_NPROC may be reached just when things must end."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["begin"]


def begin(work: Callable[[], object], name: str) -> bool:
    """Have ``work`` done in a daemon thread called ``name``; False where no thread can be made now, and nothing was begun."""
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError:
        return False
    return True
