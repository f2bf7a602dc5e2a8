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

    def begin_anew(self) -> None:
        """In a fork, which owns nothing of it, and where a lock that another thread held just then would stay locked."""
        self.lock = threading.Lock()
        self.owner = None

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


os.register_at_fork(after_in_child=_shared.begin_anew)
# Registered when this is imported, so that what the app registers later, and may start commands, comes first.
atexit.register(_shared.end)


def _name() -> str:
    """What the app is called in ``tether ps``: as its script."""
    script = Path(sys.argv[0] if sys.argv else "").stem
    name = re.sub(r"[^A-Za-z0-9._-]", "-", script).lstrip("._-")[:100]
    return name if name and script not in ("-c", "-m") else "python"


def owner() -> Owner:
    """Return the Owner of what this process starts by `tether.subprocess`, made when it is first asked for.

    When the interpreter ends, what still runs is asked to end (SIGTERM) and killed two seconds later; whenever this process dies,
    by whatever cause, all of it is ended at once. A fork of this process has an Owner of its own. Once that was shut down by hand,
    nothing can be started any more.

    Raises:
        StateDirError, LedgerError: see `tether.Owner`.
    """
    return _shared.get()
