"""What is done in a pod that runs: commands, and files on their way in and out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commandline import tether
from kube.cluster import KubeCluster
from kube.pods import eventually, pod
from tether import DeadlineExceeded, DriverUnavailable, NotFound, Owner, Resource, SpecError
from tether.errors import Gone

pytestmark = pytest.mark.usefixtures("nothing_of_it_left")

MUCH = 3 << 20


@pytest.fixture
def box(kube: KubeCluster, owner: Owner) -> Iterator[Resource]:
    """A pod to look into."""
    with owner.start(pod(kube, "box", lease=120)) as started:
        yield started


def test_commands_in_it(box: Resource, owner: Owner) -> None:
    """Output and error output apart, the exit code, input of any length, variables and a working directory; then it has gone."""
    said = box.exec(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (said.returncode, said.stdout, said.stderr) == (3, "out\n", "err\n")
    assert box.exec(["cat"]).stdout == ""
    assert box.exec(["sh", "-c", "cat; echo"], input="one\ntwo").stdout == "one\ntwo\n"
    much = os.urandom(MUCH // 2).hex()
    assert box.exec(["cat"], input=much).stdout == much
    env = {"A": 'it\'s $HOME; "so"\n two', "EMPTY": ""}
    script = 'printf "%s|%s|%s" "$A" "$EMPTY" "$PWD"; cat'
    said = box.exec(["sh", "-c", script], env=env, workdir="/tmp", input="|in")
    assert said.stdout == f"{env['A']}||/tmp|in"
    assert box.exec(["sh", "-c", "cat; echo $A"], env={"A": "b"}).stdout == "b\n"
    assert box.exec(["true"], workdir="/nowhere").returncode == 126
    with pytest.raises(subprocess.CalledProcessError):
        box.exec(["false"], check=True)
    assert tether("exec", "-e", "A=b", "box", "--", "sh", "-c", "echo $A") == "b\n"
    owner.shutdown()
    with pytest.raises(Gone):
        box.exec(["true"])


def test_what_a_command_in_it_can_not_have(box: Resource) -> None:
    """Another user, a name that no shell takes, a program that is not there; and what takes too long goes on."""
    with pytest.raises(SpecError, match="runs as its container does"):
        box.exec(["id"], user="nobody")
    with pytest.raises(SpecError, match="can't be the name"):
        box.exec(["env"], env={"A.B": "c"})
    # Whether that is an exit code or a refusal is for the node's engine to say.
    said = ""
    try:
        code: int | None = box.exec(["no-such-program"]).returncode
    except DriverUnavailable as error:
        code, said = None, str(error)
    assert code in (126, 127) or "no-such-program" in said
    with pytest.raises(DeadlineExceeded, match="goes on in pod"):
        box.exec(["sh", "-c", "sleep 3; echo x > /tmp/late"], timeout=0.5)
    eventually(lambda: box.exec(["cat", "/tmp/late"]).returncode == 0)


def test_variables_of_a_command_stand_on_no_command_line(box: Resource) -> None:
    """Whoever may look at processes there must not read them."""
    shown = box.exec(["ps"], env={"A": "hunter2"})
    assert "sh -c" in shown.stdout
    assert "hunter2" not in shown.stdout


def test_files_in_and_out(box: Resource, tmp_path: Path) -> None:
    """Content, a file and a folder, into folders that were not there; out again as they were, links and modes too."""
    box.copy_in(b"content", "/made/for/it")
    assert box.exec(["cat", "/made/for/it"]).stdout == "content"
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "-much").write_bytes(os.urandom(MUCH))
    (folder / "run").write_text("#!/bin/sh\necho ran\n")
    (folder / "run").chmod(0o755)
    (folder / "link").symlink_to("run")
    box.copy_in(folder, "/tmp/there")
    assert box.exec(["/tmp/there/link"]).stdout == "ran\n"
    box.copy_out("/tmp/there", tmp_path / "back")
    assert (tmp_path / "back/deep/-much").read_bytes() == (folder / "deep/-much").read_bytes()
    assert (tmp_path / "back/link").readlink() == Path("run")
    assert (tmp_path / "back/run").stat().st_mode & 0o777 == 0o755
    box.copy_out("/tmp/there/deep/-much", tmp_path / "new" / "file")
    assert (tmp_path / "new/file").stat().st_size == MUCH


def test_what_can_not_be_copied(box: Resource, tmp_path: Path) -> None:
    """What is not there, on either side; into what is no folder; the root. Nothing is left here."""
    with pytest.raises(NotFound, match="no /tmp/none"):
        box.copy_out("/tmp/none", tmp_path / "none")
    with pytest.raises(OSError, match="none"):
        box.copy_in(tmp_path / "none", "/tmp/none")
    with pytest.raises(DriverUnavailable, match="could not be copied into pod"):
        box.copy_in(b"x", "/bin/busybox/file")
    with pytest.raises(SpecError, match="root of a pod"):
        box.copy_out("/", tmp_path / "root")
    assert not [each for each in tmp_path.iterdir() if each.name != "state"]
