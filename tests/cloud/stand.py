"""What the stand-ins for AWS have in common: a server in a process of its own, which is told what to do wrong."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from werkzeug.serving import WSGIRequestHandler

import support
from tether.linux import sockets

_TESTS = Path(__file__).parents[1]


class Stand:
    """A running stand-in, from outside.

    Attributes:
        url: where it answers.
        process: the server's.
        is_down: whether it was told to answer nobody.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self.process: subprocess.Popen[bytes] | None = process
        self.is_down = False

    def tell(self, **what: Any) -> dict[str, Any]:
        """Set faults ([["RunInstances", "lost"], ...]), ``late`` and ``down``; return what there is."""
        request = urllib.request.Request(f"{self.url}/_stand", json.dumps(what).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            said: dict[str, Any] = json.load(answer)
            return said

    def go_down(self) -> None:
        """Have every request's connection broken, for two minutes at most."""
        self.is_down = True
        self.tell(down=120)

    def come_back(self) -> None:
        """Answer again."""
        self.tell(down=0)
        self.is_down = False


@contextmanager
def served(module: str, *arguments: str | Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a stand-in; its address and its process, which is gone at the end."""
    port = sockets.free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TETHER_", "AWS_"))}
    process = subprocess.Popen(
        [*support.SERVICE, sys.executable, "-W", "ignore", "-m", module, str(port), *map(str, arguments)],
        stdout=subprocess.PIPE,
        cwd=_TESTS,
        env=kept,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


class Quiet(WSGIRequestHandler):
    """In the server: breaks the connection where an answer is to be lost, and logs nothing."""

    def log(self, *args: object) -> None:
        """Say nothing."""

    def connection_dropped(self, *args: object) -> None:
        """Have nobody hear any more."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
