"""A web site of the tests' own, with or without TLS, that says what it was asked."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Site:
    """What it answers, and what it was asked.

    Attributes:
        port: of 127.0.0.1.
        status, body: what it answers.
        token: what the header X-Token must be, for anything but 401; None for anything.
        asked: method, path, headers and body of each request.
    """

    port: int
    status: int = 200
    body: bytes = b"fine"
    token: str | None = None
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


def certificate(folder: Path) -> Path:
    """Make a certificate for this machine with its key, in one file, which is its own authority as well."""
    made = folder / "site.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(made), "-out", f"{made}.crt"),
        ],
        check=True,
        capture_output=True,
    )
    made.write_bytes(made.read_bytes() + Path(f"{made}.crt").read_bytes())
    return made


@contextmanager
def site(pem: Path | None = None, *, port: int = 0) -> Iterator[Site]:
    """Serve until the block is left; by TLS with a certificate."""

    class Answering(BaseHTTPRequestHandler):
        def answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            made.asked.append((self.command, self.path, dict(self.headers), sent))
            self.send_response(made.status if made.token in (None, self.headers.get("X-Token")) else 401)
            self.end_headers()
            self.wfile.write(made.body)

        do_GET = do_POST = do_HEAD = answer  # noqa: N815 - as the class wants them called

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Answering) as server:
        server.daemon_threads = True
        if pem is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pem)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        made = Site(server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
