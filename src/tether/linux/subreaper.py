"""Adopt the orphans among one's descendants. Source: PR_SET_CHILD_SUBREAPER(2const), Linux 3.4."""

from __future__ import annotations

import ctypes

__all__ = ["become_subreaper", "name_process"]

_prctl = ctypes.CDLL(None).prctl
_prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> bool:
    """Make this process the new parent of every orphan below it.

    Returns:
        True if the kernel agreed.
    """
    return bool(_prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def name_process(name: bytes) -> None:
    """Set the name that ps and top show for this process, at most 15 bytes."""
    buffer = ctypes.create_string_buffer(name)
    _prctl(_PR_SET_NAME, ctypes.addressof(buffer), 0, 0, 0)
