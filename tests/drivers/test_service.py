"""Servers that somebody else runs: the tests' own here, real ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import eventually
from tether import Owner, Service, SpecError, StartError, State, call, http, log, tcp
from tether.linux import sockets


@contextmanager
def web(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A web server that serves a folder."""
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "-d", str(folder), str(port)],
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: sockets.listening_inodes(port))
        yield server
    finally:
        server.kill()
        server.wait()


def test_lost_and_back_again(owner: Owner, tmp_path: Path) -> None:
    """Seen, probed, and never ended."""
    port = sockets.free_port()
    with web(tmp_path, port) as server:
        service = owner.start(Service(f"http://127.0.0.1:{port}", name="web", check_every=0.05))
        assert (service.state, service.url, service.pids()) == (State.READY, f"http://127.0.0.1:{port}", [])
    eventually(lambda: service.state is State.LOST)
    assert "does not answer" in service.reason
    with web(tmp_path, port) as server:
        eventually(lambda: service.state is State.READY)
        service.kill()
        assert service.state is State.GONE
        assert server.poll() is None
    what = [event.what for event in owner.events() if event.name == "web"]
    assert what == ["created", "ready", "lost", "found again", "kill", "gone"]


def test_one_that_is_lost_when_the_owner_ends(private_state: Path, tmp_path: Path) -> None:
    """Is let go of without a complaint."""
    port = sockets.free_port()
    with Owner("app") as owner:
        with web(tmp_path, port):
            service = owner.start(Service(f"http://127.0.0.1:{port}", check_every=0.05))
        eventually(lambda: service.state is State.LOST)
    assert service.state is State.GONE


@pytest.mark.parametrize(
    "ready", [None, http("/"), tcp(), call(lambda it: it.url is not None)], ids=["own", "http", "tcp", "call"]
)
def test_each_probe(owner: Owner, tmp_path: Path, ready: None) -> None:
    """Of the service where it is."""
    port = sockets.free_port()
    with web(tmp_path, port):
        assert owner.start(Service(f"http://127.0.0.1:{port}", ready=ready)).state is State.READY
        assert owner.start(Service(f"tcp://127.0.0.1:{port}", name="tcp")).state is State.READY


def test_one_that_does_not_answer(owner: Owner, tmp_path: Path) -> None:
    """A StartError that says what was asked."""
    port = sockets.free_port()
    with pytest.raises(StartError, match=rf"cannot start web: not ready within 0.2 s: GET / on port {port}"):
        owner.start(Service(f"http://127.0.0.1:{port}", name="web", ready=http("/", timeout=0.2)))
    with web(tmp_path, port), pytest.raises(StartError, match="GET /missing .* answered 404"):
        owner.start(Service(f"http://127.0.0.1:{port}", health="/missing", ready=http("/missing", timeout=0.2)))
    assert owner.resources == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "nonsense"},
        {"url": "ftp://host"},
        {"url": "tcp://host"},
        {"url": "http://"},
        {"url": "http://user:secret@host"},
        {"url": "http://host:99999"},
        {"url": "http://host", "health": "x"},
        {"url": "http://host", "check_every": 0},
        {"url": "http://host", "ready": log("x")},
    ],
    ids=str,
)
def test_what_cant_be_right_is_refused(wrong: dict[str, object]) -> None:
    """Before anything is looked at; and a password is not repeated."""
    with pytest.raises(SpecError) as caught:
        Service(**wrong)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_a_token_in_the_query_is_not_recorded(owner: Owner, tmp_path: Path) -> None:
    """Neither in the ledger nor in what is shown."""
    port = sockets.free_port()
    with web(tmp_path, port):
        service = owner.start(Service(f"http://127.0.0.1:{port}/?token=xyzzy", name="web"))
        assert "xyzzy" not in json.dumps(service.info())
        shown = subprocess.run(
            [sys.executable, "-m", "tether", "ps", "--json"], capture_output=True, text=True, check=True
        )
        assert "xyzzy" not in shown.stdout
        assert json.loads(shown.stdout)[0]["state"] == "ready"
