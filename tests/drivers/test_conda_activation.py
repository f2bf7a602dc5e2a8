"""Commands in an activated environment, whatever the environment's path and scripts are like."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

import channel
from support import eventually
from tether import CondaEnv, Owner, Process, Resource, StartError, State, log
from tether.drivers.conda import activation


class Maker:
    """Makes environments with one program and one activation script."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        self.folder = folder
        self.owner = owner

    def __call__(self, script: str, program: str = "echo ran", **more: object) -> Resource:
        """Make an environment with the program "prog"."""
        files: channel.Files = {
            "bin/prog": (f"#!/bin/sh\n{program}\n", 0o755),
            "etc/conda/activate.d/prog.sh": (script, 0o644),
            **more.pop("files", {}),  # type: ignore[dict-item]
        }
        channel.make_package(self.folder, "prog", files=files)
        spec = {"ephemeral": "prefix" not in more, **more}
        return self.owner.start(CondaEnv(["prog"], [channel.index(self.folder)], **spec))  # type: ignore[arg-type]


@pytest.fixture
def make(owner: Owner, tmp_path: Path) -> Maker:
    """Make environments."""
    return Maker(tmp_path / "channel", owner)


NASTY = [
    "pre fix",
    "it's",
    'a"b',
    "a$HOME",
    "a`touch EXECUTED`b",
    "a$(touch EXECUTED)b",
    "a\\b",
    "a;touch EXECUTED;b",
    "a*b",
    "ü",
    "{port}",
    "a\nb",
    "-n",
]


@pytest.mark.parametrize("name", NASTY)
def test_a_path_is_only_a_path(owner: Owner, make: Maker, tmp_path: Path, name: str) -> None:
    """Nothing of it is executed or expanded, and the command runs, activated."""
    prefix = tmp_path / name
    env = make('export B="$CONDA_PREFIX/b"\n', 'printf "%s\\n" "$CONDA_PREFIX" "$B"', prefix=prefix, name="env")
    job = owner.start(Process(["prog"], env_in=env, cwd=tmp_path, name="job"))
    assert job.wait(timeout=20) == 0
    assert job.logs() == f"{prefix}\n{prefix}/b\n"
    assert not list(tmp_path.glob("**/EXECUTED*"))


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("exit 3\n", "ended with status 3"),
        ("exit 0\n", "ended with status 0"),
        ("set -eu\nno_such_command_here\necho reached\n", "ended with status 127"),
        ("set -u\necho $NOT_SET_XYZ\n", "NOT_SET_XYZ"),
        ("set -e\nfalse\n", "ended with status 1"),
    ],
)
def test_an_activation_that_fails_says_so(owner: Owner, make: Maker, script: str, says: str) -> None:
    """The command does not run, the exit code is not the command's, and the log names the script."""
    job = owner.start(Process(["prog"], env_in=make(script), name="job"))
    assert job.wait(timeout=20) == activation.FAILED
    assert job.state is State.FAILED
    assert "activation of" in job.logs()
    assert "the command was not run" in job.logs()
    assert says in job.logs()
    assert "ran" not in job.logs().splitlines()


@pytest.mark.parametrize("script", ["false\n", "return 1\n", "[ -n '' ] && export X=1\n"])
def test_a_script_that_returns_something_else_than_0(owner: Owner, make: Maker, script: str) -> None:
    """Is said, and stops nothing: that is how many end."""
    job = owner.start(Process(["prog"], env_in=make(script), name="job"))
    assert job.wait(timeout=20) == 0
    assert "prog.sh returned 1" in job.logs()
    assert job.logs().endswith("ran\n")


@pytest.mark.parametrize(
    "script",
    [
        "echo noise\n",
        "echo noise >&1\n",
        "printf noise; cat\n",
        "(echo noise; echo noise)\n",
        "trap 'echo noise' DEBUG\n",
    ],
)
def test_what_activation_prints_is_not_the_commands_output(owner: Owner, make: Maker, script: str) -> None:
    """It goes to standard error; nor does it eat the command's input."""
    env = make(script, "cat")
    job = owner.start(Process(["prog"], env_in=env, name="job", stdin="pipe", stdout="pipe", stderr="log"))
    assert job.stdin is not None
    assert job.stdout is not None
    job.stdin.write(b"first\nsecond\n")
    job.stdin.close()
    with job.stdout as output:
        assert output.read() == b"first\nsecond\n"
    assert job.wait(timeout=20) == 0
    assert "noise" in job.logs()


def test_what_a_script_may_change_of_the_shell_is_put_back(owner: Owner, make: Maker, tmp_path: Path) -> None:
    """Options, arguments, folder; what it declares stays."""
    script = "set -f; set -- one two; cd /; IFS=/; declare -x DECLARED=yes; shopt -s failglob; umask 022\n"
    env = make(script, 'echo "$DECLARED" "$PWD" "$1"')
    job = owner.start(Process(["prog", "mine"], env_in=env, cwd=tmp_path, name="job"))
    assert job.wait(timeout=20) == 0
    assert job.logs() == f"yes {tmp_path} mine\n"


