"""``tether run`` is transparent, and leaves nothing."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from support import ESCAPE, Runner, eventually, is_alive, survivors
from tether.linux import proc, signals, tree

TETHER = [sys.executable, "-m", "tether"]


def run(*command: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command under tether run."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [*TETHER, "run", "--", *command], capture_output=True, text=True, timeout=60, check=False, **more
    )
    return done


@pytest.mark.parametrize(
    ("command", "code"),
    [(["true"], 0), (["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], -9), (["sh", "-c", "kill -TERM $$"], -15),
     (["/no/such/program"], 127), (["no-such-program"], 127), (["/etc/passwd"], 126), (["/tmp"], 126)],
)  # fmt: skip
def test_the_exit_code_is_the_commands(command: list[str], code: int) -> None:
    """Killed by the same signal; 127 and 126 as shells say it."""
    done = run(*command)
    assert done.returncode == code
    assert done.stdout == ""
    assert bool(done.stderr) == (code in (126, 127))


def test_standard_streams_are_the_commands() -> None:
    """Nothing is added to any of them."""
    done = run("sh", "-c", "cat; echo err >&2", input="in\n")
    assert (done.stdout, done.stderr) == ("in\n", "err\n")


def test_options_of_the_command_are_its_own() -> None:
    """Behind the command's name nothing is tether's."""
    assert run("echo", "--name", "-h", "--", "--help").stdout == "--name -h -- --help\n"


@pytest.mark.parametrize(
    "before", [["--"], [], ["--name", "it"], ["--name=it", "--grace=1", "--"], ["--grace", "0.5s"]]
)
def test_arguments_are_passed_on_as_they_are(before: list[str]) -> None:
    """Whatever stands behind the command: braces, ports, dashes, empty ones, and bytes that are no text."""
    words = ["{port}", "{{port}}", "{{{port}}}", "--port", "--", "", "-h", "a b", "\n", "\udcff", "*"]
    code = "import sys, os; sys.stdout.buffer.write(b'|'.join(map(os.fsencode, sys.argv[1:])))"
    done = subprocess.run(
        [*TETHER, "run", *before, sys.executable, "-c", code, *words], capture_output=True, timeout=60, check=True
    )
    assert done.stdout == b"|".join(map(os.fsencode, words))


def test_a_port_only_where_one_is_asked_for() -> None:
    """A fixed one, or a free one."""
    for given, expected in ((["--port", "8123"], "8123"), (["--port=8124"], "8124")):
        done = subprocess.run(
            [*TETHER, "run", *given, "echo", "at {port}"], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout == f"at {expected}\n"
    done = subprocess.run(
        [*TETHER, "run", "--port", "--", "echo", "{port}"], capture_output=True, text=True, timeout=60, check=True
    )
    assert 1024 <= int(done.stdout) < 65536


@pytest.mark.parametrize(
    ("args", "said"),
    [([], "no command to run"), (["--"], "no command to run"), (["--nmae", "x", "true"], "there is no option --nmae"),
     (["--name", "a/b", "true"], "'a/b' can't be a name"), (["--name"], "option --name needs a value"),
     (["--grace", "-1", "true"], "no number of seconds"), (["--grace=nan", "true"], "no number of seconds"),
     (["--port=70000", "true"], "'70000' is no port")],
)  # fmt: skip
def test_its_own_failure_is_125(args: list[str], said: str) -> None:
    """A mistake in its arguments, as for env(1) and nohup(1); nothing was run."""
    done = subprocess.run([*TETHER, "run", *args], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 125
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_state_directory_that_cant_be_used_is_125(tmp_path: Path) -> None:
    """What to do is said, and the command was not run."""
    (tmp_path / "file").write_text("")
    environ = {**os.environ, "TETHER_STATE_DIR": str(tmp_path / "file")}
    done = run("touch", str(tmp_path / "ran"), env=environ)
    assert (done.returncode, "TETHER_STATE_DIR" in done.stderr) == (125, True)
    assert not (tmp_path / "ran").exists()


def test_what_the_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    """A helper in a session of its own is ended when the command has."""
    done = run("sh", "-c", "setsid sh -c 'echo $$; exec sleep 60' & sleep 0.3")
    assert not tree.is_running(int(done.stdout))


@pytest.mark.parametrize("tier", ["cgroup", "shim"])
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=["KILL", "TERM", "HUP"])
def test_nothing_outlives_it(tmp_path: Path, tier: str, signum: int) -> None:
    """Killed or asked to end: twelve escaping descendants are gone."""
    command = [*TETHER, "run", "--grace", "0.3", "--", sys.executable, str(ESCAPE), str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, "TETHER_TIER": tier})
    eventually((tmp_path / "all").exists, 60.0)
    assert len(survivors(tmp_path)) == 13
    process.send_signal(signum)
    process.wait(30)
    eventually(lambda: survivors(tmp_path) == [], 1.0 if signum == signal.SIGKILL else 5.0)


@pytest.mark.parametrize(
    ("before", "options", "stays"),
    [([], [], False), (["nohup"], [], True), ([], ["--without-parent"], True), (["nohup"], ["--with-parent"], False)],
)
def test_it_ends_with_the_program_that_started_it(
    runner: Runner, before: list[str], options: list[str], stays: bool
) -> None:
    """Which was killed; what was detached on purpose goes on. Standard input is no terminal."""
    command = [*before, *TETHER, "run", *options, "--", "sh", "-c", "echo $$; exec sleep 60"]
    code = f"import subprocess, time; subprocess.run({command!r}, stdin=subprocess.DEVNULL)"
    with runner.popen(code) as started:
        assert started.stdout is not None
        pid = int(started.stdout.readline())
        start = proc.start_time(pid) or 0
        started.kill()
        started.wait(20)
        if stays:
            assert not signals.wait_end(pid, start, 0.5)
            assert signals.send(pid, start, signal.SIGKILL)
        eventually(lambda: not is_alive(pid, start))


def test_a_signal_is_passed_on() -> None:
    """SIGUSR1 to tether run is one to the command; SIGTERM lets it finish with its own code."""
    script = "trap 'echo usr1' USR1; trap 'echo term; exit 9' TERM; echo up; while :; do sleep 0.05; done"
    process = subprocess.Popen([*TETHER, "run", "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == "usr1\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "term\n"
    assert process.wait(20) == 9
    process.stdout.close()


class Terminal:
    """A shell with job control on a terminal of its own."""

    def __init__(self) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["PS1"] = "$ "
            os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
        self.seen = ""

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self.fd, text.encode())

    def wait_for(self, text: str, within: float = 20.0) -> None:
        """Wait until the terminal shows ``text``, and forget what came before it."""
        deadline = time.monotonic() + within
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {self.seen!r}"
            if select.select([self.fd], [], [], left)[0]:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        """Hang up."""
        os.close(self.fd)
        os.waitpid(self.pid, 0)


def test_a_terminals_job_control_works() -> None:
    """Ctrl-Z, bg, fg and Ctrl-C, the latter once; and the shell gets the code."""
    terminal = Terminal()
    # One long sleep: a shell that is stopped in the middle of a vfork waits for its child, with or without tether.
    script = "trap 'echo inter''rupted; exit 5' INT; (sleep 0.3; echo s''tarted) & while :; do sleep 60; done"
    try:
        terminal.type(f'{sys.executable} -m tether run -- sh -c "{script}"\n')
        terminal.wait_for("started")
        terminal.type("\x1a")
        terminal.wait_for("Stopped")
        terminal.type("fg\n")
        terminal.wait_for("tether run")
        time.sleep(0.3)
        terminal.type("\x03")
        terminal.wait_for("interrupted")
        terminal.type("echo code=$?\n")
        terminal.wait_for("code=5")
        assert "interrupted" not in terminal.seen
    finally:
        terminal.close()


def test_a_hang_up_of_the_terminal_ends_it() -> None:
    """The window is closed: the command ends, and a helper that nohup protects."""
    terminal = Terminal()
    script = "nohup setsid sleep 60 & echo pids'='$$,$!.; wait"
    terminal.type(f'{sys.executable} -m tether run --grace 0.5 -- sh -c "{script.replace("$", chr(92) + "$")}"\n')
    terminal.wait_for("pids=")
    terminal.wait_for(".") if "." not in terminal.seen else None
    pids: list[int] = []
    text = terminal.seen
    terminal.close()
    import re

    found = re.search(r"(\d+),(\d+)", text)
    if found:
        pids = [int(number) for number in found.groups()]
        eventually(lambda: not any(tree.is_running(pid) for pid in pids))


def test_a_background_job_goes_on_to_ignore_the_keyboard() -> None:
    """A shell without job control has its background ignore SIGINT; the command ignores it too."""
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    script = f"{sys.executable} -m tether run -- {sys.executable} -c '{code}' & wait"
    assert (
        subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout == "True\n"
    )


SEEN = """
import os, sys
def is_open(fd):
    try:
        return bool(os.fstat(fd))
    except OSError:
        return False
