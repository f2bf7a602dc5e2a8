"""tether.subprocess: what holds for subprocess holds here, and what a command starts ends with the app."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tether.subprocess
from support import PROGRAMS, Runner, eventually
from tether import SpecError, State
from tether.linux import proc
from tether.subprocess import shared

LIST = Path(__file__).parent / "data/cpython_subprocess.txt"


@pytest.fixture(autouse=True)
def shared_owner_ends() -> object:
    """The process-wide owner ends with each test, as with an app."""
    yield
    shared._shared.end()


def exceptions(module: str) -> dict[str, str]:
    """The tests of a module of CPython's that are known not to pass, with the reason."""
    lines = [line.removeprefix(f"{module} ") for line in LIST.read_text().splitlines() if line.startswith(f"{module} ")]
    return dict(line.split(": ", 1) for line in lines)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("module", "least"), [("test_subprocess", 250), ("test_asyncio.test_subprocess", 100)])
def test_cpythons_own_tests_pass(tmp_path: Path, module: str, least: int) -> None:
    """But for the tests of a list, and those do not pass. Slow: hundreds of tests, which start commands for a minute and more."""
    if importlib.util.find_spec("test.test_subprocess") is None:
        pytest.skip("this Python comes without its own tests")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(PROGRAMS / "cpython_subprocess.py"), f"test.{module}"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    said = json.loads(done.stdout.splitlines()[-1])
    new = {name: why for name, why in said["failed"].items() if name not in exceptions(module)}
    assert not new, "\n".join(f"{name}\n{why}" for name, why in new.items())
    assert not set(exceptions(module)) & set(said["passed"]), "these pass by now: take them off the list"
    assert len(said["passed"]) > least


def test_names_are_those_of_subprocess() -> None:
    """Constants and exceptions are its very own, its Popen a class of it, and what is not here is there."""
    ours = tether.subprocess
    assert set(subprocess.__all__) <= {*ours.__all__, "list2cmdline"}
    assert ours.CalledProcessError is subprocess.CalledProcessError
    assert ours.PIPE == subprocess.PIPE
    assert issubclass(ours.Popen, subprocess.Popen)
    assert ours.list2cmdline is subprocess.list2cmdline  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        ours.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_a_command_is_a_resource() -> None:
    """It is shown like any other, with its pid; it ends by itself as the command does, and words in braces mean nothing."""
    process = tether.subprocess.Popen(
        ["sh", "-c", "echo {port} {{port}} $X; read line"], stdin=-1, stdout=-1, env={"X": "{port}"}
    )
    (resource,) = tether.subprocess.owner().resources
    assert resource.pid == process.pid
    assert resource.name == "sh"
    assert process.communicate(b"go on\n")[0] == b"{port} {{port}} {port}\n"
    assert process.returncode == 0
    eventually(lambda: tether.subprocess.owner().resources == [])


def test_errors_are_those_of_subprocess() -> None:
    """Neither more nor less than what subprocess raises, with the same fields; preexec_fn is refused before anything is started."""
    with pytest.raises(FileNotFoundError) as caught:
        tether.subprocess.run(["there is no such program"], check=False)
    assert type(caught.value) is FileNotFoundError
    assert caught.value.filename == "there is no such program"
    with pytest.raises(FileNotFoundError) as caught:
        tether.subprocess.run(["true"], cwd="not/there", check=False)
    assert caught.value.filename == "not/there"
    with pytest.raises(subprocess.TimeoutExpired):
        tether.subprocess.run(["sleep", "60"], timeout=0.1, check=False)
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        tether.subprocess.check_output("exit 3", shell=True)
    with pytest.raises(SpecError, match="preexec_fn= can't be had"):
        tether.subprocess.Popen(["true"], preexec_fn=os.getpid)


