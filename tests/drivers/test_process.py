"""Processes: what a spec may say, how a start fails, ports, streams, readiness."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tether
from support import eventually
from tether import Busy, DeadlineExceeded, ExecError, Owner, Process, SpecError, StartError, State
from tether.linux import sockets, tier
from tether.port import put_port
from tether.spec import redact

SERVE = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404); self.end_headers()
    def log_message(self, *args): pass
print("serving", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def python(code: str, *args: str, **more: Any) -> Process:
    """A spec that runs a piece of Python."""
    return Process([sys.executable, "-u", "-c", code, *args], **more)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "more", "match"),
    [
        ([], {}, "argv is empty"),
        ([""], {}, "argv is empty"),
        ("sleep 5", {}, "list of arguments, not one string"),
        (b"sleep", {}, "list of arguments, not one string"),
        (["a\0b"], {}, "embedded null byte"),
        (["x", 5], {}, "text or a path, not int"),
        (["x", None], {}, "text or a path, not NoneType"),
        (["x"], {"cwd": "a\0b"}, "embedded null byte"),
        (["x"], {"env": {"A": "b\0c"}}, "embedded null byte in the value of variable A"),
        (["x"], {"env": {"A=B": "c"}}, "can't be the name of an environment variable"),
        (["x"], {"env": {"": "c"}}, "can't be the name of an environment variable"),
        (["x"], {"env": {"A": 5}}, "must be text, not int"),
        (["x"], {"name": "a b"}, "can't be the name"),
        (["x"], {"name": "../x"}, "can't be the name"),
        (["x"], {"name": ""}, "can't be the name"),
        (["x"], {"stdout": "file"}, "stdout='file' is not known"),
        (["x"], {"stdin": "log"}, "stdin='log' is not known"),
        (["x"], {"on_death": "never"}, "on_death='never' is not known"),
        (["x"], {"stop_to": "all"}, "stop_to='all' is not known"),
        (["x"], {"stop_grace": -1}, "stop_grace=-1"),
        (["x"], {"stop_grace": float("nan")}, "stop_grace=nan"),
        (["x"], {"keep_for": 0}, "keep_for=0"),
        (["x"], {"stop_signal": 999}, "stop_signal=999 is no signal"),
        (["x"], {"umask": 0o1000}, "umask=512"),
        (["x"], {"port": 0}, "port=0 is no port"),
        (["x"], {"port": 70000}, "port=70000 is no port"),
        (["x"], {"pass_fds": [1]}, "pass_fds takes descriptors from 3 on"),
        (["x"], {"ready": tether.tcp()}, "needs a port to probe"),
        (["x"], {"ready": tether.log("x"), "stdout": "null", "stderr": "null"}, "needs stdout or stderr to be 'log'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_created(argv: Any, more: dict[str, Any], match: str) -> None:
    """One clear error, which is a ValueError too."""
    with pytest.raises(SpecError, match=match) as caught:
        Process(argv, **more)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: tether.http("health"), "begins with '/'"),
        (lambda: tether.log("("), "regular expression"),
        (lambda: tether.call(5), "takes a function"),  # type: ignore[arg-type]
        (lambda: tether.tcp(timeout=0), "time limit above 0"),
    ],
)
def test_bad_probes_are_refused(make: Callable[[], Any], match: str) -> None:
    """So is a probe that can't be right."""
    with pytest.raises(SpecError, match=match):
        make()


@pytest.mark.parametrize(
    ("argv", "more", "kind", "number"),
    [
        (["/no/such/program"], {}, FileNotFoundError, errno.ENOENT),
        (["no-such-program-anywhere"], {}, FileNotFoundError, errno.ENOENT),
        (["/tmp"], {}, PermissionError, errno.EACCES),
        (["/etc/passwd"], {}, PermissionError, errno.EACCES),
        (["/etc/passwd/x"], {}, NotADirectoryError, errno.ENOTDIR),
        (["true"], {"cwd": "/no/such/folder"}, FileNotFoundError, errno.ENOENT),
        (["true"], {"cwd": "/etc/passwd"}, NotADirectoryError, errno.ENOTDIR),
        (["true", *["x" * 10] * 1_000_000], {}, OSError, errno.E2BIG),
    ],
)
def test_exec_errors_are_those_of_subprocess(
    owner: Owner, argv: list[str], more: dict[str, Any], kind: type[OSError], number: int
) -> None:
    """Also a StartError; nothing is left, and the next start works."""
    with pytest.raises(kind) as caught:
        owner.start(Process(argv, name="bad", **more))
    assert caught.value.errno == number
    assert isinstance(caught.value, StartError)
    assert owner.resources == []
    assert owner.start(Process(["true"], name="bad")).wait(10) == 0


