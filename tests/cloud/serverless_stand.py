"""A small ECS and Lambda for tests, as a program: moto's interface, what moto lacks, and a real process for each task and each call.

What it adds: the client token of RunTask, tasks that are shown late and end by themselves with their exit code, output in CloudWatch,
functions that are there once, and addresses of functions that answer; throttling, refusals, and answers that are lost.

A task is a process of this machine that runs the task's command, without its image; SIGTERM ends it, then SIGKILL. A call of a function is a
Python that calls its handler. All of them end by themselves.

Faults are set over HTTP: POST /_stand with JSON {"faults": [[action, what], ...], "late": seconds, "down": seconds}.

    cd tests; python -m cloud.serverless_stand PORT
"""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import zipfile
from typing import Any

import boto3
from moto.awslambda.models import FunctionUrlConfig, lambda_backends
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.ec2.models import EC2Backend
from moto.ecs.models import EC2ContainerServiceBackend, ecs_backends
from moto.moto_api import state_manager
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import ThreadedWSGIServer

from cloud.stand import Quiet

REGION = "us-east-1"
LONGEST_S = 100
LAMBDA = re.compile(r"/2015-03-31/functions(?:/([^/]+))?/?$")
CALLS = {
    "POST": "CreateFunction",
    "GET": "GetFunction",
    "DELETE": "DeleteFunction",
}
CALL = """
import importlib, json, sys
module, _, name = sys.argv[1].rpartition(".")
said = getattr(importlib.import_module(module), name)(json.load(sys.stdin), None)
sys.stderr.write(json.dumps(said))
"""


def _open(kind: Any) -> Any:
    """A class of moto's, to put something else in place of its methods."""
    return kind


class Tasks:
    """The processes of tasks, by ARN."""

    def __init__(self, logs: Any) -> None:
        self.logs = logs
        self.live: dict[str, subprocess.Popen[bytes]] = {}
        self.made: dict[str, float] = {}
        self.late = 0.0

    def is_shown(self, arn: str) -> bool:
        return time.monotonic() - self.made.get(arn, 0.0) >= self.late

    def run(self, task: Any, definition: dict[str, Any]) -> None:
        """Run what a task is to run. Its image says nothing here, so that it must have a command."""
        override: dict[str, Any] = next(iter(task.overrides.get("containerOverrides", ())), {})
        env = {each["name"]: each["value"] for each in override.get("environment", ())}
        task.last_status, task.containers[0].exitCode = "PENDING", None
        self.made[task.task_arn] = time.monotonic()
        process = subprocess.Popen(
            ["timeout", "-k", "1", str(LONGEST_S), *override["command"]],
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], **env},
        )  # fmt: skip
        self.live[task.task_arn] = process
        options = definition.get("logConfiguration", {}).get("options", {})
        threading.Thread(target=self.watch, args=(task, process, options), daemon=True).start()

    def watch(self, task: Any, process: subprocess.Popen[bytes], options: dict[str, str]) -> None:
        # What is not shown yet does not run yet, and so says nothing either.
        time.sleep(max(0.2, self.late))
        if task.desired_status == "RUNNING":
            task.last_status = "RUNNING"
        stream = f"{options.get('awslogs-stream-prefix')}/main/{task.task_arn.rpartition('/')[2]}"
        assert process.stdout is not None
        for line in process.stdout:
            write(self.logs, options.get("awslogs-group", ""), stream, line.decode())
        code = process.wait()
        task.containers[0].exitCode = 128 - code if code < 0 else code
        task.desired_status, task.stopped_reason = (
            "STOPPED",
            task.stopped_reason or "Essential container in task exited",
        )
        task.last_status = "STOPPED"
        self.live.pop(task.task_arn, None)

    def stop(self, task: Any, reason: str, grace: float = 2.0) -> None:
        task.desired_status, task.stopped_reason = "STOPPED", reason
        process = self.live.get(task.task_arn)
        if process is None:
            return
        process.terminate()

        def kill() -> None:
            with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
                try:
                    process.wait(grace)
                finally:
                    os.killpg(process.pid, signal.SIGKILL)

        threading.Thread(target=kill, daemon=True).start()


def write(logs: Any, group: str, stream: str, text: str) -> None:
    """Put a line where CloudWatch has it; the group may be gone."""
    with contextlib.suppress(logs.exceptions.ClientError):
        with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
            logs.create_log_stream(logGroupName=group, logStreamName=stream)
        event = {"timestamp": int(time.time() * 1000), "message": text.rstrip() or " "}
        logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=[event])