def test_programs_on_the_path_that_activation_sets(owner: Owner, make: Maker, tmp_path: Path) -> None:
    """And on that of env=; what is nowhere is not found, before anything is started."""
    env = make('export PATH="$CONDA_PREFIX/libexec:$PATH"\n', files={"libexec/deep": ("#!/bin/sh\necho deep\n", 0o755)})
    job = owner.start(Process(["deep"], env_in=env, name="job"))
    assert (job.wait(timeout=20), job.logs()) == (0, "deep\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/tool").write_text("#!/bin/sh\necho mine\n")
    (tmp_path / "mine/tool").chmod(0o755)
    path = {"PATH": f"{tmp_path}/mine:/usr/bin:/bin"}
    other = owner.start(Process(["tool"], env=path, env_in=env, name="other"))
    assert (other.wait(timeout=20), other.logs()) == (0, "mine\n")
    with pytest.raises(FileNotFoundError):
        owner.start(Process(["nowhere"], env_in=env))


def test_a_failure_while_the_path_is_looked_for(owner: Owner, make: Maker) -> None:
    """Is a StartError with what the script said."""
    env = make("echo because >&2; exit 3\n")
    with pytest.raises(StartError, match="(?s)could not be activated.*because"):
        owner.start(Process(["deep"], env_in=env))


def test_variables_of_packages_and_of_the_user(owner: Owner, make: Maker, tmp_path: Path) -> None:
    """As conda sets them: a package's, then those of `conda env config vars set`; nothing in them is executed."""
    prefix = tmp_path / "env"
    make(
        "",
        'echo "$OF_PACKAGE" "$OF_USER" "${GONE-unset}"',
        prefix=prefix,
        files={
            "etc/conda/env_vars.d/prog.json": (json.dumps({"OF_PACKAGE": "$(touch EXECUTED)", "OF_USER": "no"}), 0o644),
        },
        name="made",
    ).stop()
    (prefix / "conda-meta/state").write_text(
        json.dumps({"env_vars": {"OF_USER": "a b", "GONE": "***unset***", "x[$(touch EXECUTED)]": "1"}})
    )
    env = owner.start(CondaEnv(prefix=prefix, name="env"))
    job = owner.start(Process(["prog"], env={"GONE": "there"}, env_in=env, cwd=tmp_path, name="job"))
    assert job.wait(timeout=20) == 0
    assert job.logs() == "$(touch EXECUTED) a b unset\n"
    assert not (tmp_path / "EXECUTED").exists()


def test_another_environment_is_left_first(
    owner: Owner, make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scripts of deactivation run, and its programs are not on the path any more; one that is not there matters not."""
    old = tmp_path / "old env"
    (old / "etc/conda/deactivate.d").mkdir(parents=True)
    (old / "etc/conda/deactivate.d/x.sh").write_text("unset OF_OLD\n")
    env = make("", 'echo "${OF_OLD-unset}" "$CONDA_SHLVL" "$PATH"')
    for number, prefix in enumerate((str(old), "/nowhere/env")):
        monkeypatch.setenv("CONDA_PREFIX", prefix)
        monkeypatch.setenv("CONDA_SHLVL", "1")
        monkeypatch.setenv("OF_OLD", "set")
        monkeypatch.setenv("PATH", f"{prefix}/bin:{os.environ['PATH']}")
        job = owner.start(Process(["prog"], env_in=env, name=f"job-{number}"))
        assert job.wait(timeout=20) == 0
        assert f"{prefix}/bin" not in job.logs()
        assert job.logs().startswith("unset 1 " if number == 0 else "set 1 ")


def test_the_environment_of_the_shell_has_no_say(
    owner: Owner, make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BASH_ENV and exported functions are not run on the way; the first reaches the command, the second is lost in its own shell."""
    (tmp_path / "bash-env").write_text("echo noise; exit 9\n")
    monkeypatch.setenv("BASH_ENV", str(tmp_path / "bash-env"))
    monkeypatch.setenv("BASH_FUNC_exec%%", "() { echo noise; }")
    env = make("", 'env | grep -c "^BASH_"')
    job = owner.start(Process(["prog"], env_in=env, name="job"))
    assert (job.wait(timeout=20), job.logs()) == (0, "1\n")


def test_the_process_is_the_command_itself(owner: Owner, make: Maker) -> None:
    """Its signals and its exit code are its own."""
    env = make("trap 'echo noise' TERM EXIT\n", "trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done")
    job = owner.start(Process(["prog"], env_in=env, ready=log("up"), name="job"))
    assert job.pid is not None
    os.kill(job.pid, signal.SIGTERM)
    eventually(lambda: job.state.is_final)
    assert job.exit_code == 7
