"""The one Owner that answers for all commands that a process starts by `tether.subprocess`."""

from __future__ import annotations

import atexit
import os
import re
import sys
import threading
from pathlib import Path

from tether.owner.owner import Owner

__all__ = ["owner"]


class _Shared:
    """The owner of this process; none before the first command."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.owner: Owner | None = None

    def get(self) -> Owner:
        with self.lock:
            if self.owner is None:
                # What the app starts beside tether is no business of what it starts here.
                self.owner = Owner(_name(), strays="leave")
            return self.owner

    def end(self) -> None:
        with self.lock:
            made, self.owner = self.owner, None
        if made is not None:
            made.shutdown()


_shared = _Shared()


def _begin_anew_in_fork() -> None:
    """A fork owns nothing of it, and a lock that another thread held just then would stay locked."""
    global _shared
    _shared = _Shared()


os.register_at_fork(after_in_child=_begin_anew_in_fork)
# Registered when this is imported, so that what the app registers later, and may start commands, comes first.
atexit.register(lambda: _shared.end())


def _name() -> str:
    """What the app is called in ``tether ps``: as its script."""
    script = Path(sys.argv[0] if sys.argv else "").stem
    return re.sub(r"[^A-Za-z0-9._-]", "-", script).lstrip("._-")[:100] if script.strip("._-cm") else "python"


def owner() -> Owner:
    """Return the Owner of what this process starts by `tether.subprocess`, made when it is first asked for.

    It ends what still runs when the interpreter ends, politely; and whenever this process dies, by whatever cause, all of it is ended at
    once. After `tether.Owner.shutdown` of it nothing can be started any more.

    Raises:
        StateDirError, LedgerError: see `tether.Owner`.
    """
    return _shared.get()
