"""How a cluster is talked to when it is busy, slow, or contradicts. A stand-in answers: a real one can't be told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tether.drivers.kubernetes import client, rights, where
from tether.drivers.kubernetes.client import POD, Absent, Cluster, Conflict
from tether.errors import DriverUnavailable

CONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:%d"}}]
users: [{name: u, user: {token: hidden-token}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: here}}]
current-context: x
"""


class Api:
    """A stand-in for an API server: answers what it was told to, in turn, and then 404. It ends with its block.

    Attributes:
        answers: status, headers and body of each; None closes the connection without an answer.
        asked: method, path and body of each request.
    """

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], Any] | None] = []
        self.asked: list[tuple[str, str, Any]] = []
        self.silence = threading.Event()

    def answer(self, status: int, body: Any = None, **headers: str) -> None:
        """Answer so when it is its turn."""
        self.answers.append((status, headers, {"message": "so it is"} if body is None else body))


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    """See `Api`; a kubeconfig that leads to it is beside it."""
    made = Api()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            made.asked.append((self.command, self.path, json.loads(self.rfile.read(length) or b"null")))
            next_one = made.answers.pop(0) if made.answers else (404, {}, {"message": "no more"})
            if next_one is None:
                made.silence.wait(20)
                self.close_connection = True
                return
            status, headers, body = next_one
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(content)),
                **headers,
            }.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = do_PATCH = _answer  # noqa: N815 - as http.server has it

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        (tmp_path / "config").write_text(CONFIG % server.server_port)
        yield made
        made.silence.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def cluster(api: Api, tmp_path: Path) -> Iterator[Cluster]:
    """The connection to it."""
    assert api.asked == []
    made = Cluster(where.find(str(tmp_path / "config"), None, None))
    yield made
    made.http.close()


def named(labels: dict[str, str], uid: str = "1") -> dict[str, Any]:
    """An object as a server shows it."""
    return {"metadata": {"name": "it", "uid": uid, "labels": labels}}


def test_a_busy_server_is_asked_again(api: Api, cluster: Cluster) -> None:
    """429 says that nothing was done: again when it says so; not for ever."""
    api.answer(429, Retry_After="0")
    api.answer(429, Retry_After="0")
    api.answer(200, named({}))
    assert cluster.get(POD, "it") == named({})
    assert [each[0] for each in api.asked] == ["GET"] * 3
    for _ in range(10):
        api.answer(429, Retry_After="0")
    with pytest.raises(DriverUnavailable, match="refused \\(429\\)"):
        cluster.get(POD, "it")
    assert len(api.asked) == 3 + client._BUSY_TRIES


def test_what_was_not_answered_is_not_asked_again(api: Api, cluster: Cluster) -> None:
    """Nobody knows what a server did that is slow, or went away: said within the limit, and asked once."""
    cluster.http.timeout = 0.3
    api.answers.append(None)
    with pytest.raises(DriverUnavailable, match="does not answer") as slow:
        cluster.create(POD, named({}))
    api.silence.set()
    api.answers.append(None)
    with pytest.raises(DriverUnavailable, match="does not answer"):
        cluster.create(POD, named({}))
    assert [each[0] for each in api.asked] == ["POST", "POST"]
    assert "hidden-token" not in str(slow.value)


def test_what_is_there_already_is_ours_or_a_conflict(api: Api, cluster: Cluster) -> None:
    """An object of our name and marks is the answer that was lost; one of another's, or on its way out, is not."""
    wanted = named({"tether.dev/resource": "tag"})
    api.answer(409)
    api.answer(200, wanted)
    assert cluster.create(POD, wanted) == wanted
    for there in (
        named({"tether.dev/resource": "another"}),
        {"metadata": {**wanted["metadata"], "deletionTimestamp": "2027-01-15T08:00:00Z"}},
    ):
        api.answer(409)
        api.answer(200, there)
        with pytest.raises(Conflict):
            cluster.create(POD, wanted)
    api.answer(409)
    with pytest.raises(Conflict):
        cluster.create(POD, wanted)


def test_only_what_was_meant_is_deleted(api: Api, cluster: Cluster) -> None:
    """The uid is a condition: another of the name is as good as gone, and left alone; a refusal for the very one is said."""
    api.answer(200, {})
    assert cluster.delete(POD, "it", "1", 1)
    assert api.asked[0][2]["preconditions"] == {"uid": "1"}
    assert api.asked[0][2]["propagationPolicy"] == "Background"
    api.answer(404)
    assert not cluster.delete(POD, "it", "1", 1)
    api.answer(409)
    api.answer(200, named({}, "2"))
    assert not cluster.delete(POD, "it", "1", 1)
    api.answer(409)
    api.answer(200, named({}))
    with pytest.raises(Conflict):
        cluster.delete(POD, "it", "1", 1)
    with pytest.raises(Absent):
        cluster.ask("GET", "/nowhere")


def test_rights_are_asked_for_one_by_one(api: Api, cluster: Cluster) -> None:
    """With the part of a resource apart; what is lacking is named."""
    for allowed in (True, False):
        api.answer(201, {"status": {"allowed": allowed}})
    rule = rights.Rule("", ("pods/exec",), ("create", "get"), "")
    assert rights.lacking(cluster, rule) == ["get pods/exec"]
    asked = api.asked[0][2]["spec"]["resourceAttributes"]
    assert asked == {"namespace": "here", "verb": "create", "group": "", "resource": "pods", "subresource": "exec"}
