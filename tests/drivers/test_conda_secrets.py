"""Channels that need a token: it reaches the server, and stands nowhere else."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

import channel
from tether import CondaEnv, Owner, Process, SpecError, StartError, TetherError
from tether.drivers.conda.access import Access
from tether.life.addresses import bare, hide

SECRET = "hunter2"
LOGIN = base64.b64encode(b"user:hunter2").decode()


class Guarded(SimpleHTTPRequestHandler):
    """Serves a channel below /c to who shows the secret, in whatever way; others get 401."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        known = (
            f"/t/{SECRET}/" in parts.path
            or parse_qs(parts.query).get("token") == [SECRET]
            or self.headers.get("Authorization") == f"Basic {LOGIN}"
        )
        if not known:
            self.send_error(401)
            return
        self.path = parts.path.replace(f"/t/{SECRET}", "").removeprefix("/c")
        super().do_GET()

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of a channel that needs a token."""
    folder = tmp_path_factory.mktemp("channel")
    channel.make(folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Guarded, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


FORMS = [
    "http://user:hunter2@{}/c",
    "http://{}/t/hunter2/c",
    "http://{}/c?token=hunter2",
    "http://{}/c/?token=hunter2&x=1",
]


def specs(guarded: str, form: str, tmp_path: Path) -> list[CondaEnv]:
    """The same environment: from a channel, by channel and name, by the URL of a package, and by a lock file."""
    address = form.format(guarded)
    path, question, query = address.partition("?")
    package = f"{path.rstrip('/')}/noarch/other-1.0-0.tar.bz2{question}{query}"
    return [
        CondaEnv(["tool"], [address]),
        CondaEnv([f"{address}::tool"], [address]),
        CondaEnv([package], [address]),
        CondaEnv([f"other[url='{package}']"], [address]),
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", range(4), ids=["channel", "channel::name", "url", "url="])
def test_a_token_is_on_no_record(
    owner: Owner, guarded: str, form: str, which: int, tmp_path: Path, private_state: Path
) -> None:
    """The environment is made, so it reached the server; and neither disk nor what is shown has it."""
    spec = specs(guarded, form, tmp_path)[which]
    said: list[str] = []
    env = owner.start(spec, on_progress=said.append)
    prefix = Path(env.details["conda_env"])
    assert list((prefix / "conda-meta").glob("*-1.0-0.json"))
    ps = subprocess.run([sys.executable, "-m", "tether", "ps", "--json"], capture_output=True, text=True, check=True)
    events = [f"{event.what} {event.detail}" for event in owner.events()]
    shown = [repr(spec), json.dumps(env.info()), ps.stdout, *said, *events, env.name, repr(env), str(spec.record())]
    assert [text for text in shown if SECRET in text or LOGIN in text] == []
    for secret in (SECRET, LOGIN):
        found = subprocess.run(["grep", "-rla", secret, private_state], capture_output=True, text=True, check=False)
        assert found.stdout == ""
    assert f"http://{guarded}/c" in json.dumps(env.info())


@pytest.mark.parametrize("form", [each.replace("hunter2", "wrong-hunter2") for each in FORMS])
def test_a_refusal_does_not_repeat_it(owner: Owner, guarded: str, form: str) -> None:
    """Neither the error, nor what it was caused by, nor the event."""
    for spec in specs(guarded, form, Path())[:3]:
        with pytest.raises(StartError) as caught:
            owner.start(spec)
        error: BaseException | None = caught.value
        while error is not None:
            assert "hunter2" not in f"{error} {error.args}"
            error = error.__cause__
    assert [event for event in owner.events() if "hunter2" in event.detail] == []


def test_another_token_is_the_same_environment(owner: Owner, guarded: str) -> None:
    """Who has a new token does not make everything anew."""
    first = owner.start(CondaEnv(["tool"], [FORMS[0].format(guarded)]))
    second = owner.start(CondaEnv(["tool"], [FORMS[1].format(guarded)]))
    assert first.details["conda_env"] == second.details["conda_env"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: CondaEnv("https://h/t/hunter2/c"),
        lambda: CondaEnv(["x"], "https://user:hunter2@h/c"),
        lambda: CondaEnv(["x"], ["https://user:hunter2@h/c", ""]),
        lambda: CondaEnv(["https://h/x?token=hunter2", 5]),  # type: ignore[list-item]
    ],
)
def test_what_cant_be_right_is_refused_without_it(make: object) -> None:
    """Specs that are refused."""
    with pytest.raises(SpecError) as caught:
        make()  # type: ignore[operator]
    assert "hunter2" not in str(caught.value)


def test_a_lock_file_with_tokens(owner: Owner, guarded: str, tmp_path: Path, private_state: Path) -> None:
    """Its packages are fetched with them, and recorded without."""
    lock = tmp_path / "env.lock"
    channel.lock_of(f"http://user:hunter2@{guarded}/c", ["tool"], lock)
    assert "hunter2" in lock.read_text()
    env = owner.start(CondaEnv(lock=lock))
    assert (Path(env.details["conda_env"]) / "bin/tool").exists()
    found = subprocess.run(["grep", "-rla", SECRET, private_state], capture_output=True, text=True, check=False)
    assert found.stdout == ""


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://u:p@h:8/c", "https://h:8/c"),
        ("https://token@h/c", "https://h/c"),
        ("https://h/t/tok/c/x.conda#sha", "https://h/c/x.conda"),
        ("https://h/c?token=t&x=1", "https://h/c"),
        ("http://[::1]:80/c?x", "http://[::1]:80/c"),
        ("file:///home/t/x/c", "file:///home/t/x/c"),
        ("conda-forge", "conda-forge"),
        ("https://[bad/c", "https://***"),
        ("s3://key:secret@bucket/c", "s3://bucket/c"),
    ],
)
def test_bare_addresses(address: str, shown: str) -> None:
    """What is left of an address: guarded, port and path."""
    assert bare(address) == shown
    assert hide(f"can't fetch '{address}'") in (f"can't fetch '{shown}'", f"can't fetch '{address}'")


def test_who_is_let_in_where() -> None:
    """A login is sent to its own channel, and not to another path or guarded."""
    access = Access(["https://u:p%40ss@h/c", "conda-forge"])
    login = {"Authorization": f"Basic {base64.b64encode(b'u:p@ss').decode()}"}
    assert access._headers("h", "/c/noarch/x") == login
    assert [access._headers(*each) for each in (("h", "/cc/x"), ("h", "/"), ("other", "/c/x"))] == [None] * 3


def test_a_command_still_sees_its_environment(owner: Owner, guarded: str) -> None:
    """Made from behind a token, it works as any other."""
    env = owner.start(CondaEnv(["tool"], [FORMS[2].format(guarded)]))
    assert owner.start(Process(["tool"], env_in=env)).wait(timeout=10) == 0
    assert issubclass(StartError, TetherError)
