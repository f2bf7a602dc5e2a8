"""Servers that somebody else runs: the tests' own here, real ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import eventually
from tether import Owner, Service, SpecError, StartError, State, all_of, any_of, call, healthy, http, log, tcp
from tether.linux import sockets
from webserver import certificate, site


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
        {"url": "http://secret@host"},
        {"url": "user:secret@host"},
        {"url": "http:/user:secret@host"},
        {"url": "http://user:secret"},
        {"url": "http://user:secret@host\u2100"},
        {"url": "ftp://host?token=secret"},
        {"url": "http://a..b?token=secret"},
        {"url": "http://" + "x" * 64},
        {"url": "http://[::1?token=secret"},
        {"url": "http://host/\udc80?token=secret"},
        {"url": "http://host/a b?token=secret"},
        {"url": None},
        {"url": "http://host", "health": "x?token=secret"},
        {"url": "http://host", "health": 5},
        {"url": "http://host", "misses": 0},
        {"url": "http://host", "misses": True},
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


def test_no_form_of_an_address_is_recorded_or_shown(private_state: Path, tmp_path: Path) -> None:
    """What is in queries and headers is sent, and found nowhere: ledger, info(), events, reprs, errors, `tether ps`."""
    with Owner("app") as owner, site() as served:
        served.token = "hunter2"
        at, headers = f"http://127.0.0.1:{served.port}", {"X-Token": "hunter2"}
        specs = [
            Service(f"{at}/?token=hunter2", name="query", ready=http("/", headers=headers)),
            Service(at, name="health", health="/h?hunter2", ready=http("/r?t=hunter2", headers=headers)),
            Service(f"{at}/#hunter2", name="fragment", ready=any_of(http("/?t=hunter2"), http("/", headers=headers))),
        ]
        services = [owner.start(spec) for spec in specs]
        served.token = "another"
        failing = Service(
            f"{at}?token=hunter2", name="failing", health="/h?t=hunter2", ready=http("/?hunter2", timeout=0.1)
        )
        with pytest.raises(StartError, match=r"GET /\?\*\*\* .*answered 401") as caught:
            owner.start(failing)
        shown = [repr(specs), repr(failing), str(caught.value), str(caught.value.log_tail), repr(services)]
        shown += [json.dumps(each.info()) for each in services]
        shown += [repr(owner.events()), repr(owner.status())]
        shown.append(
            subprocess.run(
                [sys.executable, "-m", "tether", "ps", "--json"], capture_output=True, text=True, check=True
            ).stdout
        )
        assert "hunter2" not in "".join(shown)
        assert {path for _, path, _, _ in served.asked} >= {"/", "/r?t=hunter2", "/?t=hunter2", "/?hunter2"}
    files = [file for file in private_state.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if b"hunter2" in file.read_bytes()]


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_a_service_by_tls(owner: Owner, tmp_path: Path) -> None:
    """Asked by TLS at its start and after it, by the user's own probe; its certificate is checked."""
    pem = certificate(tmp_path)
    with site(pem) as served:
        url = f"https://localhost:{served.port}/v1"
        served.token = "known"
        with pytest.raises(StartError, match="CERTIFICATE_VERIFY_FAILED"):
            owner.start(Service(url, ready=http("/up", timeout=0.1)))
        ready = http("/up", headers={"X-Token": "known"}, ca_file=pem, status=200, expects="fine")
        service = owner.start(Service(url, name="web", ready=ready, check_every=0.05))
        assert (service.state, service.url) == (State.READY, url)
        served.asked.clear()
        eventually(lambda: [path for _, path, _, _ in served.asked][:2] == ["/up", "/up"])
        served.status = 204
        eventually(lambda: service.state is State.LOST)
        assert "answered 204, not 200" in service.reason
        served.status = 200
        eventually(lambda: service.state is State.READY)


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({}, "/v1?q=1"),
        ({"health": "/h"}, "/h"),
        ({"ready": http("/r")}, "/r"),
        ({"ready": http("/r"), "health": "/h"}, "/h"),
        ({"ready": all_of(healthy(), http("/r"))}, "/r"),
    ],
    ids=["url", "health", "ready", "both", "combined"],
)
def test_what_is_asked_once_it_is_ready(owner: Owner, more: dict[str, Any], asked: str) -> None:
    """The user's own probe, unless a path for that is given as well."""
    with site() as served:
        service = owner.start(Service(f"http://localhost:{served.port}/v1?q=1", check_every=0.02, **more))
        served.asked.clear()
        eventually(lambda: len(served.asked) > 3)
        assert asked in {path for _, path, _, _ in served.asked}
        service.stop()


def test_a_function_is_asked_with_the_resource(owner: Owner) -> None:
    """At its start, and after it."""
    names: list[str] = []
    well = [True]

    def look(it: Any) -> bool:
        names.append(it.name)
        return well[0]

    service = owner.start(Service("tcp://localhost:1", name="web", ready=call(look), check_every=0.02))
    well.clear()
    eventually(lambda: service.state is State.LOST)
    assert set(names) == {"web"}
    well.append(True)
    eventually(lambda: service.state is State.READY)


def test_so_many_misses_make_it_lost(owner: Owner) -> None:
    """One in between begins the count anew."""
    answers = iter([True, False, False, True, False, False, True, False, False, False])
    asked: list[bool] = []

    def look(_: Any) -> bool:
        asked.append(next(answers, False))
        return asked[-1]

    service = owner.start(Service("tcp://localhost:1", name="web", ready=call(look), check_every=0.02, misses=3))
    eventually(lambda: service.state is State.LOST)
    assert len(asked) >= 10
    assert [event.what for event in owner.events()].count("lost") == 1


def test_a_host_of_another_script(owner: Owner) -> None:
    """It is looked up as IDNA has it, and no UnicodeError comes of it."""
    spec = Service("https://bücher.invalid:8443", ready=http("/", timeout=0.1))
    assert spec.default_name == "xn--bcher-kva.invalid"
    with pytest.raises(StartError, match="does not answer: gaierror"):
        owner.start(spec)
