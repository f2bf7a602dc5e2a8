"""The owner's tag in this process's environment, a mark of what the app starts beside tether; and how to be without it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tether.linux import members

__all__ = ["apart", "mark", "unmark"]


class _Marks:
    """The tags of this process's owners, the oldest first."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.own: list[str] = []
        self.apart = 0

    def write(self, inherited: list[str]) -> None:
        """Set the variable: what this process inherited, and its own unless somebody starts something apart."""
        tags = [*inherited, *([] if self.apart else self.own)]
        if tags:
            os.environ[members.OWNER] = ":".join(tags)
        else:
            os.environ.pop(members.OWNER, None)

    def inherited(self) -> list[str]:
        """The tags of owners of other processes, below which this one was started."""
        there = os.environ.get(members.OWNER, "").split(":")
        return [tag for tag in there if tag and tag not in self.own]


_marks = _Marks()


def _unlock_in_fork() -> None:
    """A lock that another thread held just then would stay locked."""
    _marks.lock = threading.RLock()


os.register_at_fork(after_in_child=_unlock_in_fork)


def mark(owner: str) -> None:
    """Have what this process starts from now on carry the owner's tag."""
    with _marks.lock:
        inherited = _marks.inherited()
        _marks.own.append(owner)
        _marks.write(inherited)


def unmark(owner: str) -> None:
    """Have what is started from now on carry it no longer."""
    with _marks.lock:
        inherited = _marks.inherited()
        _marks.own = [tag for tag in _marks.own if tag != owner]
        _marks.write([tag for tag in inherited if tag != owner])


@contextmanager
def apart() -> Iterator[dict[str, str]]:
    """Start something that is meant to stay: what is started within this block is none of the app's strays.

    For instance ``with tether.apart(): subprocess.Popen(["ssh-agent"])``.

    It hands out a copy of the environment without the marks, for what takes ``env=``. The environment is the whole process's: what
    other threads start meanwhile is apart as well. Resources are not concerned: those end, or are kept, by their specs.
    """
    with _marks.lock:
        inherited = _marks.inherited()
        _marks.apart += 1
        _marks.write(inherited)
        environment = dict(os.environ)
    try:
        yield environment
    finally:
        with _marks.lock:
            inherited = _marks.inherited()
            _marks.apart -= 1
            _marks.write(inherited)
