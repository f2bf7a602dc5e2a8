"""A small EC2 for tests, as a program: moto's interface, what moto lacks, and a real machine for each instance.

What it adds: the client token with its errors, throttling, capacity errors, answers that are lost, lists that show a new instance late,
security groups that are in use until their instance has ended, a scheduler that fires, the console, and the metadata service.

A machine is a process tree in namespaces of its own (pid, net, uts, mount), which runs its user data as root at boot; ``shutdown`` in it
does what InstanceInitiatedShutdownBehavior says. 169.254.169.254 in it answers IMDSv2 with its tags. One with a key pair has an sshd of
its own, with /etc/ssh and /root of its own, where "systemctl restart" has it read its host key anew; it is reached at a loopback address of
this machine, which is the public one that is shown while it runs.

Faults are set over HTTP: POST /_stand with JSON {"faults": [...], "late": seconds, "down": seconds}; GET /_stand says what there is.

    cd tests; python -m cloud.ec2_stand PORT FOLDER
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import hashlib
import http.server
import io
import json
import os
import queue
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import ThreadedWSGIServer

from cloud.stand import Quiet

REGION = "us-east-1"
XML = "http://ec2.amazonaws.com/doc/2016-11-15/"
MACHINE_S = 115
_CLONE_NEWNET = 0x40000000

SHUTDOWN = """#!/bin/sh
# shutdown -h now; what is told to end, ends.
touch {folder}/off
kill -9 -1
"""

SYSTEMCTL = """#!/bin/sh
[ "$1" = restart ] && [ "$2" = ssh ] && kill -HUP "$(cat /run/sshd.pid)"
"""

SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
UsePAM no
StrictModes no
"""

# Everything of sshd's own is in the machine: its home, its host key, its folder for privilege separation.
SERVE_SSH = """
mount -t tmpfs run /run; mkdir /run/sshd; mount --bind {folder}/ssh /etc/ssh; mount --bind {folder}/root /root
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key </dev/null; /usr/sbin/sshd
"""

BOOT = """
ip link set lo up; ip addr add 169.254.169.254/32 dev lo; hostname {id}
mount --bind {folder}/console /dev/console 2>/dev/null
PATH={folder}/bin:$PATH; export PATH; trap : TERM
echo $$ > {folder}/booted; while [ ! -e {folder}/imds ]; do sleep 0.02; done
{ssh}
{folder}/user-data >>{folder}/console 2>&1 &
while [ ! -e {folder}/off ]; do sleep 0.2; done
"""


class Imds(http.server.BaseHTTPRequestHandler):
    """The metadata service of one machine: only with a token, as HttpTokens=required says."""

    tags: Path

    def do_PUT(self) -> None:
        self.answer(200, "token")

    def do_GET(self) -> None:
        prefix = "/latest/meta-data/tags/instance/"
        tags = json.loads(self.tags.read_text())
        if self.headers.get("X-aws-ec2-metadata-token") != "token":
            self.answer(401, "")
        elif self.path.startswith(prefix) and urllib.parse.unquote(self.path.removeprefix(prefix)) in tags:
            self.answer(200, tags[urllib.parse.unquote(self.path.removeprefix(prefix))])
        else:
            self.answer(404, "")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        pass


