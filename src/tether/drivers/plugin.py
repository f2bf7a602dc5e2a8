"""What a plugin started by itself: recorded identities, to be ended when the owner can't do it any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tether.drivers import Context
from tether.errors import DeadlineExceeded, SpecError
from tether.linux import identity, members
from tether.model import Handle, OnDeath, Progress, State, Status, Usage
from tether.protocol import ENDED_REMOTELY, PluginExecutionMode

__all__ = ["PluginDriver"]

_LIMIT_S = 10.0


class PluginDriver:
    """See `tether.drivers.Driver`. The handle has the identities that were seen; it starts nothing."""

    kind: ClassVar[str] = "plugin"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.IN_PROCESS})

    def __init__(self, context: Context) -> None:
        self._state_dir: Path = context.state_dir

    def start(self, spec: Any, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Refuse: a plugin starts its processes itself."""
        raise SpecError("a plugin is not started but registered: use Owner.register(plugin)")

    def find(self, tag: str) -> list[Handle]:
        """Return nothing: what a plugin starts carries its owner's tag, and is looked for by that."""
        return []

    def marks(self, handle: Handle | None, tag: str) -> members.Marks | None:
        """Say by what they are recognised. See `tether.drivers.HasMarks`."""
        return None if handle is None or handle.data["boot"] != identity.boot_id() else self._marks(handle)

    def _marks(self, handle: Handle) -> members.Marks:
        return members.Marks([(pid, start) for pid, start in handle.data["pids"]], uid=handle.data["uid"])

    def _members(self, handle: Handle) -> list[tuple[int, int]]:
        if handle.data["boot"] != identity.boot_id():
            return []
        return members.find(self._marks(handle))

    def inspect(self, handle: Handle) -> Status:
        """Look for the recorded processes and their descendants."""
        found = self._members(handle)
        return Status(State.READY if found else State.GONE, pids=tuple(pid for pid, _ in found))

    def stop(self, handle: Handle, grace: float) -> None:
        """End them by force: how to ask a plugin's processes politely only the plugin knew."""
        self.destroy(handle)

    def destroy(self, handle: Handle) -> None:
        """End them by force."""
        if self._members(handle) and members.end(self._marks(handle), _LIMIT_S):
            raise DeadlineExceeded(
                f"processes of plugin {handle.tag} were killed and are still there; they stay on record"
            )

    def remains(self, handle: Handle) -> str:
        """Say what a cloud-aware plugin rented, as far as it told: only the plugin could end that."""
        remote = handle.data.get("remote") or {}
        if not remote or str(remote.get("status", "unknown")).lower() in ENDED_REMOTELY:
            return ""
        words = [
            str(remote[name]) for name in ("resource_type", "instance_id", "job_id", "ssh_host") if remote.get(name)
        ]
        return (
            f"what it rented, {' '.join(words) or 'without a name'} at {remote.get('provider', 'its provider')}, had the status "
            f"{remote.get('status', 'unknown')!r} and could not be ended without its app; it may cost money: end it there"
        )

    def usage(self, handle: Handle) -> Usage:
        """Say how many there are."""
        return Usage(processes=len(self._members(handle)))