@pytest.mark.parametrize(
    ("argv", "more", "said"),
    [
        (["slep"], {}, "did you mean 'sleep'"),
        (["no-such-program-anywhere"], {}, "is it installed in this environment"),
        (["/no/such/program"], {}, "there is no such file"),
        (["./program"], {}, "relative to the command's folder"),
        (["true"], {"cwd": "/no/such/folder"}, "its working directory .* make it first"),
        (["true"], {"cwd": "/etc/passwd"}, "its working directory .* is no directory"),
        (["/tmp"], {}, "it is a directory"),
        (["/etc/passwd"], {}, "it is not executable; see chmod"),
        (["true", *["x" * 10] * 1_000_000], {}, "too long"),
    ],
)
def test_a_refusal_names_the_resource_and_what_helps(
    owner: Owner, argv: list[str], more: dict[str, Any], said: str
) -> None:
    """A program that was misspelt, a folder that is not there, a file that is none."""
    with pytest.raises(ExecError, match=rf"cannot start bad: \[Errno \d+\] .*{said}"):
        owner.start(Process(argv, name="bad", **more))


def test_a_script_whose_interpreter_is_not_there_says_so(owner: Owner, tmp_path: Path) -> None:
    """The kernel says only "no such file" of a file that is there."""
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(ExecError, match="the interpreter that its first line names is not"):
        owner.start(Process([script]))


def test_a_script_without_interpreter_is_no_program(owner: Owner, tmp_path: Path) -> None:
    """ENOEXEC, as subprocess says; never run by a shell of our choosing."""
    script = tmp_path / "script"
    script.write_text("echo surprise\n")
    script.chmod(0o755)
    with pytest.raises(OSError, match="Exec format error"):
        owner.start(Process([script]))


def test_a_program_is_found_by_the_path_of_its_own_environment(owner: Owner, tmp_path: Path) -> None:
    """PATH in env= counts, folders without the program and files that may not be executed are passed over."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "tool").write_text("not executable")
    (tmp_path / "b" / "tool").write_text("#!/bin/sh\necho found\n")
    (tmp_path / "b" / "tool").chmod(0o755)
    path = f"/nowhere:{tmp_path}/a:b"
    resource = owner.start(Process(["tool"], env={"PATH": path}, cwd=tmp_path))
    resource.wait(10)
    assert resource.logs() == "found\n"


def test_a_name_is_used_once(owner: Owner) -> None:
    """A second live resource of the same name is refused; after the end the name is free."""
    first = owner.start(Process(["sleep", "60"], name="same"))
    with pytest.raises(Busy, match="same is running already"):
        owner.start(Process(["sleep", "60"], name="same"))
    first.kill()
    owner.start(Process(["true"], name="same")).wait(10)


def test_default_names_tell_two_of_a_kind_apart(owner: Owner) -> None:
    """The program's name, then with a number."""
    names = [owner.start(Process(["/bin/sleep", "60"])).name for _ in range(3)]
    assert names == ["sleep", "sleep-2", "sleep-3"]


# -- what it gets ------------------------------------------------------------------------------------------------------