seen = [fd for fd in range(3) if not is_open(fd)]
open(sys.argv[1], "w").write(str(seen))
"""


@pytest.mark.parametrize("closed", [[0], [1], [0, 1, 2]], ids=str)
def test_what_is_closed_here_is_closed_there(tmp_path: Path, closed: list[int]) -> None:
    """No file of tether's own gets the number and is handed on; and nothing is said of that where there is nobody to hear it."""
    seen = tmp_path / "seen"
    command = [*TETHER, "run", "--", sys.executable, "-c", SEEN, str(seen)]
    ends = " ".join(f"{fd}{'<' if fd == 0 else '>'}&-" for fd in closed)
    done = subprocess.run(
        ["sh", "-c", f'"$@" {ends}', "sh", *command], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert seen.read_text() == str(closed)


def test_a_failure_is_told_by_its_code_where_nobody_can_be_told() -> None:
    """Standard error is closed: still 127, as with env(1)."""
    done = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", *TETHER, "run", "--", "no-such-program"], timeout=60, check=False
    )
    assert done.returncode == 127


def test_a_command_begins_with_no_signal_ignored() -> None:
    """Also none of the two that glibc's posix_spawn(3) has ignored in what it starts."""
    done = run("grep", "SigIgn", "/proc/self/status")
    assert int(done.stdout.split()[1], 16) == 0


def test_a_script_without_an_interpreter_gets_all_of_its_arguments_or_does_not_run(tmp_path: Path) -> None:
    """As a shell runs it; what can't be handed on is said, and not cut."""
    script = tmp_path / "script"
    script.write_text("echo $#")
    script.chmod(0o755)
    assert run(str(script), *["x"] * 4000).stdout == "4000\n"
    done = run(str(script), *["x"] * 6000)
    assert (done.returncode, done.stdout) == (126, "")
    assert "Argument list too long" in done.stderr
