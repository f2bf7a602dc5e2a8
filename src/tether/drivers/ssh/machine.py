"""A host that is a machine of a cloud: reached as soon as it has booted, and gone with all that runs on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tether.drivers.ssh.spec import RemoteProcess
from tether.errors import DriverUnavailable
from tether.model import Handle, Progress, Reachable

__all__ = ["MachineGone", "await_boot", "is_gone", "record"]

_BOOT_S = 300.0
_PAUSE_S = 1.0


class MachineGone(DriverUnavailable):
    """The machine on which something ran is gone for certain, and so is that."""


def record(spec: RemoteProcess) -> dict[str, Any]:
    """Return what is recorded of the machine: its tag, and the file that tells whether it is there."""
    if not isinstance(spec.on, Reachable):
        return {}
    made = spec.on.details.get("ssh_known_hosts") or spec.on.details.get("ssh_key")
    return {"on": spec.on.id, "on_mark": None if made is None else Path(made).name}


def is_gone(state_dir: Path, handle: Handle) -> bool:
    """Whether the machine is gone for certain.

    The file with its host key, or the key to log in with, was made before the machine, and is removed after its provider was seen
    to show it no more. Of a machine that tether did not make nothing is known here.
    """
    mark, folder = handle.data.get("on_mark"), state_dir / "run"
    return mark is not None and folder.is_dir() and not (folder / mark).exists()


def await_boot(reach: Callable[[], object], machine: Reachable, progress: Progress) -> None:
    """Reach a machine. While one that was made just now boots, nothing listens there, or neither host key nor users are right.

    Raises:
        DriverUnavailable: it can't be reached, with what was last said.
    """
    deadline = time.monotonic() + (_BOOT_S if machine.details.get("ssh_key") else 0.0)
    said = ""
    while True:
        try:
            reach()
        except DriverUnavailable as error:
            if machine.state.is_final or time.monotonic() > deadline:
                raise
            if str(error) != said:
                said = str(error)
                progress(f"waiting for machine {machine.name} to let us in ({said})")
        else:
            return
        time.sleep(_PAUSE_S)
