"""What probes see of real servers: with one limit for a whole attempt, and at whichever address they listen."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import tether
from support import eventually
from tether import Owner, Process, Ready, StartError, State
from tether.ledger import logs
from tether.life import looks
from tether.life.probes import Target
from tether.linux import sockets
from webserver import Site, certificate, site


def look(ready: Ready, target: Target, limit_s: float = 5.0) -> str:
    """Look once, and return what is missing."""
    return looks.begin(ready, target)(limit_s).missing


def at(served: Site, *, tls: bool = False) -> Target:
    """A site as what is probed."""
    return Target(host="localhost", port=served.port, tls=tls)


@contextmanager
def speaking(say: Any) -> Iterator[int]:
    """A server on 127.0.0.1 that speaks to each connection with a function, in a thread; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                    with connection:
                        say(connection)
                except OSError:
                    if server.fileno() < 0:
                        return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        # Out of accept(), which a close alone does not interrupt.
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)


# -- HTTP --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "wanted", "missing"),
    [
        (204, None, ""),
        (302, None, ""),
        (404, None, "answered 404"),
        (404, 404, ""),
        (200, 404, "answered 200, not 404"),
        (503, {200, 503}, ""),
        (201, (200, 204), "answered 201, not 200 or 204"),
        (418, lambda status: status == 418, ""),
        (200, lambda status: status == 418, "answered 200"),
    ],
)
def test_the_status_that_counts(status: int, wanted: Any, missing: str) -> None:
    """Below 400, one, several, or what a function says."""
    with site() as served:
        served.status, served.body = status, b""
        assert look(tether.http("/", status=wanted), at(served)).endswith(missing)


def test_what_is_sent() -> None:
    """Method, path with query, headers and body arrive as they were given; the host is named as always."""
    with site() as served:
        ready = tether.http("/ä?q=1", method="post", headers={"X-Token": "hunter2"}, body="sent")
        assert look(ready, at(served)) == ""
        ((method, path, headers, body),) = served.asked
        assert (method, path, headers["X-Token"], body) == ("POST", "/%C3%A4?q=1", "hunter2", b"sent")
        assert headers["Host"] == f"localhost:{served.port}"


@pytest.mark.parametrize(
    ("expects", "passes"),
    [("^fi.e$", True), ("never", False), (lambda body: body == b"fine", True), (lambda body: len(body) > 9, False)],
)
def test_the_body_that_counts(expects: Any, *, passes: bool) -> None:
    """A regular expression or a function; the body itself is not shown."""
    with site() as served:
        missing = look(tether.http(expects=expects), at(served))
        assert (missing == "") == passes
        assert "fine" not in missing


def test_functions_that_raise_say_not_yet() -> None:
    """Of status or body: nobody who looks is stopped by that."""
    with site() as served:
        assert "answered 200" in look(tether.http(status=lambda _: 1 / 0), at(served))
        assert "another body" in look(tether.http(expects=lambda _: 1 / 0), at(served))


def test_secrets_of_a_request_are_not_shown() -> None:
    """Neither in what is missing, nor in a repr."""
    ready = tether.http("/up?token=hunter2", headers={"X-Token": "hunter2"}, body="hunter2")
    with site() as served:
        served.status = 500
        assert look(ready, at(served)) == f"GET /up?*** on port {served.port} answered 500"
    assert look(ready, at(served)).startswith(f"GET /up?*** on port {served.port} does not answer: Connection")
    assert repr(tether.any_of(ready)) == "any_of(http('/up?***', timeout=60), timeout=60)"


def test_tls(tmp_path: Path) -> None:
    """The certificate is checked: with the authorities of this machine, or those of a file; or not at all."""
    pem = certificate(tmp_path)
    with site(pem) as served:
        assert "CERTIFICATE_VERIFY_FAILED" in look(tether.http(), at(served, tls=True))
        assert look(tether.http(ca_file=pem), at(served)) == ""
        assert look(tether.http(verify=False), at(served)) == ""
        assert look(tether.http(ca_file=pem), Target(port=served.port)) == ""
        assert "does not answer" in look(tether.http(scheme="http"), at(served, tls=True))
        assert "can't be read" in look(tether.http(ca_file=tmp_path / "none"), at(served))
    with site() as plain:
        assert "SSL" in look(tether.http(verify=False), at(plain))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["none", "head", "body"]
)
def test_one_limit_for_a_whole_attempt(answer: bytes, *, tls: bool) -> None:
    """A server that sends a byte now and then prolongs nothing: not by its greeting, its headers or its body."""

    def drip(connection: socket.socket) -> None:
        connection.recv(9999)
        connection.sendall(answer)
        for _ in range(300):
            connection.sendall(b"X")
            time.sleep(0.05)

    with speaking(drip) as port:
        ready = tether.http(attempt=0.3, expects="never", scheme="https" if tls else "http", verify=not tls)
        began = time.monotonic()
        assert "does not answer" in look(ready, Target(port=port))
        # The drip itself goes on for 15 s.
        assert time.monotonic() - began < 10


