"""What a command gets: the attributes that the app has when it is started, and those that the spec says."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from support import Runner, let_in
from tether import Owner, Process, SpecError, StartError
from tether.drivers.process import request
from tether.linux import cgroup

PROBE = [
    "sh",
    "-c",
    "id -u; id -g; id -G; umask; ulimit -n; ulimit -Hn; nice; taskset -p $$ | sed 's/.*: //'; cat /proc/self/oom_score_adj",
]
LATER = """
import json, os, resource, subprocess, sys, tempfile
from tether import Owner, Process
probe = json.loads(sys.argv[2])
def ours(owner):
    job = owner.start(Process(probe, stdout="pipe", stderr="null"))
    said = job.stdout.read().decode().split("\\n")
    job.wait(20)
    return said
owner = Owner("later", state_dir=sys.argv[1])
ours(owner)
for change in sys.argv[3:]:
    exec(change)
    theirs = subprocess.run(probe, stdout=subprocess.PIPE, check=True).stdout.decode().split("\\n")
    got = ours(owner)
    print(change, "same" if got == theirs else f"{got} {theirs}", flush=True)
owner.shutdown()
"""
CHANGES = [
    "os.umask(0o027)",
    "os.nice(3)",
    "os.sched_setaffinity(0, {0})",
    "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))",
    "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "open('/proc/self/oom_score_adj', 'w').write('300')",
]
AS_ROOT = [
    "import ctypes; libc = ctypes.CDLL(None); libc.unshare(0x40000000)",
    "libc.prctl(38, 1, 0, 0, 0)",
    (
        "[os.chown(os.path.join(r, n), 1500, 1500) for r, d, f in os.walk(sys.argv[1]) for n in ['.'] + f]; os.setgroups([1501]); "
        "os.setresgid(1500, 1500, 1500); os.setresuid(1500, 1500, 1500)"
    ),
]


def test_it_is_what_the_app_has_at_the_start_of_each(each_runner: Runner) -> None:
    """Not what it had when the guard was started: mask, priority, limits, and for root users, groups and namespaces."""
    import json

    folder = each_runner.new_folder()
    changes = [*CHANGES, *(AS_ROOT if os.getuid() == 0 and "setpriv" not in each_runner.command[0] else [])]
    if len(changes) > len(CHANGES):
        folder.chmod(0o755)
        let_in(folder)
    with each_runner.popen(
        LATER,
        folder / "state",
        json.dumps(
            [*PROBE[:2], PROBE[2] + "; readlink /proc/self/ns/net; grep -E 'Cap|NoNew|Groups' /proc/self/status"]
        ),
        *changes,
    ) as process:
        said = process.communicate(timeout=90)[0].splitlines()
    assert [line.rsplit(" ", 1)[-1] for line in said] == ["same"] * len(changes), said


def show(owner: Owner, command: str, **more: object) -> str:
    """Run a command and return what it wrote."""
    job = owner.start(Process(["sh", "-c", command], stdout="pipe", stderr="stdout", **more))  # type: ignore[arg-type]
    assert job.stdout is not None
    said: str = job.stdout.read().decode().strip()
    job.wait(20)
    return said


def test_a_spec_says_what_the_command_gets(owner: Owner) -> None:
    """User, groups, limits, priority, processors, readiness to be killed."""
    if os.getuid() != 0:
        pytest.skip("only root can give another user")
    said = show(
        owner,
        "id -u; id -g; id -G; ulimit -n; nice; cat /proc/self/oom_score_adj; umask",
        user=1600, group=1601, extra_groups=[1602, 1603], rlimits={resource.RLIMIT_NOFILE: (99, 100)}, nice=4, oom_score_adj=250, umask=0o077,
    )  # fmt: skip
    assert said.split("\n") == ["1600", "1601", "1601 1602 1603", "99", str(os.nice(0) + 4), "250", "0077"]
    assert show(owner, "taskset -p $$ | sed 's/.*: //'", affinity=[0]) == "1"
    assert show(owner, "id -un", user="nobody") == "nobody"


def test_what_is_refused_is_refused_before_anything_is_created(owner: Owner) -> None:
    """An unknown user is the spec's fault, a user that one may not become the kernel's."""
    with pytest.raises(SpecError, match="no such user"):
        owner.start(Process(["true"], user="no-such-user"))
    with pytest.raises(SpecError, match="oom_score_adj"):
        Process(["true"], oom_score_adj=2000)
    with pytest.raises(SpecError, match="affinity"):
        Process(["true"], affinity=[])
    with pytest.raises(SpecError, match="Path"):
        Process(["true"], stdout="out.txt")  # type: ignore[arg-type]
    assert owner.resources == []


@pytest.mark.parametrize(
    ("more", "attribute", "kind"),
    [
        ({"affinity": [8000]}, "affinity", OSError),
        ({"process_group": 1, "terminal": "share"}, "process_group", PermissionError),
        ({"cwd": "/no/such/folder"}, "cwd", FileNotFoundError),
        ({"user": 1600}, "user", PermissionError),
        ({"group": 1600}, "group", PermissionError),
        ({"extra_groups": [1600]}, "extra_groups", PermissionError),
        ({"nice": -5}, "nice", PermissionError),
        ({"rlimits": {resource.RLIMIT_CORE: (10, 10)}}, "rlimits", PermissionError),
    ],
)
def test_what_was_refused_is_said_by_name(runner: Runner, more: dict[str, object], attribute: str, kind: type) -> None:
    """Not the program is to blame: the field of the spec, with the kernel's own words, as a user without rights."""
    code = (
        "import os, resource, sys, tether.refusal; from tether import ExecError, Owner, Process\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "owner = Owner('refused', state_dir=sys.argv[1])\n"
        "owner.start(Process(['true'], name='job')).wait(30)\n"
        "if os.getuid() == 0:\n"
        "    for root, _, files in os.walk(sys.argv[1]):\n"
        "        for name in ['.', *files]: os.chown(os.path.join(root, name), 1500, 1500)\n"
        "    os.setgroups([]); os.setresgid(1500, 1500, 1500); os.setresuid(1500, 1500, 1500)\n"
        f"try: owner.start(Process(['true'], name='job', **{more!r}))\n"
        "except ExecError as error:\n"
        "    print(error.attribute, *[each.__name__ for each in type(error).__mro__], '|', error, len(owner.resources))\n"
        "owner.shutdown()"
    )
    # Not below pytest's own folder, which every other session of pytest that begins closes to other users.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with runner.popen(code, Path(folder) / "mine") as process:
            said = process.communicate(timeout=60)[0]
    names, _, text = said.partition(" | ")
    assert names.split()[0] == attribute, said
    assert kind.__name__ in names.split()
    assert text.startswith("cannot start job: ")
    assert text.endswith(" 0\n")
    assert "[Errno " in text
    assert f"{attribute}=" in text


