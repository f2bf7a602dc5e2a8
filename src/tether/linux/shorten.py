"""Take the head out of a file that others append to. Source: fallocate(2), FALLOC_FL_COLLAPSE_RANGE."""

from __future__ import annotations

import ctypes
import errno
import os

__all__ = ["collapse"]

_FALLOC_FL_COLLAPSE_RANGE = 0x08
_CANT = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV, errno.EPERM, errno.ETXTBSY})

_libc = ctypes.CDLL(None, use_errno=True)


def collapse(fd: int, length: int) -> bool:
    """Remove the first ``length`` bytes, a multiple of the file system's block size, in one step: an append comes before or after.

    Returns:
        False if the file system can't (ext4 and xfs can): nothing was changed.

    Raises:
        OSError: it could, and failed.
    """
    if _libc.fallocate(fd, _FALLOC_FL_COLLAPSE_RANGE, ctypes.c_int64(0), ctypes.c_int64(length)) == 0:
        return True
    error = ctypes.get_errno()
    if error in _CANT:
        return False
    raise OSError(error, os.strerror(error))
