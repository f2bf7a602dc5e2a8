"""The resources of an owner that have not ended, by tag and by name."""

from __future__ import annotations

import threading

from tether.errors import Gone
from tether.life.managed import Managed

__all__ = ["Live"]

_SPARE_NAMES = 64


class Live:
    """What an owner has just now.

    What is added is added with ``lock`` held. To leave, and to look, nobody waits for it: the thread that hears of ends does both,
    and a signal handler may have interrupted who holds it.
    """

    def __init__(self) -> None:
        # A signal handler may shut down what it interrupted, in the same thread.
        self.lock = threading.RLock()
        self._managed: dict[str, Managed] = {}
        self._tags: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._is_closed = False

    def close(self) -> None:
        """Add nothing any more: what there is now is all that there will be."""
        with self.lock:
            self._is_closed = True

    def check_open(self) -> None:
        """Raise Gone if nothing is added any more."""
        if self._is_closed:
            raise Gone("the owner is being shut down, and starts nothing any more; make a new one")

    def all(self) -> list[Managed]:
        """Return them in the order of their start."""
        return list(self._managed.values())

    def get(self, tag: str) -> Managed | None:
        """Return the one with this tag."""
        return self._managed.get(tag)

    def by_name(self, name: str) -> Managed | None:
        """Return the one of this name."""
        return self._managed.get(self._tags.get(name, ""))

    def add(self, managed: Managed) -> None:
        """It is live from now on, and its name in use."""
        self._managed[managed.tag] = managed
        self._tags[managed.name] = managed.tag
        if len(self._tags) > 2 * len(self._managed) + _SPARE_NAMES:
            self._tags = {each.name: each.tag for each in self.all()}

    def leave(self, managed: Managed) -> None:
        """It has ended, and its name is free."""
        self._managed.pop(managed.tag, None)

    def choose_name(self, text: str) -> str:
        """Return a name made of ``text``, with a number if it was used before."""
        cleaned = "".join(character if character.isalnum() or character in "._-" else "-" for character in text)
        base = cleaned.lstrip("._-")[:100] or "resource"
        while True:
            number = self._numbers[base] = self._numbers.get(base, 0) + 1
            name = base if number == 1 else f"{base}-{number}"
            if self.by_name(name) is None:
                return name