def test_arguments_environment_directory_and_mask_arrive(
    owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte; a None unsets; the app's own environment is underneath."""
    monkeypatch.setenv("FROM_APP", "yes")
    monkeypatch.setenv("UNWANTED", "yes")
    code = (
        "import os, sys, json\n"
        "print(json.dumps([sys.argv[1:], os.environ.get('FROM_APP'), os.environ.get('UNWANTED'),"
        " os.environ['GIVEN'], os.getcwd(), os.umask(0)]))"
    )
    odd = ["", " a  b ", "ü\udcff", "$(x)", "'\""]
    spec = python(code, *odd, env={"GIVEN": "a=b\nc", "UNWANTED": None}, cwd=tmp_path, umask=0o027)
    resource = owner.start(spec)
    assert resource.wait(20) == 0
    import json

    argv, from_app, unwanted, given, cwd, umask = json.loads(resource.logs())
    assert argv == odd
    assert (from_app, unwanted, given, cwd, umask) == ("yes", None, "a=b\nc", str(tmp_path), 0o027)


def test_signals_are_reset_and_the_session_is_its_own(owner: Owner) -> None:
    """Nothing is ignored or blocked, whatever the app does, and it leads a session."""
    code = (
        "import os, signal\n"
        "ignored = [s for s in signal.valid_signals() if signal.getsignal(s) is signal.SIG_IGN]\n"
        "print(ignored, signal.pthread_sigmask(signal.SIG_BLOCK, []), os.getsid(0) == os.getpid())"
    )
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        resource = owner.start(python(code))
        resource.wait(20)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    # Python itself ignores these two.
    assert resource.logs() == "[<Signals.SIGPIPE: 13>, <Signals.SIGXFSZ: 25>] set() True\n"


def test_no_descriptor_leaks_into_the_command(owner: Owner, tmp_path: Path) -> None:
    """Only the three standard ones, and what pass_fds names, under the same numbers."""
    with open(tmp_path / "file", "wb") as file:
        os.set_inheritable(file.fileno(), True)
        number = os.dup(file.fileno())
        try:
            code = "import os; print(sorted(int(fd) for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')))"
            plain = owner.start(python(code))
            plain.wait(20)
            passed = owner.start(python(code, pass_fds=[number]))
            passed.wait(20)
        finally:
            os.close(number)
    assert (plain.logs(), passed.logs()) == ("[0, 1, 2]\n", f"[0, 1, 2, {number}]\n")


def test_output_goes_to_the_log_by_default(owner: Owner, private_state: Path) -> None:
    """Both streams, in order, in a file that is the user's alone."""
    resource = owner.start(Process(["sh", "-c", "echo one; echo two >&2; echo three"]))
    resource.wait(10)
    assert resource.logs() == "one\ntwo\nthree\n"
    assert resource.logs(tail=2) == "two\nthree"
    assert resource.logs(tail=0) == ""
    path = Path(resource.info()["log"])
    assert path.parent == private_state / "logs"
    assert path.stat().st_mode & 0o777 == 0o600


def test_pipes_are_readable_binary_streams(owner: Owner) -> None:
    """stdin, stdout and stderr as pipes of this process."""
    resource = owner.start(Process(["sh", "-c", "cat; echo oops >&2"], stdin="pipe", stdout="pipe", stderr="pipe"))
    assert resource.stdin is not None
    assert resource.stdout is not None
    assert resource.stderr is not None
    with resource.stdin as stdin, resource.stdout as stdout, resource.stderr as stderr:
        stdin.write(b"\0binary\xff")
        stdin.close()
        assert stdout.read() == b"\0binary\xff"
        assert stderr.read() == b"oops\n"
    assert resource.wait(10) == 0


def test_no_value_of_the_environment_is_stored(owner: Owner, private_state: Path) -> None:
    """Neither the ledger nor a status nor a log has it; secrets among the arguments are hidden too."""
    spec = python(
        "import time; time.sleep(60)", "--api-key", "s3cr3t-arg", "--token=s3cr3t-tok", env={"KEY": "s3cr3t-env"}
    )
    resource = owner.start(spec)
    shown = repr(owner.status()) + repr(resource.info()) + repr(owner.events()) + repr(spec.env.keys())
    stored = b"".join(path.read_bytes() for path in private_state.rglob("*") if path.is_file())
    for secret in ("s3cr3t-arg", "s3cr3t-tok", "s3cr3t-env"):
        assert secret not in shown
        assert secret.encode() not in stored
    assert "'KEY'" in shown


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["x", "--password", "p", "y"], ["x", "--password", "***", "y"]),
        (["x", "--hf-token=p"], ["x", "--hf-token=***"]),
        (["x", "API_KEY=p", "--keep"], ["x", "API_KEY=***", "--keep"]),
        (["x", "--secret", "--flag", "v"], ["x", "--secret", "--flag", "v"]),
    ],
)
def test_arguments_that_look_like_secrets_are_hidden(argv: list[str], shown: list[str]) -> None:
    """The value behind a flag that names a key, token, password or secret."""
    assert redact(argv) == shown


