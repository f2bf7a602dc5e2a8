"""Stand-ins for providers whose interface is JSON over HTTP, made after their published descriptions. Nobody ran them beside the real ones.

Machines are records here, no real ones: what is shown is that none is made twice, none is lost, and none of somebody else's is ended.
"""

from __future__ import annotations

import http.server
import itertools
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

KEY = "the-secret-key-of-the-account"
RESOURCE = "TETHER_RESOURCE"

Answer = tuple[int, Any]


class Lost(Exception):
    """The connection breaks in place of an answer."""


@dataclass
class Rented:
    """One machine; ``asked`` is what its creation said."""

    id: str
    asked: dict[str, Any]
    number: int
    made: float = field(default_factory=time.monotonic)
    born: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    ended: float | None = None
    status: str | None = None


class Stand:
    """What all of them have in common.

    Attributes:
        faults: what goes wrong next, each a kind of request and how: "lost" (done, without an answer), "broken" (done, with an
            error), "reset" (not done, without an answer), "throttle", "capacity", "twice" (done two times).
        late: seconds for which lists and looks do not show a new machine.
        is_down: whether every connection breaks.
        calls: the kinds of requests so far.
        named: the field of a request that has the name.
        foreign: how somebody else asks for a machine.
    """

    provider: ClassVar[str]
    variable: ClassVar[str]
    named: ClassVar[str] = "name"
    foreign: ClassVar[dict[str, Any]]
    boot_s = 0.2
    end_s = 0.2

    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []
        self.late = 0.0
        self.is_down = False
        self.calls: list[str] = []
        self.rented: dict[str, Rented] = {}
        self.keys: dict[str, dict[str, str]] = {}
        self.url = ""
        self.lock = threading.RLock()
        self._numbers = itertools.count(1)

    # -- what tests look at ----------------------------------------------------------------------------------------------

    def live(self) -> list[str]:
        """Ids of machines that are billed."""
        with self.lock:
            return [each.id for each in self.rented.values() if not self.is_gone(each)]

    def every(self, tag: str) -> list[str]:
        """Ids of all machines that ever had a mark."""
        with self.lock:
            return [each.id for each in self.rented.values() if self.mark(each) == tag]

    def leftovers(self) -> list[str]:
        """What is there that tether made."""
        with self.lock:
            marked = [each for each in self.live() if self.mark(self.rented[each]) is not None]
            return [*marked, *(key["name"] for key in self.keys.values())]

    def end(self, machine: str) -> None:
        """As the provider does, by itself."""
        with self.lock:
            self.rented[machine].ended = self.rented[machine].ended or time.monotonic()

    def make(self, asked: dict[str, Any]) -> Rented:
        """Create a machine."""
        with self.lock:
            made = Rented(secrets.token_hex(7), asked, next(self._numbers))
            self.rented[made.id] = made
            return made

    def is_gone(self, each: Rented) -> bool:
        """Whether it is billed no more."""
        return each.ended is not None and time.monotonic() - each.ended > self.end_s

    def is_shown(self, each: Rented) -> bool:
        """Whether lists show it."""
        return time.monotonic() - each.made >= self.late

    def mark(self, each: Rented) -> str | None:
        """The mark on it."""
        raise NotImplementedError

    def unmarked(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The same request by somebody else."""
        raise NotImplementedError

    def environ(self, folder: Path) -> dict[str, str]:
        """What the environment of its users says; the folder is for files that it names."""
        return {self.variable: KEY}

    # -- requests --------------------------------------------------------------------------------------------------------

    def kind(self, method: str, path: str) -> str:
        """What a request is: create, list, look, terminate, or other."""
        raise NotImplementedError

    def carry_out(self, method: str, path: str, body: Any) -> Answer:
        """Do what is asked."""
        raise NotImplementedError

    def no_capacity(self) -> Answer:
        """The provider's own words."""
        raise NotImplementedError

    def answer(self, method: str, path: str, key: str, body: Any) -> Answer:
        """One request, with what goes wrong."""
        kind = self.kind(method, path)
        with self.lock:
            self.calls.append(kind)
            index = next((i for i, (which, _) in enumerate(self.faults) if which in ("*", kind)), None)
            fault = "" if index is None else self.faults.pop(index)[1]
        if self.is_down or fault == "reset":
            raise Lost
        if key != f"Bearer {KEY}":
            return 401, {"error": {"code": "global/invalid-api-key", "message": "API key was invalid."}}
        if fault == "throttle":
            return 429, {"error": {"message": "Too many requests."}}
        if fault == "capacity":
            return self.no_capacity()
        with self.lock:
            answer = self.carry_out(method, path, body)
            if fault == "twice":
                self.carry_out(method, path, body)
        if fault == "lost":
            raise Lost
        return (500, {"error": {"message": "An internal error."}}) if fault == "broken" else answer


class LambdaLabs(Stand):
    """The Lambda Cloud API, version 1."""

    provider = "lambda_labs"
    variable = "LAMBDA_API_KEY"
    foreign: ClassVar = {"name": "theirs", "region_name": "us-east-1", "instance_type_name": "gpu_1x_a10"}

    SIZES: ClassVar = {
        "gpu_1x_a10": ("A10 (24 GB PCIe)", 75, 1, 30, 200, ["us-east-1"]),
        "gpu_8x_h100_sxm5": ("H100 (80 GB SXM5)", 2392, 8, 208, 1800, ["us-west-1"]),
        "gpu_1x_gh200": ("GH200 (96 GB)", 149, 1, 64, 432, []),
    }

    def mark(self, each: Rented) -> str | None:
        return next((tag["value"] for tag in each.asked.get("tags", ()) if tag["key"] == RESOURCE), None)

    def unmarked(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "name": "theirs", "tags": []}

    def kind(self, method: str, path: str) -> str:
        if path.startswith("/instances"):
            return "list" if path == "/instances" else "look"
        ends = {"/instance-operations/launch": "create", "/instance-operations/terminate": "terminate"}
        return ends.get(path, "key" if path.startswith("/ssh-keys") else "other")

    def no_capacity(self) -> Answer:
        code = "instance-operations/launch/insufficient-capacity"
        return 400, {"error": {"code": code, "message": "Not enough capacity to fulfill launch request."}}

    def size(self, name: str) -> dict[str, Any]:
        gpu, cents, gpus, cpus, memory, _ = self.SIZES[name]
        specs = {"vcpus": cpus, "memory_gib": memory, "storage_gib": 512, "gpus": gpus}
        shown = {"name": name, "description": f"{gpus}x {gpu}", "gpu_description": gpu}
        return {**shown, "price_cents_per_hour": cents, "specs": specs}

    def shown(self, each: Rented) -> dict[str, Any]:
        status = "active" if time.monotonic() - each.made > self.boot_s else "booting"
        if each.ended is not None:
            status = "terminated" if self.is_gone(each) else "terminating"
        asked = each.asked
        shown: dict[str, Any] = {name: asked[name] for name in ("name", "tags", "ssh_key_names") if name in asked}
        region = {"name": asked["region_name"], "description": "Somewhere"}
        size = self.size(asked["instance_type_name"])
        address = {"ip": "127.0.0.1"} if status == "active" else {}
        return {
            **shown,
            **address,
            "id": each.id,
            "status": each.status or status,
            "region": region,
            "instance_type": size,
        }

    def carry_out(self, method: str, path: str, body: Any) -> Answer:
        if path == "/instance-types":
            regions = {name: [{"name": each} for each in size[5]] for name, size in self.SIZES.items()}
            return 200, {"data": {name: {"instance_type": self.size(name), "regions_with_capacity_available": regions[name]} for name in self.SIZES}}  # fmt: skip
        if path == "/instances":
            return 200, {"data": [self.shown(each) for each in self.rented.values() if self.is_shown(each) and not self.is_gone(each)]}  # fmt: skip
        if path.startswith("/instances/"):
            each = self.rented.get(path.rpartition("/")[2])
            if each is None or not self.is_shown(each):
                return 404, {"error": {"code": "global/object-does-not-exist", "message": "Not found."}}
            return 200, {"data": self.shown(each)}
        if path == "/instance-operations/launch":
            if len(body["name"]) > 64 or len(body["ssh_key_names"]) != 1:
                return 400, {"error": {"code": "global/invalid-parameters", "message": "Invalid request data."}}
            if body["ssh_key_names"][0] not in [key["name"] for key in self.keys.values()]:
                return 400, {"error": {"code": "global/invalid-parameters", "message": "SSH key not found."}}
            return 200, {"data": {"instance_ids": [self.make(body).id]}}
        if path == "/instance-operations/terminate":
            there = [self.rented[each] for each in body["instance_ids"] if each in self.rented]
            if not there or self.is_gone(there[0]) or not self.is_shown(there[0]):
                return 404, {"error": {"code": "global/object-does-not-exist", "message": "Not found."}}
            self.end(there[0].id)
            return 200, {"data": {"terminated_instances": [self.shown(each) for each in there]}}
        return self.with_keys(method, path, body)

    def with_keys(self, method: str, path: str, body: Any) -> Answer:
        if method == "GET":
            return 200, {"data": list(self.keys.values())}
        if method == "DELETE":
            gone = self.keys.pop(path.rpartition("/")[2], None)
            return (200, {"data": {}}) if gone else (404, {"error": {"code": "global/object-does-not-exist"}})
        if body["name"] in [key["name"] for key in self.keys.values()]:
            return 400, {"error": {"code": "global/duplicate", "message": "Already exists."}}
        key = {"id": secrets.token_hex(8), "name": body["name"], "public_key": body["public_key"]}
        self.keys[key["id"]] = key
        return 200, {"data": key}


class RunPod(Stand):
    """RunPod's REST API, version 1. A pod that was deleted is shown no more, at once."""

    provider = "runpod"
    variable = "RUNPOD_API_KEY"
    foreign: ClassVar = {"name": "theirs", "imageName": "x"}
    end_s = 0.0

    def mark(self, each: Rented) -> str | None:
        return (each.asked.get("env") or {}).get(RESOURCE)

    def unmarked(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "name": "theirs", "env": {}}

    def kind(self, method: str, path: str) -> str:
        if method == "POST":
            return "create"
        if method == "DELETE":
            return "terminate"
        return "list" if path == "/pods" else "look"

    def no_capacity(self) -> Answer:
        return 500, {
            "error": "create pod: There are no longer any instances available with the requested specifications."
        }

    def shown(self, each: Rented) -> dict[str, Any]:
        asked, is_up = each.asked, time.monotonic() - each.made > self.boot_s
        # Every port of a pod is another one outside; all of them lead to this stand-in.
        outside = int(self.url.rpartition(":")[2])
        ports = {port.split("/")[0]: outside for port in asked.get("ports", ())} if is_up else None
        return {
            **{name: asked.get(name) for name in ("name", "env", "ports", "interruptible")},
            "id": each.id,
            "image": asked["imageName"],
            "desiredStatus": each.status or "RUNNING",
            "publicIp": "127.0.0.1" if is_up else "",
            "portMappings": ports,
            "costPerHr": "0.69",
            "adjustedCostPerHr": 0.69,
            "lastStartedAt": each.born.replace("+00:00", "Z"),
            "lastStatusChange": "Rented by User",
            "gpu": {"id": asked.get("gpuTypeIds", [""])[0], "count": asked.get("gpuCount", 0)},
        }

    def carry_out(self, method: str, path: str, body: Any) -> Answer:
        if method == "POST":
            return 201, self.shown(self.make(body))
        there = [each for each in self.rented.values() if self.is_shown(each) and not self.is_gone(each)]
        if path == "/pods":
            return 200, [self.shown(each) for each in there]
        found = next((each for each in there if each.id == path.rpartition("/")[2]), None)
        if found is None:
            return 404, {"error": "pod not found"}
        if method == "DELETE":
            self.end(found.id)
            return 204, None
        return 200, self.shown(found)


@contextmanager
def running(stand: Stand) -> Iterator[Stand]:
    """Have a stand-in answer on a port of the loopback."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _take(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            data = self.rfile.read(size)
            # Only who asks for a token says so in a form.
            body = json.loads(data) if data[:1] in (b"{", b"[") else None
            try:
                status, said = stand.answer(self.command, self.path, self.headers.get("Authorization", ""), body)
            except Lost:
                self.close_connection = True
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            answer = b"" if said is None else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self) -> None:
            self._take()

        def do_POST(self) -> None:
            self._take()

        def do_PUT(self) -> None:
            self._take()

        def do_DELETE(self) -> None:
            self._take()

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    stand.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stand
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
