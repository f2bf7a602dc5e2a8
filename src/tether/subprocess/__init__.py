"""`subprocess` with one difference: whatever a command starts ends with the app, all of it. Existing code changes one import.

Names, signatures and exceptions are those of `subprocess`; what has to do with no process (``PIPE``, ``CalledProcessError``, ...)
is its very own. Each command is a resource of one Owner, made with the first command: see `tether.subprocess.owner`. asyncio's
``create_subprocess_exec`` and ``create_subprocess_shell`` are here as well.
"""

import subprocess as _subprocess
import typing

from tether.subprocess.shared import owner

if typing.TYPE_CHECKING:
    from asyncio.subprocess import create_subprocess_exec as create_subprocess_exec
    from asyncio.subprocess import create_subprocess_shell as create_subprocess_shell
    from subprocess import Popen, call, check_call, check_output, getoutput, getstatusoutput, run
else:
    from tether.subprocess.calls import call, check_call, check_output, getoutput, getstatusoutput, run
    from tether.subprocess.popen import Popen

from subprocess import (
    DEVNULL,
    PIPE,
    STDOUT,
    CalledProcessError,
    CompletedProcess,
    SubprocessError,
    TimeoutExpired,
)

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "CalledProcessError",
    "CompletedProcess",
    "Popen",
    "SubprocessError",
    "TimeoutExpired",
    "call",
    "check_call",
    "check_output",
    "getoutput",
    "getstatusoutput",
    "owner",
    "run",
]

if not typing.TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """What is asyncio's, which only those pay for who use it; and what some code uses of `subprocess` that is the same here."""
        if name in ("create_subprocess_exec", "create_subprocess_shell"):
            from tether.subprocess import asynchronous

            return getattr(asynchronous, name)
        return getattr(_subprocess, name)