# -- ports and readiness -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{port}", "81"),
        ("a{port}b{port}", "a81b81"),
        ("{{port}}", "{port}"),
        ("{x}", "{x}"),
        ('{"p": {port}}', '{"p": 81}'),
    ],
)
def test_port_is_replaced(text: str, result: str) -> None:
    """Only {port}; doubled braces make a literal one."""
    assert put_port(text, 81) == result


def test_a_server_gets_a_free_port_and_a_url(owner: Owner) -> None:
    """In arguments and environment alike, and start() returns when it answers."""
    heard: list[str] = []
    spec = python(SERVE, "{port}", env={"ALSO": "port {port}"}, ready=tether.http("/health"))
    server = owner.start(spec, on_progress=heard.append)
    assert server.state is State.READY
    assert server.url is not None
    import urllib.request

    with urllib.request.urlopen(f"{server.url}/health", timeout=5) as answer:
        assert answer.status == 200
    environ = Path(f"/proc/{server.pid}/environ").read_bytes().split(b"\0")
    assert f"ALSO=port {server.url.rpartition(':')[2]}".encode() in environ
    assert heard[-1] == "ready"
    port = int(server.url.rpartition(":")[2])
    server.stop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))


@pytest.mark.parametrize(
    "ready", [tether.tcp(), tether.log("^serv.ng$"), tether.call(lambda it: it.port)], ids=["tcp", "log", "call"]
)
def test_each_probe_passes_in_the_end(owner: Owner, ready: tether.Ready) -> None:
    """A connection, a line of the log, or a function of the app's."""
    assert owner.start(python(SERVE, "{port}", ready=ready)).state is State.READY


@pytest.mark.parametrize(
    "ready",
    [
        tether.http("/wrong", timeout=0.3),
        tether.tcp(timeout=0.3),
        tether.log("never", timeout=0.3),
        tether.call(lambda _: 1 / 0, timeout=0.3),
    ],
    ids=["http", "tcp", "log", "call"],
)
def test_a_probe_that_does_not_pass_in_time_ends_the_start(owner: Owner, ready: tether.Ready) -> None:
    """StartError says what was missing, with the last lines of the log; nothing is left running."""
    code = SERVE if ready.kind == "http" else "print('busy'); import time; time.sleep(60)"
    with pytest.raises(StartError, match=r"cannot start slow: not ready within 0.3 s: ") as caught:
        owner.start(python(code, "{port}", name="slow", ready=ready))
    assert ("serving" if ready.kind == "http" else "busy") in caught.value.log_tail
    assert owner.resources == []


def test_an_exit_before_ready_tells_status_and_log(owner: Owner) -> None:
    """As soon as it happens, not when the time limit has passed."""
    began = time.monotonic()
    with pytest.raises(StartError, match="exit code 7") as caught:
        owner.start(Process(["sh", "-c", "echo cannot find the model; exit 7"], ready=tether.log("never")))
    assert caught.value.exit_code == 7
    assert "cannot find the model" in str(caught.value)
    assert time.monotonic() - began < 30


def test_a_daemon_in_the_making_is_waited_for(owner: Owner) -> None:
    """A command that ends with 0 before it is ready may have left the real server behind: the tree is the unit."""
    code = "import os, sys\nif os.fork(): os._exit(0)\nos.setsid()\n" + SERVE
    server = owner.start(python(code, "{port}", ready=tether.http("/health")))
    assert server.state is State.READY
    assert server.exit_code == 0
    assert len(server.pids()) == 1
    server.stop()
    assert server.info()["state"] == "gone"


def test_an_orphan_on_the_port_fools_no_probe(owner: Owner) -> None:
    """Somebody else answers there with 200: not ready, and the start fails for it."""
    import http.server
    import threading

    class Fooling(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fooling) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        spec = Process(["sleep", "60"], name="fooled", port=stranger.server_port, ready=tether.http("/"))
        with pytest.raises(StartError, match="held by a process outside its tree"):
            owner.start(spec)
        stranger.shutdown()


