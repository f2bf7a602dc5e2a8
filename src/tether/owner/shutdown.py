"""In which order resources end. Pure: it decides who is next, and nothing else."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence

from tether.errors import SpecError

__all__ = ["Order"]


class Order:
    """Who ends when: a graph with a counter for each resource, so that many cost no more each than few.

    A resource waits for those that said that they need it, however long. For those that were started after it and did not say
    what they need it waits as long as there is patience, so that one that hangs does not hold up the others.

    Args:
        needs: the names in the order of their start, each with the names that it needs; None if it did not say.
        inside: for those that run in another (an environment, a machine), the name of that, which they need as well.

    Raises:
        SpecError: they need each other in a circle.
    """

    def __init__(
        self, needs: Mapping[str, Sequence[str] | None], inside: Mapping[str, str | None] | None = None
    ) -> None:
        self._place = {name: place for place, name in enumerate(needs)}
        self._needs: dict[str, set[str]] = {
            name: {
                each for each in (*(said or ()), (inside or {}).get(name)) if each is not None and each in self._place
            }
            for name, said in needs.items()
        }
        self._needed_by = Counter(each for needed in self._needs.values() for each in needed)
        self._unsaid = [name for name, said in needs.items() if said is None]
        self._ended: set[str] = set()
        self._free: list[tuple[int, str]] = []
        self._refuse_circles()
        for name in needs:
            if not self._needed_by[name]:
                heapq.heappush(self._free, (-self._place[name], name))

    def take(self, *, patient: bool) -> list[str]:
        """Return who may end now, the last started first, each once; while ``patient`` only who need not wait for later ones."""
        taken = []
        while self._free and (not patient or self._place[self._free[0][1]] >= self._last_unsaid()):
            taken.append(heapq.heappop(self._free)[1])
        return taken

    def end(self, name: str) -> None:
        """Note that one has ended, or can't be ended: nobody waits for it any more."""
        if name in self._ended:
            return
        self._ended.add(name)
        for each in self._needs[name]:
            self._needed_by[each] -= 1
            if not self._needed_by[each]:
                heapq.heappush(self._free, (-self._place[each], each))

    @property
    def is_over(self) -> bool:
        """Whether all have ended."""
        return len(self._ended) == len(self._place)

    def _last_unsaid(self) -> int:
        while self._unsaid and self._unsaid[-1] in self._ended:
            self._unsaid.pop()
        return self._place[self._unsaid[-1]] if self._unsaid else -1

    def _refuse_circles(self) -> None:
        counts = Counter(self._needed_by)
        free = [name for name in self._place if not counts[name]]
        for name in free:
            for each in self._needs[name]:
                counts[each] -= 1
                if not counts[each]:
                    free.append(each)
        if len(free) < len(self._place):
            left = ", ".join(sorted(self._place.keys() - set(free)))
            raise SpecError(f"these need each other in a circle: {left}; mend needs= of one of them")
