"""The owners of this process that were not shut down: a fork owns none of them, and two of one name are seldom meant."""

from __future__ import annotations

import os
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tether.owner.owner import Owner

__all__ = ["add", "see_to_former"]

_owners: weakref.WeakSet[Owner] = weakref.WeakSet()


def add(owner: Owner) -> None:
    """Remember an owner, so that a fork lets go of it."""
    _owners.add(owner)


def see_to_former(name: str, state_dir: Path, *, replace: bool) -> None:
    """Shut down the owners of this name that this process has already, or warn of those that still have something.

    A notebook's cell that is run twice, or an app's module that is imported under two names, makes a second one without a thought.

    Raises:
        ExceptionGroup: a former one could not end everything, as from `Owner.shutdown`.
    """
    for former in [each for each in list(_owners) if each.name == name and each.state_dir == state_dir]:
        if replace:
            former.shutdown()
        elif former.is_in_use:
            warnings.warn(
                f"{former!r} goes on, while a second owner of this name is made in this process; shut the first one down, or use "
                f"Owner({name!r}, replace=True), which does that",
                RuntimeWarning,
                stacklevel=3,
            )


def _release_all_in_fork() -> None:
    for owner in list(_owners):
        owner.release_in_fork()


os.register_at_fork(after_in_child=_release_all_in_fork)