def test_limits_of_the_tree_are_set_or_refused(owner: Owner) -> None:
    """memory= and cpus= need their controllers in the cgroup; without, nothing is started and the error says what is missing."""
    folder = cgroup.current()
    there = Path(f"{folder}/cgroup.controllers").read_text().split() if folder else []
    if {"memory", "cpu"} <= set(there):
        job = owner.start(Process(["sleep", "60"], memory=1 << 26, cpus=0.5))
        inside = job._managed.handle.data["cgroup"]  # type: ignore[union-attr]
        assert Path(f"{inside}/memory.max").read_text().strip() == str(1 << 26)
        assert Path(f"{inside}/cpu.max").read_text().split()[0] == "50000"
    else:
        with pytest.raises(StartError, match="no controller memory and cpu|no writable cgroup"):
            owner.start(Process(["sleep", "60"], memory=1 << 26, cpus=0.5))
        assert owner.resources == []


def test_the_number_of_the_limit_of_files_is_the_kernels() -> None:
    """It stands as a number, since the module that names it is not needed for anything else."""
    assert resource.RLIMIT_NOFILE == request._NOFILE


def test_streams_are_words_paths_descriptors_and_files(owner: Owner, tmp_path: Path) -> None:
    """As in subprocess: a path is read or appended to, stderr may go where stdout goes."""
    (tmp_path / "in").write_text("from a file\n")
    out = tmp_path / "out"
    for _ in range(2):
        owner.start(
            Process(["sh", "-c", "cat; echo err >&2"], stdin=tmp_path / "in", stdout=out, stderr="stdout")
        ).wait(20)
    assert out.read_text() == "from a file\nerr\n" * 2
    with (tmp_path / "open").open("wb") as file:
        owner.start(Process(["echo", "by file"], stdout=file)).wait(20)
        owner.start(Process(["echo", "by number"], stdout=file.fileno())).wait(20)
    assert (tmp_path / "open").read_text() == "by file\nby number\n"
    import subprocess

    job = owner.start(Process(["sh", "-c", "echo out; echo err >&2"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    assert job.stdout is not None
    assert job.stdout.read() == b"out\nerr\n"


def test_an_environment_can_replace_the_apps(owner: Owner) -> None:
    """clear_env leaves nothing of the app's but what marks the tree."""
    names = show(owner, "/usr/bin/env | sed 's/=.*//' | sort", clear_env=True, env={"ONLY": "this"}).split()
    assert set(names) - {"PWD", "SHLVL", "_"} == {"ONLY", "TETHER_RESOURCE"}


def test_a_program_may_have_another_name(owner: Owner) -> None:
    """executable= is what runs, argv[0] what it is called."""
    job = owner.start(
        Process(["renamed", "-c", "import sys; print(sys.orig_argv[0])"], executable=sys.executable, stdout="pipe")
    )
    assert job.stdout is not None
    assert job.stdout.read().strip() == b"renamed"


def test_a_terminal_of_its_own(owner: Owner) -> None:
    """terminal="pty": the command sees a terminal that is its own, and its session's."""
    job = owner.start(Process(["sh", "-c", "tty && read line && echo got $line </dev/tty"], terminal="pty"))
    assert job.stdin is not None
    assert job.stdout is not None
    job.stdin.write(b"word\n")
    said = b""
    while b"got word" not in said:
        said += job.stdout.read(1024)
    assert b"/dev/pts/" in said
    job.wait(20)


def test_helpers_end_with_their_command_where_the_spec_says_so(owner: Owner) -> None:
    """ends="main": what the command leaves behind is ended with it."""
    job = owner.start(Process(["sh", "-c", "setsid sleep 60 & exit 3"], ends="main", stop_grace=0.3))
    assert job.wait(20) == 3


def test_a_ladder_of_signals(owner: Owner) -> None:
    """stop= asks by one signal, then by the next, then ends by force."""
    script = "import signal, time\nfor n in (2, 10): signal.signal(n, lambda n, f: print('got', n, flush=True))\nprint('up', flush=True)\nwhile True: time.sleep(0.05)"
    job = owner.start(Process([sys.executable, "-c", script], stop=[("INT", 0.4), ("SIGUSR1", 0.4)], stdout="pipe"))
    assert job.stdout is not None
    assert job.stdout.readline() == b"up\n"
    job.stop()
    assert job.stdout.read() == b"got 2\ngot 10\n"
    assert job.exit_code == -9


def test_one_polite_signal_is_enough_for_what_is_ready(make_owner: Callable[..., Owner]) -> None:
    """Many programs take a second one for "at once"; stop_again sends it, on request."""
    script = (
        "import signal, sys, time\nsigs = []\nsignal.signal(15, lambda *a: sigs.append(1))\nprint('up', flush=True)\n"
        "while not sigs: time.sleep(0.02)\ntime.sleep(3)\nprint(len(sigs), flush=True)"
    )
    owner = make_owner("polite")
    for again, count in ((None, b"1\n"), (True, b"2\n")):
        job = owner.start(Process([sys.executable, "-c", script], stop_again=again, stdout="pipe", stop_grace=20))
        assert job.stdout is not None
        assert job.stdout.readline() == b"up\n"
        job.stop()
        assert job.stdout.read() == count
