"""The command line as a person and as a program use it: in a process of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from typing import Any

TETHER = [sys.executable, "-m", "tether"]


def tether(*args: str, code: int = 0, **more: Any) -> str:
    """Run a command and return what it printed; its exit code must be ``code``."""
    done = subprocess.run([*TETHER, *args], capture_output=True, text=True, timeout=60, check=False, **more)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    said: str = done.stdout + done.stderr if code else done.stdout
    return said


def table(*args: str) -> Any:
    """Run a command with --json."""
    return json.loads(tether(*args, "--json"))


def on_terminal(*args: str, columns: int = 80, within: float = 30.0, **environ: str) -> str:
    """Run a command on a terminal of its own, until it ends, and return what that got."""
    sized_by_itself = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    pid, fd = pty.fork()
    if pid == 0:
        try:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
            os.execvpe(TETHER[0], [*TETHER, *args], {**sized_by_itself, "TERM": "xterm", **environ})
        finally:
            os._exit(99)
    got = b""
    deadline = time.monotonic() + within
    while select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            data = os.read(fd, 65536)
        except OSError:
            # The last of its processes has closed the terminal.
            data = b""
        if not data:
            break
        got += data
    os.close(fd)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, got
    return got.decode().replace("\r\n", "\n")
