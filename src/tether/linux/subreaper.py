"""Adopt the orphans among one's descendants. Source: PR_SET_CHILD_SUBREAPER(2const), Linux 3.4."""

from __future__ import annotations

import ctypes

from tether.linux import tier

__all__ = ["become_subreaper", "name_process"]

_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> bool:
    """Make this process the new parent of every orphan below it.

    Returns:
        True if the kernel agreed; False where it can't, or where the portable path is forced.
    """
    if tier.is_portable():
        return False
    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (AttributeError, OSError):
        return False


def name_process(name: bytes) -> None:
    """Set the name that ps and top show for this process, at most 15 bytes."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name, 0, 0, 0)
    except (AttributeError, OSError):
        return
