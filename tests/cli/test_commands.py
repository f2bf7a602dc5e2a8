"""The other commands, as a person and as a program would use them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from commandline import TETHER, table, tether
from support import Runner, eventually
from tether import Owner, Process, State
from tether.cli.commands import COMMANDS
from tether.linux import tree


def test_ps_lists_what_is_there(owner: Owner) -> None:
    """In plain columns when it is no terminal, and as JSON."""
    resource = owner.start(Process(["sh", "-c", "sleep 60 & wait"], name="it"))
    eventually(lambda: len(resource.pids()) == 2)
    lines = tether("ps").splitlines()
    assert lines[0].split() == ["OWNER", "NAME", "STATE", "AGE", "PROCS", "MEM", "CPU", "URL,", "REASON"]
    assert re.fullmatch(r"test +it +ready +\ds +2 +[\d.]+[KM] +[\d.]+s +-", lines[1])
    assert re.search(rf"test +it +process +ready .* {resource.pid} +2 .* {resource.id}", tether("ps", "--wide"))
    assert tether("ps", "nosuch").startswith("nothing of what was asked for runs in ")
    (shown,) = table("ps")
    assert (shown["id"], shown["pids"], shown["owner_alive"]) == (resource.id, resource.pids(), True)
    resource.kill()
    assert table("ps") == []
    assert tether("ps").startswith("nothing runs in ")
    assert table("ps", "--all")[0]["state"] == "gone"


def test_tree_shows_the_processes(owner: Owner) -> None:
    """Owner, resource, and who is below whom."""
    resource = owner.start(Process(["sh", "-c", "sleep 61 & wait"], name="it"))
    eventually(lambda: len(resource.pids()) == 2)
    shown = tether("tree")
    assert f"test (pid {os.getpid()})" in shown
    assert "it  process  ready" in shown
    assert f"{resource.pid} sh -c" in shown
    (root,) = table("tree")[0]["processes"]
    assert [root["pid"], root["children"][0]["command"]] == [resource.pid, "sleep 61"]


def test_logs_and_follow(owner: Owner) -> None:
    """Of what runs and of what has ended; -f goes on until the end."""
    resource = owner.start(Process(["sh", "-c", "echo one; echo two; read line; echo three"], name="it", stdin="pipe"))
    eventually(lambda: resource.logs() == "one\ntwo\n")
    assert tether("logs", "it") == "one\ntwo\n"
    assert tether("logs", "test/it", "-n", "1") == "two\n"
    with subprocess.Popen([*TETHER, "logs", "-f", "it"], stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "one\n"
        assert resource.stdin is not None
        resource.stdin.write(b"\n")
        resource.stdin.close()
        assert follower.stdout.read() == "two\nthree\n"
    assert tether("logs", resource.id[:8]) == "one\ntwo\nthree\n"
    assert "no resource 'nothing'" in tether("logs", "nothing", code=1)


@pytest.mark.parametrize("command", ["stop", "kill"])
def test_stop_and_kill_from_outside(owner: Owner, command: str) -> None:
    """The owner learns of it, and does not take it for a failure."""
    resource = owner.start(Process(["sleep", "60"], name="it"))
    assert tether(command, "it") == "it: gone\n"
    eventually(lambda: resource.state.is_final)
    assert resource.state is State.GONE
    assert any(event.what == "asked to end" for event in owner.events())
    assert tether(command, "it").startswith("it: ended already")
    assert "no resource 'them'" in tether(command, "them", code=1)


def test_a_grace_from_outside_is_kept(owner: Owner) -> None:
    """What ignores the request is ended when it is over."""
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    resource = owner.start(Process([sys.executable, "-c", code], name="it"))
    eventually(lambda: resource.logs() == "up\n")
    tether("stop", "it", "--grace", "0.2")
    eventually(lambda: resource.state is State.GONE)


def test_a_name_that_may_mean_several_is_refused(owner: Owner, private_state: Path) -> None:
    """OWNER/NAME tells them apart."""
    with Owner("other") as other:
        owner.start(Process(["sleep", "60"], name="it"))
        second = other.start(Process(["sleep", "60"], name="it"))
        assert "use OWNER/NAME or the id" in tether("kill", "it", code=1)
        tether("kill", "other/it")
        eventually(lambda: second.state is State.GONE)


def test_events_as_lines_and_as_json(owner: Owner) -> None:
    """One JSON object a line; -f shows what comes."""
    with subprocess.Popen([*TETHER, "events", "-f", "--json"], stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["what"] == "owner began"
        owner.start(Process(["true"], name="it")).wait(10)
        assert [json.loads(follower.stdout.readline())["what"] for _ in range(4)] == [
            "created",
            "ready",
            "exited",
            "gone",
        ]
        follower.send_signal(signal.SIGINT)
    assert "finished with exit code 0" in tether("events")
    assert len(tether("events", "-n", "2").splitlines()) == 2


def test_doctor_proves_that_the_guard_is_armed() -> None:
    """A real reaper and a real shim are started for it; the tier is named."""
    findings = {each["what"]: each for each in table("doctor")}
    assert findings["guard"]["found"].startswith("armed, tier ")
    forced = subprocess.run(
        [*TETHER, "doctor"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "TETHER_TIER": "portable"},
    ).stdout
    assert "armed, tier portable" in forced
    assert re.search(r"pidfd +-- +missing", forced)


def test_doctor_says_when_nothing_can_be_started(user_runner: Runner) -> None:
    """An unwritable state directory is an exit code of 1."""
    done = subprocess.run(
        [*user_runner.command, "-c", "from tether.ledger import place; place.prepare(place.state_dir('/proc/x'))"],
        capture_output=True, text=True, env=user_runner.environ, timeout=60, check=False,
    )  # fmt: skip
    assert "can't be used" in done.stderr
    blocked = {**os.environ, "TETHER_STATE_DIR": "/proc/x"}
    assert "/proc/x can't be used" in tether("doctor", code=1, env=blocked)


PLUGINS = """
class Good:
    def get_execution_mode(self):
        from tether import PluginExecutionMode
        return PluginExecutionMode.SUBPROCESS
    def get_child_pids(self): return [1]
    def get_managed_resources(self): return {}
    def force_cleanup(self): raise SystemExit("called!")