class Addresses:
    """The addresses of functions: each a port of the loopback, for as long as the function has it."""

    def __init__(self, logs: Any) -> None:
        self.logs = logs
        self.servers: dict[str, http.server.ThreadingHTTPServer] = {}

    def open(self, name: str) -> str:
        addresses = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, said = addresses.call(name, self.path, self.headers.get("Authorization", ""))
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.servers[name] = server
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/"

    def close(self, name: str) -> None:
        server = self.servers.pop(name, None)
        if server is not None:
            server.shutdown()
            server.server_close()

    def call(self, name: str, path: str, signed: str) -> tuple[int, bytes]:
        """Call the handler, if whoever asks may."""
        function: Any = lambda_backends[DEFAULT_ACCOUNT_ID][REGION].get_function(name)
        is_public = function.url_config.config.get("AuthType") == "NONE"
        allowed = [each.get("Action") for each in function.policy.statements] if function.policy else []
        if not (signed.startswith("AWS4") or (is_public and "lambda:InvokeFunctionUrl" in allowed)):
            return 403, b'{"Message":"Forbidden"}'
        with tempfile.TemporaryDirectory(prefix="tether-call-") as folder:
            zipfile.ZipFile(io.BytesIO(function.code_bytes)).extractall(folder)
            done = subprocess.run(
                ["timeout", "-k", "1", str(function.timeout), sys.executable, "-c", CALL, function.handler],
                input=json.dumps({"rawPath": path}).encode(), cwd=folder, capture_output=True, check=False,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": folder, **function.environment_vars},
            )  # fmt: skip
        for line in done.stdout.decode().splitlines():
            write(self.logs, f"/aws/lambda/{name}", "2026/11/28/[$LATEST]1", line)
        if done.returncode:
            return 502, done.stderr
        said = json.loads(done.stderr)
        return said["statusCode"], said["body"].encode()


class Stand:
    """The WSGI application around moto's."""

    def __init__(self, port: int) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)
        more = {"aws_access_key_id": "t", "aws_secret_access_key": "t", "region_name": REGION}
        logs = boto3.client("logs", endpoint_url=f"http://127.0.0.1:{port}/_inner", **more)
        self.tasks, self.addresses = Tasks(logs), Addresses(logs)
        self.tokens: dict[str, tuple[dict[str, Any], str]] = {}
        self.faults: list[list[str]] = []
        self.down_until = 0.0
        self.calls: list[str] = []
        self.lock = threading.Lock()
        self.patch()

    def patch(self) -> None:
        """What moto decides by itself, and does here as the processes do."""
        state_manager.set_transition("ecs::task", {"progression": "manual", "times": 1 << 30})
        tasks, addresses = self.tasks, self.addresses
        ecs, ec2, urls = _open(EC2ContainerServiceBackend), _open(EC2Backend), _open(FunctionUrlConfig)
        listed, described = ecs.list_tasks, ecs.describe_tasks
        interface, address = ec2.create_network_interface, urls.__init__

        def stop_task(backend: Any, cluster: str, arn: str, reason: str) -> Any:
            found = next(each for each in described(backend, cluster, [arn]))
            tasks.stop(found, reason)
            return found

        def create_network_interface(backend: Any, *args: Any, **more: Any) -> Any:
            made = interface(backend, *args, **more)
            if more.get("description") == "moto ECS":
                made.public_ip = "127.0.0.1"
            return made

        def give_address(self: Any, function: Any, config: Any) -> None:
            address(self, function, config)
            self.url = addresses.open(function.function_name)

        ecs.list_tasks = lambda *args, **more: [each for each in listed(*args, **more) if tasks.is_shown(each.task_arn)]  # fmt: skip
        ecs.describe_tasks = lambda *args, **more: [each for each in described(*args, **more) if tasks.is_shown(each.task_arn)]  # fmt: skip
        # On Fargate the task's own size counts; moto wants one of each container.
        ecs._calculate_task_resource_requirements = staticmethod(lambda _: {"CPU": 0, "MEMORY": 0, "PORTS": [], "PORTS_UDP": []})  # fmt: skip
        ecs.stop_task = stop_task
        ec2.create_network_interface = create_network_interface
        urls.__init__ = give_address

    # -- requests --------------------------------------------------------------------------------------------------------

    def __call__(self, env: dict[str, Any], start: Any) -> list[bytes]:
        path = env["PATH_INFO"]
        body = env["wsgi.input"].read(int(env.get("CONTENT_LENGTH") or 0))
        env["wsgi.input"] = io.BytesIO(body)
        if path == "/_stand":
            return self.control(start, json.loads(body) if body else {})
        if path.startswith("/_inner"):
            env["PATH_INFO"] = path.removeprefix("/_inner") or "/"
            return [b"".join(self.app(env, start))]
        action = action_of(env, path, body)
        with self.lock:
            self.calls.append(action)
            fault = self.take_fault(action)
        if time.monotonic() < self.down_until or fault == "reset":
            raise ConnectionResetError("on purpose")
        if fault in ("throttle", "denied", "unable", "unassumable"):
            return refusal(start, fault, is_query=action == urllib.parse.parse_qs(body.decode("latin1")).get("Action", [""])[0])  # fmt: skip
        answer = self.carry_out(env, start, action, body)
        if fault == "lost":
            raise ConnectionResetError("done, and the answer is lost on purpose")
        return answer

    def take_fault(self, action: str) -> str:
        for index, (which, what) in enumerate(self.faults):
            if which in ("*", action):
                del self.faults[index]
                return what
        return ""

    def control(self, start: Any, asked: dict[str, Any]) -> list[bytes]:
        self.faults = asked.get("faults", self.faults)
        self.tasks.late = asked.get("late", self.tasks.late)
        self.down_until = time.monotonic() + asked["down"] if "down" in asked else self.down_until
        if "end" in asked:
            task = ecs_backends[DEFAULT_ACCOUNT_ID][REGION].tasks["default"][asked["end"]]
            self.tasks.stop(task, "Your Spot Task was interrupted.", 0.1)
        said = {"tasks": sorted(self.tasks.live), "faults": self.faults, "calls": self.calls}
        if asked.get("forget_calls"):
            self.calls = []
        return plain(start, json.dumps(said).encode())

    def carry_out(self, env: dict[str, Any], start: Any, action: str, body: bytes) -> list[bytes]:
        if action == "RunTask":
            return self.run(env, start, json.loads(body))
        functions = lambda_backends[DEFAULT_ACCOUNT_ID][REGION]._lambdas._functions
        if action == "CreateFunction" and json.loads(body)["FunctionName"] in functions:
            return error(start, "ResourceConflictException", "Function already exist", "409 Conflict")
        answer = [b"".join(self.app(env, start))]
        if action in ("DeleteFunction", "DeleteFunctionUrlConfig"):
            self.addresses.close(env["PATH_INFO"].split("/")[3])
        return answer

    def run(self, env: dict[str, Any], start: Any, asked: dict[str, Any]) -> list[bytes]:
        token = asked.get("clientToken")
        with self.lock:
            if token in self.tokens:
                before, arn = self.tokens[token]
                if before != asked:
                    return error(start, "ConflictException", "The RunTask request could not be processed due to conflicts.", "400 Bad Request")  # fmt: skip
                task = ecs_backends[DEFAULT_ACCOUNT_ID][REGION].tasks["default"][arn]
                said = {"taskArn": arn, "lastStatus": task.last_status, "startedBy": task.started_by, "tags": task.tags}
                return plain(start, json.dumps({"tasks": [said], "failures": []}).encode())
            sent = json.loads(json.dumps(asked))
            # Left out it is the network's own, which moto does not know.
            sent["networkConfiguration"]["awsvpcConfiguration"].setdefault("securityGroups", [])
            data = json.dumps(sent).encode()
            env["wsgi.input"], env["CONTENT_LENGTH"] = io.BytesIO(data), str(len(data))
            head: list[Any] = []
            answer = b"".join(self.app(env, lambda *each: head.extend(each)))
            backend = ecs_backends[DEFAULT_ACCOUNT_ID][REGION]
            for shown in json.loads(answer).get("tasks", ()):
                task = backend.tasks["default"][shown["taskArn"]]
                definition = backend.describe_task_definition(task.task_definition_arn)
                self.tasks.run(task, definition.container_definitions[0])
                if token:
                    self.tokens[token] = (asked, shown["taskArn"])
            start(*head)
            return [answer]


