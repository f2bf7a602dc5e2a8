"""When not to be shown means not to be there, for what may have been asked for and whose id nobody has."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from tether.drivers.cloud import presence
from tether.drivers.cloud.creation import LIMIT_S
from tether.drivers.cloud.provider import Lists
from tether.ledger import place
from tether.model import Handle

__all__ = ["Absence", "shown_by_now"]

_TWICE_S = 0.5


class Absence:
    """What is known of attempts that left nothing, in this process and in files of the state directory.

    Args:
        state_dir: where the files are.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._never: set[str] = set()

    def refused(self, proof: str) -> None:
        """Note that by the provider's own word an attempt created nothing."""
        self._never.add(proof)

    def was_refused(self, handle: Handle) -> bool:
        """Whether nothing was created."""
        return handle.data["proof"] in self._never

    def seen(self, handle: Handle) -> None:
        """Note for every process that an attempt was seen to have left nothing, so that nobody need wait for late lists again."""
        # Without the note others wait: nothing to hold up an end for.
        with suppress(OSError):
            place.write_private(self._path(handle), handle.data["proof"].encode())

    def is_certain(self, handle: Handle) -> bool:
        """Whether what is not shown now is not there."""
        if self.was_refused(handle) or self._noted(handle) == handle.data["proof"]:
            return True
        if handle.data.get("id") is not None:
            return shown_by_now(handle)
        # Nothing is asked for later than that, and what was is shown by then.
        return bool(time.time() > handle.data["began"] + LIMIT_S + handle.data["lag"])

    def is_proved(self, provider: Lists, handle: Handle) -> bool:
        """Whether what was not shown just now is not there; what is on record is looked for twice. Raises DriverUnavailable."""
        if not self.is_certain(handle):
            return False
        if handle.data.get("id") is None:
            return True
        time.sleep(_TWICE_S)
        return not presence.find(provider, handle).ours

    def _path(self, handle: Handle) -> Path:
        return self._state_dir / "run" / f"{handle.tag}.ended"

    def _noted(self, handle: Handle) -> str:
        """The proof of the attempt that was seen to have left nothing; of an earlier one it says nothing."""
        try:
            return self._path(handle).read_text()
        except OSError:
            return ""


def shown_by_now(handle: Handle) -> bool:
    """Whether what was created, and whose id is on record, would be shown by now."""
    return bool(time.time() - handle.data["made"] > handle.data["lag"])