class Missing(Good):
    force_cleanup = None
class Signature(Good):
    def get_child_pids(self, needed): return []
class Type(Good):
    def get_child_pids(self): return "123"
class Raising(Good):
    def get_managed_resources(self): raise OSError("no")
class Mode(Good):
    def get_execution_mode(self): return "subprocess"
class Async(Good):
    async def force_cleanup(self): pass
class Needy(Good):
    def __init__(self, model): pass
good = Good()
"""


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("Good", 0, "lifecycle-aware, mode subprocess"),
        ("good", 0, "lifecycle-aware, mode subprocess"),
        ("Missing", 1, "force_cleanup() is missing"),
        ("Signature", 1, "get_child_pids() can't be called without arguments: missing a required argument: 'needed'"),
        ("Type", 1, "get_child_pids() returned '123', not a list of int"),
        ("Raising", 1, "get_managed_resources() raised OSError: no"),
        ("Mode", 1, "get_execution_mode() returned 'subprocess', not a PluginExecutionMode"),
        ("Async", 1, "force_cleanup() is a coroutine function"),
        ("Needy", 1, "can't be called without arguments"),
        ("Nowhere", 1, "has no 'Nowhere'"),
    ],
)
def test_check_says_what_is_wrong_with_a_plugin(tmp_path: Path, name: str, code: int, said: str) -> None:
    """Which method is missing, can't be called, or returns a wrong type; force_cleanup is never called."""
    (tmp_path / "plugins.py").write_text(PLUGINS)
    assert said in tether("check", f"plugins:{name}", code=code, cwd=tmp_path)


ODD = {
    "syntax": ("def broken(:\n", "syntax.py, line 1"),
    "leaves": ("import sys; sys.exit(3)", "it exits when it is imported or called, with 3"),
    "vanishes": ("import os; os._exit(0)", "the process that looked at it was ended, with exit code 0"),
    "crashes": ("import os; os.kill(os.getpid(), 11)", "was ended, by signal 11"),
    "interrupted": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "needs": ("import not_installed", "No module named 'not_installed'"),
    "deep": ("def f(): return f()\nf()", "RecursionError"),
    "shy": (
        "class P:\n    @property\n    def force_cleanup(self): raise OSError('not now')\np = P()",
        "OSError: not now",
    ),
    "odd": ("class P:\n    def __getattr__(self, name): raise SystemExit(name)\np = P()", "it exits"),
    "babbles": ("print('hello'); p = 1", "get_execution_mode() is missing"),
    "threads": ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start(); p = 1", "is missing"),
}