def test_names_that_cant_be_resolved() -> None:
    """No UnicodeError for what no host can be called."""
    for host in ("a..b", "x" * 70, "ü" * 70, "no-such-host.invalid"):
        assert "does not answer" in look(tether.http(), Target(host=host, port=1))
        assert "no connection" in look(tether.tcp(), Target(host=host, port=1))


# -- combined ----------------------------------------------------------------------------------------------------------


def test_combined() -> None:
    """All that is missing is said; what passes once is enough for any."""
    with site() as served:
        up, down = tether.http("/"), tether.call(lambda _: None)
        assert look(tether.all_of(up, tether.tcp()), at(served)) == ""
        assert "returned None" in look(tether.all_of(up, down), at(served))
        assert look(tether.any_of(down, up), at(served)) == ""
        missing = look(tether.any_of(down, tether.http("/", status=201)), at(served))
        assert "returned None" in missing
        assert "; GET / on port" in missing
        assert look(tether.all_of(tether.any_of(down, up), up), at(served)) == ""


def test_a_slow_one_leaves_the_others_their_share() -> None:
    """Of any, the second is asked within the limit of the look."""
    with speaking(lambda connection: time.sleep(1.5)) as port, site() as served:
        slow = looks.begin(tether.http(), Target(port=port))
        assert "within 0.5 s" in slow(0.5).missing
        assert look(tether.any_of(tether.http("/never", status=201), tether.http()), at(served), 0.5) == ""


# -- the log -----------------------------------------------------------------------------------------------------------


def test_only_what_is_new_of_a_log_is_read(tmp_path: Path) -> None:
    """A match that lies across two looks is found; the beginning of a line is one, the beginning of a look is none."""
    file = tmp_path / "log"
    file.write_bytes(b"")
    read: list[int] = []

    def log_from(start: int) -> tuple[bytes, int]:
        data, end = logs.read_from(file, start)
        read.append(len(data))
        return data, end

    target = Target(log_from=log_from)
    across, at_start = looks.begin(tether.log("up and run"), target), looks.begin(tether.log("^running"), target)
    with file.open("ab", buffering=0) as written:
        for new in (b"x" * 200_000, b"\nup and ", b"running", b""):
            written.write(new)
            came = across(1).missing, at_start(1).missing
        assert came == ("", "'^running' is not in its log")
        assert read == [200_000, 200_000, 8, 8, 7, 7, 0]
        written.write(b"\nrunning")
        assert at_start(1).missing == ""


def test_a_line_that_began_long_before_does_not_begin_again(tmp_path: Path) -> None:
    """Also where more of it than is remembered came in one piece."""
    file = tmp_path / "log"
    target = Target(log_from=lambda start: logs.read_from(file, start))
    file.write_bytes(b"-" * 70_000)
    begins = looks.begin(tether.log("^-"), Target(log_from=lambda start: (b"", start)))
    assert begins(1).missing
    begins = looks.begin(tether.log("^-+x"), target)
    assert begins(1).missing
    with file.open("ab") as written:
        written.write(b"x")
    assert begins(1).missing


def test_a_log_that_got_shorter_is_read_anew(tmp_path: Path) -> None:
    """Somebody emptied it."""
    file = tmp_path / "log"
    file.write_bytes(b"a long line of something else\n")
    found = looks.begin(tether.log("up"), Target(log_from=lambda start: logs.read_from(file, start)))
    assert found(1).missing
    file.write_bytes(b"up\n")
    assert found(1).missing == ""


# -- where a tree listens ----------------------------------------------------------------------------------------------

