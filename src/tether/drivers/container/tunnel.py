"""An engine on another host, through ssh(1): the user's configuration, keys and agent hold as for ``docker -H ssh://``.

Each connection is one `ssh HOST docker system dial-stdio`, whose standard streams are one end of a socket pair. So time limits, and
a close from another thread work as with any socket, and when this process dies, by whatever cause, ssh reads the end of file
and leaves.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from docker import APIClient
from docker.transport import UnixHTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from tether.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["client_by_ssh", "command"]

_GOING_S = 2.0


def command(url: str) -> list[str]:
    """Return the command that connects standard input and output with the engine. Raises SpecError for what is no such address."""
    parts = urlsplit(url)
    if not parts.hostname or parts.hostname.startswith("-") or (parts.username or "").startswith("-"):
        raise SpecError(f"{url!r} is no address of an engine; write ssh://user@host, or ssh://user@host:port")
    if parts.password or parts.path not in ("", "/"):
        raise SpecError("an engine's address ssh:// takes a user, a host and a port only: keys are ssh's matter")
    user = ["-l", parts.username] if parts.username else []
    port = ["-p", str(parts.port)] if parts.port else []
    return ["ssh", "-T", "-o", "BatchMode=yes", *user, *port, "--", parts.hostname, "docker", "system", "dial-stdio"]


class _Sshs:
    """The ssh commands of one client; those that have ended are collected, so that no zombies stay."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = argv
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[bytes]] = []

    def connect(self, timeout_s: float | None) -> socket.socket:
        """Start one, and return our end of its streams. Raises OSError."""
        ours, its = socket.socketpair()
        with its:
            process = subprocess.Popen(
                list(self._argv),
                stdin=its.fileno(),
                stdout=its.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        with self._lock:
            self._running = [each for each in self._running if each.poll() is None] + [process]
        ours.settimeout(timeout_s)
        return ours

    def end(self) -> None:
        """Collect all of them; their streams were closed before, so they are leaving."""
        with self._lock:
            running, self._running = self._running, []
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GOING_S)
                continue
            process.kill()
            process.wait()


class _Connection(HTTPConnection):
    def __init__(self, sshs: _Sshs, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._sshs = sshs

    def connect(self) -> None:
        self.sock = self._sshs.connect(self.timeout)


class _Pool(HTTPConnectionPool):
    def __init__(self, sshs: _Sshs, timeout_s: float, size: int) -> None:
        super().__init__("localhost", timeout=timeout_s, maxsize=size)
        self._sshs = sshs
        self._limit_s = timeout_s

    def _new_conn(self) -> _Connection:
        return _Connection(self._sshs, self._limit_s)


class _Adapter(UnixHTTPAdapter):
    def __init__(self, url: str, timeout_s: float) -> None:
        self._sshs = _Sshs(command(url))
        self._limit_s = timeout_s
        super().__init__("http+unix:///behind-ssh")

    def get_connection(self, url: Any, proxies: Any = None) -> Any:
        with self.pools.lock:
            if self.pools.get(url) is None:
                self.pools[url] = _Pool(self._sshs, self._limit_s, self.max_pool_size)
            return self.pools[url]

    def close(self) -> None:
        super().close()
        self._sshs.end()


def client_by_ssh(url: str, timeout_s: float, version: str) -> APIClient:
    """Return a client of an engine behind ssh; no connection is made yet. Raises SpecError for what is no such address."""
    # Nothing goes out until the adapter is exchanged.
    client = APIClient(base_url="unix:///behind-ssh", version=version, timeout=int(timeout_s))
    client.mount("http+docker://", _Adapter(url, timeout_s))
    return client