@pytest.mark.parametrize("module", sorted(ODD))
def test_check_never_shows_a_traceback(tmp_path: Path, module: str) -> None:
    """Whatever a module does when it is imported or looked at, there is an answer, and it is all of standard output."""
    code, said = ODD[module]
    (tmp_path / f"{module}.py").write_text(code)
    assert said in tether("check", f"{module}:p", code=1, cwd=tmp_path)
    answer = subprocess.run(
        [*TETHER, "check", f"{module}:p", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert json.loads(answer.stdout)["lifecycle_aware"] is False


@pytest.mark.parametrize("target", [":x", ".:y", "x:", ":", "a b:c", "..a:b", "a:b.", "plugins"])
def test_check_wants_two_names(target: str) -> None:
    """Anything else is a mistake in the arguments."""
    assert "write MODULE:NAME" in tether("check", target, code=2)


def test_check_as_json_and_bad_usage(tmp_path: Path) -> None:
    """Problems as a list; what is no MODULE:NAME is a usage error."""
    (tmp_path / "plugins.py").write_text(PLUGINS)
    shown = json.loads(tether("check", "plugins:Type", "--json", code=1, cwd=tmp_path))
    assert shown["lifecycle_aware"] is False
    assert len(shown["problems"]) == 1
    assert "MODULE:NAME" in tether("check", "plugins", code=2, cwd=tmp_path)
    assert "can't be imported" in tether("check", "no_such_module:x", code=1, cwd=tmp_path)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str) -> None:
    """With -h and --help alike, within 80 columns, and it stands in the list of commands."""
    said = tether(command, "--help")
    assert said.startswith(f"Usage: tether {command} ")
    assert max(map(len, said.splitlines())) <= 80
    assert said == tether(command, "-h") == tether("help", command)
    assert f"  {command} " in tether("--help")


def test_version_and_usage() -> None:
    """A number, and a usage error for what is no command."""
    from tether import __version__

    assert tether("--version") == f"tether {__version__}\n"
    assert tether() == tether("-h") == tether("--help")
    assert max(map(len, tether().splitlines())) <= 80


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("pss", "ps"),
        ("ls", "ps"),
        ("log", "logs"),
        ("kil", "kill"),
        ("stopp", "stop"),
        ("start", "run"),
        ("state", "stats"),
    ],
)
def test_what_may_be_meant(given: str, meant: str) -> None:
    """A word that is no command is a usage error, with what may be meant."""
    assert f"is 'tether {meant}' meant?" in tether(given, code=2)


@pytest.mark.parametrize("given", ["rm", "delete", "skill", "end", "clean", "reset", "xyzzy", "repair", "rune", "k"])
def test_a_guess_never_ends_anything(given: str) -> None:
    """What is far from every command gets no suggestion that would end, remove or give up something."""
    said = tether(given, code=2)
    assert not any(f"'tether {name}'" in said for name in ("stop", "kill", "restart", "reap", "forget", "prune"))


def test_options_are_written_out() -> None:
    """The beginning of an option is no option: it is named, and not taken."""
    assert "there is no option --al; is --all meant?" in tether("ps", "--al", code=2)
    assert "there is no option --dry; is --dry-run meant?" in tether("reap", "--dry", code=2)
    assert "is no time span" in tether("stop", "it", "--grace", "-1", code=2)
    assert "there is no filter 'colour=red'" in tether("ps", "--filter", "colour=red", code=2)
    assert "is no time; write a span" in tether("events", "--since", "yesterday", code=2)


def test_reap_ends_what_dead_owners_left(runner: Runner, private_state: Path) -> None:
    """Owner, reaper and shims killed at once: a dry run tells, and the real one ends and says so."""
    code = (
        "import os, signal, sys, time; from tether import Owner, Process\n"
        "o = Owner('dead'); r = o.start(Process(['sleep', '60'], name='it'))\n"
        "print(r.pid, o.status()['reaper'], r._managed.handle.data['shim'][0], flush=True); time.sleep(60)"
    )
    with runner.popen(code, env={"TETHER_STATE_DIR": str(private_state)}) as process:
        assert process.stdout is not None
        pid, reaper, shim = map(int, process.stdout.readline().split())
        for each in (reaper, shim, process.pid):
            os.kill(each, signal.SIGSTOP)
        for each in (reaper, shim, process.pid):
            os.kill(each, signal.SIGKILL)
    assert "orphaned" in tether("ps")
    (would,) = table("reap", "--dry-run")
    assert (would["name"], would["what"]) == ("it", "would end")
    assert tree.is_running(pid)
    (did,) = table("reap")
    assert (did["name"], did["what"]) == ("it", "ended")
    assert not tree.is_running(pid)
    assert "nothing to settle" in tether("reap")
    assert "OnUnitActiveSec" in tether("reap", "--install")