def action_of(env: dict[str, Any], path: str, body: bytes) -> str:
    """What is asked for, whichever of the three protocols says so."""
    target = env.get("HTTP_X_AMZ_TARGET", "")
    if target:
        return str(target.rpartition(".")[2])
    if LAMBDA.match(path):
        return CALLS.get(env["REQUEST_METHOD"], "")
    if path.endswith("/url"):
        return f"{env['REQUEST_METHOD'].title().replace('Post', 'Create')}FunctionUrlConfig"
    return urllib.parse.parse_qs(body.decode("latin1")).get("Action", [""])[0]


def plain(start: Any, answer: bytes) -> list[bytes]:
    """Answer with 200."""
    start("200 OK", [("Content-Type", "application/x-amz-json-1.1"), ("Content-Length", str(len(answer)))])
    return [answer]


def error(start: Any, code: str, message: str, status: str) -> list[bytes]:
    """Answer with an error as services that speak JSON word it."""
    answer = json.dumps({"__type": code, "message": message}).encode()
    start(status, [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-ErrorType", code), ("Content-Length", str(len(answer)))])  # fmt: skip
    return [answer]


def refusal(start: Any, fault: str, *, is_query: bool) -> list[bytes]:
    """A refusal, as the protocol words it."""
    code, message = {
        "throttle": ("ThrottlingException", "Rate exceeded"),
        "denied": ("AccessDeniedException", "User is not authorized to perform this."),
        "unable": ("ClientException", "ECS was unable to assume the role that was provided for this task."),
        "unassumable": ("InvalidParameterValueException", "The role defined for the function cannot be assumed by Lambda."),
    }[fault]  # fmt: skip
    if not is_query:
        return error(start, code, message, "400 Bad Request")
    answer = f"<ErrorResponse><Error><Code>{code.removesuffix('Exception')}</Code><Message>{message}</Message></Error><RequestId>t</RequestId></ErrorResponse>".encode()
    start("400 Bad Request", [("Content-Type", "text/xml"), ("Content-Length", str(len(answer)))])
    return [answer]


if __name__ == "__main__":
    number = int(sys.argv[1])
    server = ThreadedWSGIServer("127.0.0.1", number, Stand(number), Quiet)
    print("ready", flush=True)
    server.serve_forever()