def test_a_port_that_was_taken_is_changed_once(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody takes the chosen port first: started once more on another, under the same id."""
    from tether.drivers.process import request

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        free = sockets.free_port()
        ports = iter([sock.getsockname()[1], free])
        monkeypatch.setattr(request, "free_port", lambda: next(ports))
        heard: list[str] = []
        server = owner.start(
            python(SERVE, "{port}", name="server", ready=tether.http("/health")), on_progress=heard.append
        )
        assert server.url == f"http://127.0.0.1:{free}"
        assert f"port {sock.getsockname()[1]} is taken, trying another" in heard


# -- the end -----------------------------------------------------------------------------------------------------------


def test_stop_is_polite_and_then_not(owner: Owner) -> None:
    """SIGTERM first; what ignores it is killed when the grace is over."""
    polite = owner.start(
        python(
            "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(4))\nprint('up')\ntime.sleep(60)",
            ready=tether.log("up"),
        )
    )
    polite.stop()
    assert (polite.state, polite.exit_code) == (State.GONE, 4)
    stubborn = owner.start(
        python(
            "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up')\ntime.sleep(60)",
            ready=tether.log("up"),
        )
    )
    stubborn.stop(grace=0.2)
    assert (stubborn.state, stubborn.exit_code) == (State.GONE, -9)
    assert "by force" in next(event.detail for event in reversed(owner.events()) if event.what == "gone")


def test_the_whole_group_is_asked_and_helpers_after_it(owner: Owner) -> None:
    """Wrappers do not forward: the real process behind one is asked; so is a helper with a session of its own."""
    script = "sh -c 'trap \"echo inner; exit 0\" TERM; echo up; while :; do sleep 0.05; done'; echo wrapper"
    helper = "setsid sh -c 'trap \"echo helper; exit 0\" TERM; echo up; while :; do sleep 0.05; done' & "
    resource = owner.start(Process(["sh", "-c", helper + script], ready=tether.log("up[^u]*up")))
    resource.stop(grace=10)
    # The wrapper ends at once, so that both are at it at the same time.
    assert {"inner", "helper"} <= set(resource.logs().split())


def test_stop_to_main_asks_the_command_alone(owner: Owner) -> None:
    """Servers that mind a signal to their workers get it once, at the top."""
    script = "(trap 'echo child asked' TERM; while :; do sleep 0.05; done) & trap 'kill -9 $!; echo main; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    resource = owner.start(Process(["sh", "-c", script], stop_to="main", ready=tether.log("up")))
    resource.stop()
    assert "child asked" not in resource.logs()
    assert "main" in resource.logs()


def test_ends_are_idempotent(owner: Owner) -> None:
    """Twice, in any order, and from several threads: success."""
    from concurrent.futures import ThreadPoolExecutor

    resource = owner.start(Process(["sleep", "60"]))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: resource.stop() if number % 2 else resource.kill(), range(8)))
    resource.stop()
    resource.kill()
    assert resource.state is State.GONE
    assert resource.pids() == []
    assert resource.pid is None


def test_wait_has_a_time_limit_and_returns_the_exit_code(owner: Owner) -> None:
    """DeadlineExceeded is a TimeoutError, and changes nothing."""
    resource = owner.start(Process(["sh", "-c", "read line; exit 6"], stdin="pipe"))
    with pytest.raises(DeadlineExceeded, match="still ready after 0.05 s"):
        resource.wait(0.05)
    assert resource.stdin is not None
    resource.stdin.close()
    assert resource.wait(10) == 6
    assert resource.state is State.FAILED


def test_a_server_that_ends_by_itself_has_failed_whatever_its_code(owner: Owner) -> None:
    """Exit code 0 is not health, and what it leaves behind does not hold on to anything."""
    code = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\nprint('up')\ninput()"
    server = owner.start(python(code, stdin="pipe", ready=tether.log("up")))
    assert server.stdin is not None
    server.stdin.write(b"\n")
    server.stdin.close()
    assert server.wait(20) == 0
    assert (server.state, server.reason) == (State.FAILED, "ended by itself, exit code 0")


def test_helpers_of_a_finished_command_are_the_resource(owner: Owner) -> None:
    """The tree is the unit: it goes on until the last member has ended, or stop()."""
    resource = owner.start(Process(["sh", "-c", "setsid sleep 60 & exit 0"]))
    eventually(lambda: resource.exit_code == 0)
    assert resource.state is State.READY
    assert len(resource.pids()) == 1
    resource.stop()
    assert (resource.state, resource.exit_code) == (State.GONE, 0)


def test_restart_keeps_name_and_id(owner: Owner) -> None:
    """Another process under the same record."""
    resource = owner.start(python(SERVE, "{port}", name="server", ready=tether.http("/health")))
    before = (resource.id, resource.name)
    pid = resource.pid
    resource.restart()
    assert (resource.id, resource.name) == before
    assert resource.state is State.READY
    assert resource.pid != pid


def test_a_restart_takes_no_name_from_another(owner: Owner) -> None:
    """What was given its name meanwhile keeps it."""
    resource = owner.start(Process(["sleep", "60"], name="server"))
    resource.stop()
    other = owner.start(Process(["sleep", "60"], name="server"))
    with pytest.raises(tether.Busy, match="another resource is called server"):
        resource.restart()
    assert (resource.state, other.state) == (State.GONE, State.READY)
    assert [each.id for each in owner.resources] == [other.id]


def test_usage_adds_up_the_tree(owner: Owner) -> None:
    """Processes, processor time and memory of all members; nothing after the end."""
    resource = owner.start(Process(["sh", "-c", "sleep 60 & sleep 60 & wait"]))
    eventually(lambda: resource.usage().processes == 3)
    usage = resource.usage()
    assert usage.memory_bytes
    assert usage.memory_bytes > 100_000
    assert usage.cpu_s is not None
    resource.kill()
    assert resource.usage().processes is None


def test_shared_memory_of_a_killed_tree_goes(owner: Owner) -> None:
    """Segments that only the tree mapped are removed with it."""
    code = (
        "import mmap, os, time\n"
        "fd = os.open('/dev/shm/psm_test_%d' % os.getpid(), os.O_CREAT | os.O_RDWR)\n"
        "os.ftruncate(fd, 4096)\nkeep = mmap.mmap(fd, 4096)\nprint('up')\ntime.sleep(60)"
    )
    resource = owner.start(python(code, ready=tether.log("up")))
    path = Path(f"/dev/shm/psm_test_{resource.pid}")
    assert path.exists()
    resource.kill()
    assert not path.exists()


SEGMENTS = """
import mmap, os, sys, time
kept = []
for name, flags in ((sys.argv[1], os.O_CREAT), (sys.argv[2], os.O_CREAT), (sys.argv[3], os.O_CREAT), (sys.argv[4], 0)):
    fd = os.open(name, flags | os.O_RDWR)
    os.ftruncate(fd, 4096)
    kept.append(mmap.mmap(fd, 4096))
print("up", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_only_segments_that_the_tree_made_go(owner: Owner, end: str) -> None:
    """After an end by force: with a generated name, made within the tree, and open nowhere else. After a polite one nothing is touched."""
    import mmap

    mark = f"{os.getpid()}_{end}"
    made, used, users, older = (
        Path(f"/dev/shm/{name}_{mark}") for name in ("psm_made", "psm_used", "results", "psm_older")
    )
    older.touch()
    time.sleep(0.05)
    try:
        job = owner.start(python(SEGMENTS, *map(str, (made, used, users, older)), ready=tether.log("up")))
        with used.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
            job.kill() if end == "kill" else job.stop()
            assert [path.exists() for path in (made, used, users, older)] == [end != "kill", True, True, True]
    finally:
        for path in (made, used, users, older):
            path.unlink(missing_ok=True)


def test_whoever_has_its_number_now_is_not_taken_for_it(owner: Owner) -> None:
    """By the inode of its pidfd: pid and start tick may come twice, in a small pid namespace."""
    if not tier.has_pidfd() or [int(each) for each in os.uname().release.split("-")[0].split(".")[:2]] < [6, 9]:
        pytest.skip("this kernel gives pidfds no inode of their own")
    resource = owner.start(Process(["sleep", "60"]))
    driver, handle = resource._managed.driver, resource._managed.handle
    assert handle is not None
    pid, start, inode = handle.data["main"]
    assert inode != 0
    assert driver.marks(handle, handle.tag).roots == {(pid, start)}  # type: ignore[attr-defined]
    other = replace(handle, data={**handle.data, "main": [pid, start, inode + 1]})
    assert driver.marks(other, handle.tag).roots == set()  # type: ignore[attr-defined]