LISTENS = """
import http.server, socket, sys
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


def listening(address: str, *more: str, **options: Any) -> Process:
    """A server at an address."""
    return Process([sys.executable, "-c", LISTENS, address, *more], stop_grace=0, **options)


@pytest.mark.parametrize("probe", [tether.http, tether.tcp])
@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "127.0.0.1"),
        ("::1", "[::1]"),
        ("127.0.0.2", "127.0.0.2"),
    ],
)
def test_a_server_is_found_where_it_listens(owner: Owner, address: str, where: str, probe: Any) -> None:
    """And that is its url, on record as well."""
    server = owner.start(listening(address, "{port}", ready=probe()))
    assert server.state is State.READY
    assert server.url is not None
    assert server.url == f"http://{where}:{server.url.rpartition(':')[2]}"
    assert server.info()["url"] == server.url


def test_the_next_owner_knows_where_it_answers(private_state: Path) -> None:
    """It adopts a server, and its url as it was found."""
    with Owner("app") as first:
        url = first.start(listening("::1", "{port}", name="kept", on_death="keep", ready=tether.http())).url
    with Owner("app") as second:
        server = second.adopt("kept")
        assert (server.url or "").startswith("http://[::1]:")
        assert server.url == url
        server.kill()


def test_a_server_that_listens_at_another_port_is_named(owner: Owner) -> None:
    """It did not mind what it was told."""
    spec = listening("127.0.0.1", "0", name="other", env={"PORT": "{port}"}, ready=tether.tcp(timeout=2))
    with pytest.raises(StartError, match=r"nothing listens on port \d+, but of its tree pid \d+ on 127\.0\.0\.1:\d+"):
        owner.start(spec)


def test_a_stranger_beside_it_is_not_asked(owner: Owner) -> None:
    """It has the port at 127.0.0.1, where it answers well; the member has it at ::1."""
    port = sockets.free_port()
    server = owner.start(listening("::1", str(port), port=port))
    target = Target(port=port, pids=lambda: tuple(server.pids()))
    eventually(lambda: sockets.listening_inodes(port))
    with site(port=port) as stranger:
        assert looks.begin(tether.http(), target)(5) == looks.Seen(url=f"http://[::1]:{port}")
        assert stranger.asked == []


def test_a_server_by_tls_has_such_a_url(owner: Owner, tmp_path: Path) -> None:
    """As its probe found it."""
    pem = certificate(tmp_path)
    code = (
        "import http.server, ssl, sys\n"
        "server = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)\n"
        "context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain(sys.argv[2])\n"
        "server.socket = context.wrap_socket(server.socket, server_side=True)\nserver.serve_forever()"
    )
    server = owner.start(
        Process(
            [sys.executable, "-c", code, "{port}", str(pem)], cwd=tmp_path, ready=tether.http(ca_file=pem), stop_grace=0
        )
    )
    assert (server.url or "").startswith("https://127.0.0.1:")


# -- a start that is slow by its probe ---------------------------------------------------------------------------------


def test_a_start_that_its_probe_makes_slow_says_so(owner: Owner) -> None:
    """The time went into the probe, not into the resource."""
    slow = tether.call(lambda _: time.sleep(0.4), timeout=0.3)
    with pytest.raises(StartError, match=r"not ready within 0.3 s: .* returned None; its probe took 0\.\d s of that"):
        owner.start(Process(["sleep", "60"], name="slow", ready=slow, stop_grace=0))


def test_a_dripping_server_has_the_time_of_its_start(owner: Owner) -> None:
    """And not a byte's time more: the start ends while it goes on to drip."""
    code = (
        "import socket, sys, time\ns = socket.create_server(('127.0.0.1', int(sys.argv[1])))\nwhile True:\n"
        " c, _ = s.accept(); c.recv(9999)\n try:\n  c.sendall(b'HTTP/1.1 200 OK\\r\\n')\n"
        "  for _ in range(600): c.sendall(b'X'); time.sleep(0.1)\n except OSError: pass"
    )
    spec = Process([sys.executable, "-c", code, "{port}"], ready=tether.http("/", timeout=2), stop_grace=0)
    began = time.monotonic()
    with pytest.raises(StartError, match=r"not ready within 2 s: .*nothing whole within .*its probe took"):
        owner.start(spec)
    # It would have gone on for a minute.
    assert time.monotonic() - began < 40
