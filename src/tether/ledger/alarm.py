"""What wakes a thread that waits in poll(2)."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

__all__ = ["Alarm"]

_ONE = (1).to_bytes(8, sys.byteorder)


class Alarm:
    """An eventfd(2) that is written at most once until it was heard: of many who have news, one makes the system call.

    It may be rung from a signal handler that interrupted another: there is no lock.

    Raises:
        OSError: there is no descriptor left for it.
    """

    def __init__(self) -> None:
        self._file = io.FileIO(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK), "wb")
        self._is_rung = False

    def fileno(self) -> int:
        """Return the descriptor, which can be read while the alarm is rung."""
        return self._file.fileno()

    def ring(self) -> None:
        """Wake who waits. News must be there before this is called."""
        if self._is_rung:
            return
        try:
            self._is_rung = True
            self._file.write(_ONE)
        except (OSError, ValueError):
            # ValueError: closed meanwhile, by the thread that has ended.
            self._is_rung = False
        except BaseException:
            self._is_rung = False
            raise

    def hear(self) -> None:
        """Be quiet again. Who has news from now on rings again; look at what there is only after this."""
        with suppress(OSError, ValueError):
            os.read(self._file.fileno(), 8)
        self._is_rung = False

    def close(self) -> None:
        """Close the descriptor; who rings later wakes nobody."""
        self._file.close()