def test_it_shares_the_session_and_group_unless_told_otherwise() -> None:
    """A terminal's Ctrl-C reaches it, as with subprocess."""
    code = "import os; print(os.getsid(0), os.getpgid(0))"

    def said(**more: object) -> list[int]:
        return [int(each) for each in tether.subprocess.check_output([sys.executable, "-c", code], **more).split()]  # type: ignore[call-overload]

    assert said() == [os.getsid(0), os.getpgrp()]
    session, group = said(start_new_session=True)
    assert session == group != os.getsid(0)
    session, group = said(process_group=0)
    assert session == os.getsid(0)
    assert group != os.getpgrp()


def test_what_a_command_left_behind_goes_on_until_the_app_ends() -> None:
    """However the command ended: with subprocess it would go on for ever, here as long as the app."""
    process = tether.subprocess.Popen("sleep 100 >&2 & echo $!; exit 3", shell=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    helper = int(process.stdout.readline())
    assert process.wait(10) == 3
    process.stdout.close()
    assert proc.start_time(helper) is not None
    assert process.resource.state is State.READY  # type: ignore[attr-defined]
    shared._shared.end()
    assert proc.start_time(helper) is None


def test_signals_go_to_the_command_alone() -> None:
    """By identity; what has ended gets none."""
    code = "trap 'echo usr1; exit 4' USR1; echo ready; sleep 100 & wait"
    with tether.subprocess.Popen(code, shell=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == b"usr1\n"
        assert process.wait(10) == 4
        process.kill()
        with pytest.raises(subprocess.TimeoutExpired):
            tether.subprocess.Popen.communicate(process, timeout=0.1)
        process.resource.kill()  # type: ignore[attr-defined]


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(3)", "1 / 0", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_everything_ends_with_the_app(runner: Runner, tmp_path: Path, end: str) -> None:
    """Whether in order or not, and also what no longer has anything to do with its command."""
    code = (
        "import os, sys; from tether import subprocess\n"
        "p = subprocess.Popen('setsid sleep 100 & echo $!; exec sleep 100', shell=True, stdout=-1, text=True)\n"
        f"print(p.pid, p.stdout.readline(), flush=True); {end}"
    )
    with runner.popen(code) as process:
        assert process.stdout is not None
        pids = [int(each) for each in process.stdout.read().split()]
    assert len(pids) == 2
    eventually(lambda: not [pid for pid in pids if (stat := proc.read_stat(pid)) is not None and stat.running])


def test_a_fork_has_an_owner_of_its_own() -> None:
    """It starts commands of its own, and can say nothing of those that its parent started."""
    process = tether.subprocess.Popen(["sleep", "100"])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                process.wait()
            except ChildProcessError:
                os.write(write, b"none of mine, ")
            os.write(write, tether.subprocess.check_output(["echo", "mine"]))
            shared._shared.end()
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        assert said.read() == b"none of mine, mine\n"
    os.waitpid(child, 0)
    assert process.poll() is None
    process.kill()
    assert process.wait(10) == -signal.SIGKILL


def test_asyncio_has_its_like() -> None:
    """The same names as in asyncio; nothing of it outlives the app, and its end is heard without a thread."""

    async def go() -> list[threading.Thread]:
        before = set(threading.enumerate())
        process = await tether.subprocess.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        (resource,) = tether.subprocess.owner().resources
        assert resource.pid == process.pid
        assert (await process.communicate(b"hello"))[0] == b"hello"
        shell = await tether.subprocess.create_subprocess_shell("read line; exit 3", stdin=subprocess.PIPE)
        waiting = asyncio.ensure_future(shell.wait())
        await asyncio.sleep(0)
        made = [each for each in threading.enumerate() if each not in before and not each.name.startswith("tether-")]
        assert shell.stdin is not None
        shell.stdin.close()
        assert await waiting == 3
        deaf = await tether.subprocess.create_subprocess_exec("sleep", "100")
        deaf.kill()
        assert await deaf.wait() == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            deaf.send_signal(signal.SIGTERM)
        with pytest.raises(FileNotFoundError):
            await tether.subprocess.create_subprocess_exec("there is no such program")
        with pytest.raises(ValueError, match="text= can't be given"):
            await tether.subprocess.create_subprocess_exec("true", text=True)  # type: ignore[arg-type]
        return made

    assert asyncio.run(go()) == []