class Machines:
    """The real machines, each under the id of its instance."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.live: dict[str, subprocess.Popen[bytes]] = {}
        self.off: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.addresses: dict[str, str] = {}
        self.lock = threading.Lock()

    def boot(self, machine: str, user_data: bytes, behaviour: str, tags: dict[str, str], key: str = "") -> None:
        folder = self.folder / machine
        (folder / "bin").mkdir(parents=True)
        for name, text in (
            ("bin/shutdown", SHUTDOWN.format(folder=folder).encode()),
            ("bin/systemctl", SYSTEMCTL.encode()),
            ("user-data", user_data or b"#!/bin/sh\n"),
        ):
            (folder / name).write_bytes(text)
            (folder / name).chmod(0o755)
        (folder / "console").touch()
        if key:
            (folder / "ssh").mkdir()
            (folder / "ssh/sshd_config").write_text(SSHD)
            (folder / "root/.ssh").mkdir(parents=True)
            (folder / "root/.ssh/authorized_keys").write_text(f"{key}\n")
        self.tag(machine, tags)
        # It ends by itself whatever becomes of this program.
        process = subprocess.Popen(
            ["timeout", "-s", "KILL", str(MACHINE_S), "unshare", "-m", "-p", "-n", "-u", "--fork", "--kill-child", "--mount-proc", "sh", "-c", BOOT.format(id=machine, folder=folder, ssh=SERVE_SSH.format(folder=folder) if key else "")],
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with self.lock:
            self.live[machine] = process
        if key:
            self.lead_to_ssh(machine, process)
        threading.Thread(target=self.serve_imds, args=(machine, process), daemon=True).start()
        threading.Thread(target=self.watch, args=(machine, process, behaviour), daemon=True).start()

    def tag(self, machine: str, tags: dict[str, str]) -> None:
        path = self.folder / machine / "tags"
        if path.parent.exists():
            old = json.loads(path.read_text()) if path.exists() else {}
            path.with_suffix(".new").write_text(json.dumps({**old, **tags}))
            path.with_suffix(".new").rename(path)

    def serve_imds(self, machine: str, process: subprocess.Popen[bytes]) -> None:
        """Listen in the machine's network namespace; a socket stays in the one that it was made in."""
        folder = self.folder / machine
        while not (folder / "booted").exists() or not (folder / "booted").read_text():
            if process.poll() is not None:
                return
            time.sleep(0.02)
        pid = inner(process.pid)
        if pid is None:
            return
        listening: queue.Queue[socket.socket] = queue.Queue()

        def listen() -> None:
            enter_network(pid)
            listening.put(socket.create_server(("169.254.169.254", 80)))

        thread = threading.Thread(target=listen)
        thread.start()
        thread.join()
        handler = type("Handler", (Imds,), {"tags": folder / "tags"})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler, bind_and_activate=False)
        server.socket.close()
        server.socket = listening.get_nowait()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (folder / "imds").touch()
        process.wait()
        server.shutdown()
        server.server_close()

    def lead_to_ssh(self, machine: str, process: subprocess.Popen[bytes]) -> None:
        """Have a loopback address of this machine lead to port 22 of a machine's own: no other stand-in has the same."""
        mine, number = os.getpid(), len(self.addresses) + 1
        address = f"127.{64 + mine % 190}.{mine // 190 % 256}.{number}"
        listening = socket.create_server((address, 22))
        listening.settimeout(0.2)
        self.addresses[machine] = address

        def serve() -> None:
            with listening:
                while process.poll() is None:
                    with contextlib.suppress(TimeoutError):
                        here, _ = listening.accept()
                        threading.Thread(target=self.lead, args=(here, process), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()

    def lead(self, here: socket.socket, process: subprocess.Popen[bytes]) -> None:
        """Lead one connection; this thread is in the machine's network from now on."""
        with here, contextlib.suppress(OSError):
            enter_network(inner(process.pid) or 0)
            with socket.create_connection(("127.0.0.1", 22)) as there:
                back = threading.Thread(target=pump, args=(there, here), daemon=True)
                back.start()
                pump(here, there)
                back.join()

    def watch(self, machine: str, process: subprocess.Popen[bytes], behaviour: str) -> None:
        process.wait()
        with self.lock:
            if self.live.pop(machine, None) is None:
                return
            self.off[machine] = behaviour

    def end(self, machine: str) -> None:
        with self.lock:
            process = self.live.pop(machine, None)
        if process is not None:
            for pid in (inner(process.pid), process.pid):
                with contextlib.suppress(ProcessLookupError):
                    if pid is not None:
                        os.kill(pid, 9)
            process.wait()


def enter_network(pid: int) -> None:
    """Have this thread make its sockets in the network of a process."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    ctypes.CDLL(None).setns(fd, _CLONE_NEWNET)
    os.close(fd)


def pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes, up to its end."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def inner(pid: int) -> int | None:
    """The first process of the machine: below timeout and unshare."""
    for _ in range(2):
        try:
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        except (OSError, IndexError):
            return None
    return pid


class Stand:
    """The WSGI application around moto's."""

    def __init__(self, folder: Path, port: int) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)
        self.machines = Machines(folder)
        self.tokens: dict[str, tuple[str, bytes, list[str]]] = {}
        self.faults: list[list[str]] = []
        self.late = 0.0
        self.down_until = 0.0
        self.visible: dict[str, float] = {}
        self.used_groups: dict[str, str] = {}
        self.calls: list[str] = []
        self.lock = threading.Lock()
        keys = {
            "aws_access_key_id": "t",
            "aws_secret_access_key": "t",
            "region_name": REGION,
            "endpoint_url": f"http://127.0.0.1:{port}/_inner",
        }
        self.ec2 = boto3.client("ec2", **keys)
        threading.Thread(target=self.tick, daemon=True).start()

    # -- what happens by itself ------------------------------------------------------------------------------------------

    def tick(self) -> None:
        while True:
            time.sleep(0.1)
            for machine, behaviour in list(self.machines.off.items()):
                (self.ec2.terminate_instances if behaviour == "terminate" else self.ec2.stop_instances)(
                    InstanceIds=[machine]
                )
                self.machines.off.pop(machine, None)
            self.fire()

    def fire(self) -> None:
        """Do what schedules say whose time has come."""
        from moto.scheduler.models import scheduler_backends

        for account in list(scheduler_backends.values()):
            for group in list(account[REGION].schedule_groups.values()) if REGION in account else []:
                for name, schedule in list(group.schedules.items()):
                    at = re.fullmatch(r"at\((.+)\)", schedule.schedule_expression)
                    if at and datetime.fromisoformat(at[1]).replace(tzinfo=UTC).timestamp() <= time.time():
                        self.end(json.loads(schedule.target["Input"])["InstanceIds"])
                        group.schedules.pop(name, None)

    def end(self, machines: list[str]) -> None:
        for machine in machines:
            self.machines.end(machine)
        self.ec2.terminate_instances(InstanceIds=machines)

    # -- requests --------------------------------------------------------------------------------------------------------

    def __call__(self, env: dict[str, Any], start: Any) -> list[bytes]:
        path = env["PATH_INFO"]
        if path == "/_stand":
            return self.control(env, start)
        if path.startswith("/_inner"):
            env["PATH_INFO"] = path.removeprefix("/_inner") or "/"
            return [b"".join(self.app(env, start))]
        if time.monotonic() < self.down_until:
            raise ConnectionResetError("down on purpose")
        body = env["wsgi.input"].read(int(env.get("CONTENT_LENGTH") or 0))
        env["wsgi.input"] = io.BytesIO(body)
        form = dict(urllib.parse.parse_qsl(body.decode("latin1")))
        action = form.get("Action", "")
        with self.lock:
            self.calls.append(action)
            fault = self.take_fault(action)
        if fault == "throttle":
            return error(start, "RequestLimitExceeded", "Request limit exceeded.", "503 Service Unavailable")
        if fault == "capacity":
            return error(
                start,
                "InsufficientInstanceCapacity",
                "We currently do not have sufficient capacity.",
                "400 Bad Request",
            )
        if fault == "denied":
            return error(
                start, "UnauthorizedOperation", "You are not authorized to perform this operation.", "403 Forbidden"
            )
        if fault == "reset":
            raise ConnectionResetError("not even read")
        answer = self.run(env, start, form) if action == "RunInstances" else self.other(env, start, form, action)
        if fault == "lost":
            raise ConnectionResetError("done, and the answer is lost on purpose")
        return answer

    def take_fault(self, action: str) -> str:
        for index, (which, what) in enumerate(self.faults):
            if which in ("*", action):
                del self.faults[index]
                return what
        return ""

    def control(self, env: dict[str, Any], start: Any) -> list[bytes]:
        body = env["wsgi.input"].read(int(env.get("CONTENT_LENGTH") or 0))
        asked = json.loads(body) if body else {}
        self.faults = asked.get("faults", self.faults)
        self.late = asked.get("late", self.late)
        self.down_until = time.monotonic() + asked["down"] if "down" in asked else self.down_until
        if "end" in asked:
            self.end([asked["end"]])
        said = {"machines": sorted(self.machines.live), "faults": self.faults, "calls": self.calls}
        if asked.get("forget_calls"):
            self.calls = []
        return plain(start, json.dumps(said).encode(), "application/json")

    def other(self, env: dict[str, Any], start: Any, form: dict[str, str], action: str) -> list[bytes]:
        ids = [value for key, value in form.items() if re.fullmatch(r"(InstanceId|ResourceId)\.\d+", key)]
        hidden = [each for each in ids if time.monotonic() < self.visible.get(each, 0.0)]
        if hidden and action in ("TerminateInstances", "CreateTags", "DescribeInstances"):
            return error(
                start, "InvalidInstanceID.NotFound", f"The instance ID '{hidden[0]}' does not exist", "400 Bad Request"
            )
        if action == "DeleteSecurityGroup" and self.in_use(form.get("GroupId", "")):
            return error(start, "DependencyViolation", "resource has a dependent object", "400 Bad Request")
        if action == "DescribeInstances":
            return self.described(env, start, form)
        if action == "ImportKeyPair":
            self.machines.keys[form["KeyName"]] = base64.b64decode(form["PublicKeyMaterial"]).decode()
        if action == "GetConsoleOutput":
            return self.console(start, form["InstanceId"])
        if action in ("TerminateInstances", "StopInstances"):
            for machine in ids:
                self.machines.end(machine)
        if action == "CreateTags":
            for machine in ids:
                self.machines.tag(machine, tags(form, ""))
        return [b"".join(self.app(env, start))]

    def in_use(self, group: str) -> bool:
        return any(used == group and machine in self.machines.live for machine, used in self.used_groups.items())

    def described(self, env: dict[str, Any], start: Any, form: dict[str, str]) -> list[bytes]:
        """The token as a filter, and new instances that are not shown yet."""
        for key, value in list(form.items()):
            if value == "client-token" and key.startswith("Filter."):
                number = key.split(".")[1]
                wanted = [each for name, each in form.items() if name.startswith(f"Filter.{number}.Value")]
                found = [one for token in wanted for one in self.tokens.get(token, ("", b"", []))[2]] or [
                    "i-00000000000000000"
                ]
                form = {name: each for name, each in form.items() if not name.startswith(f"Filter.{number}.")}
                form |= {f"Filter.{number}.Name": "instance-id"} | {
                    f"Filter.{number}.Value.{n + 1}": one for n, one in enumerate(found)
                }
        body = urllib.parse.urlencode(form).encode()
        env["wsgi.input"], env["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))
        head: list[Any] = []
        answer = b"".join(self.app(env, lambda *each: head.extend(each)))
        if head[0].startswith("200"):
            answer = self.shown(answer)
        start(
            head[0],
            [(name, value) for name, value in head[1] if name.lower() != "content-length"]
            + [("Content-Length", str(len(answer)))],
        )
        return [answer]

    def shown(self, answer: bytes) -> bytes:
        """Without the instances that are not shown yet; the public address is that by which the machine is reached."""
        now = time.monotonic()
        root = ET.fromstring(answer)
        for instances in root.findall(".//{*}instancesSet"):
            for item in list(instances):
                machine = item.findtext("{*}instanceId") or ""
                if now < self.visible.get(machine, 0.0):
                    instances.remove(item)
                address = item.find("{*}ipAddress")
                if address is not None and machine in self.machines.addresses:
                    address.text = self.machines.addresses[machine]
        return ET.tostring(root)

    def console(self, start: Any, machine: str) -> list[bytes]:
        path = self.machines.folder / machine / "console"
        said = base64.b64encode(path.read_bytes() if path.exists() else b"").decode()
        answer = f'<GetConsoleOutputResponse xmlns="{XML}"><requestId>r</requestId><instanceId>{machine}</instanceId><timestamp>2026-01-01T00:00:00.000Z</timestamp><output>{said}</output></GetConsoleOutputResponse>'
        return plain(start, answer.encode(), "text/xml")

    def run(self, env: dict[str, Any], start: Any, form: dict[str, str]) -> list[bytes]:
        token = form.get("ClientToken") or base64.b16encode(os.urandom(8)).decode()
        asked = hashlib.sha1(
            repr(sorted(pair for pair in form.items() if pair[0] != "ClientToken")).encode()
        ).hexdigest()
        with self.lock:
            if token in self.tokens:
                before, answer, ids = self.tokens[token]
                if before != asked:
                    return error(
                        start,
                        "IdempotentParameterMismatch",
                        "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).",
                        "400 Bad Request",
                    )
                if not any(each in self.machines.live for each in ids):
                    return error(
                        start,
                        "IdempotentInstanceTerminated",
                        "The client token you have provided is associated with a terminated instance.",
                        "400 Bad Request",
                    )
                return plain(start, answer, "text/xml")
            head: list[Any] = []
            answer = b"".join(self.app(env, lambda *each: head.extend(each)))
            ids = [each.decode() for each in re.findall(rb"<instanceId>(i-[0-9a-f]+)</instanceId>", answer)]
            if ids:
                self.tokens[token] = (asked, answer, ids)
            for machine in ids:
                self.visible[machine] = time.monotonic() + self.late
                for key, value in form.items():
                    if key.startswith("SecurityGroupId."):
                        self.used_groups[machine] = value
                data = base64.b64decode(form["UserData"]) if form.get("UserData") else b""
                self.machines.boot(
                    machine,
                    data,
                    form.get("InstanceInitiatedShutdownBehavior", "stop"),
                    tags(form, "TagSpecification.1."),
                    self.machines.keys.get(form.get("KeyName", ""), ""),
                )
            start(*head)
            return [answer]


def tags(form: dict[str, str], prefix: str) -> dict[str, str]:
    """The tags of a request."""
    found = {}
    for key, value in form.items():
        match = re.fullmatch(rf"{re.escape(prefix)}Tag\.(\d+)\.Key", key)
        if match:
            found[value] = form.get(f"{prefix}Tag.{match[1]}.Value", "")
    return found


def plain(start: Any, answer: bytes, kind: str) -> list[bytes]:
    """Answer with 200."""
    start("200 OK", [("Content-Type", kind), ("Content-Length", str(len(answer)))])
    return [answer]


def error(start: Any, code: str, message: str, status: str) -> list[bytes]:
    """Answer with an error as EC2 words it."""
    answer = f'<?xml version="1.0"?><Response><Errors><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error></Errors><RequestID>t</RequestID></Response>'.encode()
    start(status, [("Content-Type", "text/xml"), ("Content-Length", str(len(answer)))])
    return [answer]


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(exist_ok=True)
    number = int(sys.argv[1])
    server = ThreadedWSGIServer("127.0.0.1", number, Stand(Path(sys.argv[2]), number), Quiet)
    print("ready", flush=True)
    server.serve_forever()
