"""A socket in front of an engine's, which loses, delays, refuses and silences what a test says."""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Rule:
    """What becomes of requests whose line (``GET /v1.41/containers/json``) matches a pattern.

    Attributes:
        pattern: a regular expression.
        status: what is answered instead of the engine; None to pass the request on.
        delay_s: how long it is held up before that.
        drop: whether the connection is closed without an answer.
        times: how often it happens; a negative number for always.
        skips: so many requests that match pass before that.
    """

    pattern: str
    status: int | None = None
    delay_s: float = 0.0
    drop: bool = False
    times: int = 1
    skips: int = 0
    hits: int = field(default=0, init=False)


class Proxy:
    """Passes requests of an engine's clients on, each connection to one of its own.

    Attributes:
        seen: the first lines of all requests.

    Args:
        path: of the socket to listen at.
        behind: of the engine's socket.
        tls: what clients must speak at a loopback port, instead of the socket.
    """

    def __init__(self, path: Path, behind: Path, tls: ssl.SSLContext | None = None) -> None:
        self._behind = str(behind)
        self._tls = tls
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._connections: set[socket.socket] = set()
        self._deaf = threading.Event()
        self._thawed = threading.Event()
        self._thawed.set()
        self.seen: list[str] = []
        if tls is None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self.url = f"unix://{path}"
        else:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._listener.listen(100)
        threading.Thread(target=self._accept, daemon=True).start()

    # -- what a test does ----------------------------------------------------------------------------------------------

    def on(self, pattern: str, **what: object) -> Rule:
        """Add a rule; the first that matches, and has not been used up, counts."""
        rule = Rule(pattern, **what)  # type: ignore[arg-type]
        with self._lock:
            self._rules.append(rule)
        return rule

    def forget_rules(self) -> None:
        """Pass everything on again."""
        with self._lock:
            self._rules.clear()

    def cut(self) -> None:
        """Close every connection; new ones work."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def silence_events(self) -> None:
        """From now on nothing that the engine says on an open event stream arrives, and no connection is closed for it."""
        self._deaf.set()

    def freeze(self) -> None:
        """Take requests and answer nothing, as an engine that was stopped by a signal."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Go on."""
        self._thawed.set()

    def close(self) -> None:
        """Listen no more, and close every connection."""
        self.thaw()
        self._listener.close()
        self.cut()

    # -- how -----------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(self._behind)
        except OSError:
            client.close()
            return
        with self._lock:
            self._connections |= {client, engine}
        hears_events = threading.Event()
        back = threading.Thread(target=self._answer, args=(client, engine, hears_events), daemon=True)
        back.start()
        with suppress(OSError, ValueError), client.makefile("rb") as requests:
            while line := requests.readline():
                if not self._pass_on(line, requests, client, engine, hears_events):
                    break
        self._end(client, engine)
        back.join()
        with self._lock:
            self._connections -= {client, engine}
        client.close()
        engine.close()

    def _pass_on(self, line, requests, client, engine, hears_events) -> bool:  # type: ignore[no-untyped-def]  # noqa: ANN001
        """Do with one request what the rules say. False: the connection is over."""
        head, length, upgrades = [line], 0, False
        while (header := requests.readline()) not in (b"\r\n", b""):
            head.append(header)
            name, _, value = header.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
            upgrades = upgrades or name.lower() == b"upgrade"
        body = requests.read(length) if length else b""
        said = line.decode().rsplit(" ", 1)[0]
        with self._lock:
            self.seen.append(said)
            rule = next((r for r in self._rules if r.times != r.hits and re.search(r.pattern, said)), None)
            if rule is not None and rule.skips:
                rule.skips -= 1
                rule = None
            elif rule is not None:
                rule.hits += 1
        self._thawed.wait()
        if rule is not None:
            time.sleep(rule.delay_s)
            if rule.drop:
                return False
            if rule.status is not None:
                message = b'{"message":"injected %d"}' % rule.status
                answer = b"HTTP/1.1 %d Injected\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                client.sendall(answer % (rule.status, len(message), message))
                return True
        if "/events" in said:
            hears_events.set()
        engine.sendall(b"".join(head) + b"\r\n" + body)
        if upgrades:
            while data := requests.read1(65536):
                engine.sendall(data)
            engine.shutdown(socket.SHUT_WR)
        return True

    def _answer(self, client: socket.socket, engine: socket.socket, hears_events: threading.Event) -> None:
        with suppress(OSError):
            while data := engine.recv(65536):
                self._thawed.wait()
                if not (self._deaf.is_set() and hears_events.is_set()):
                    client.sendall(data)
        self._end(client, engine)

    @staticmethod
    def _end(*sockets: socket.socket) -> None:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def in_front_of(behind: Path, path: Path, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """A proxy for the time of a block."""
    proxy = Proxy(path, behind, tls)
    try:
        yield proxy
    finally:
        proxy.close()
