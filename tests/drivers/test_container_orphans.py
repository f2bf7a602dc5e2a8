"""What dead owners left at an engine, of which no ledger knows any more: ended by its labels, and never what may live."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commandline import table, tether
from engine import IMAGE, Engine
from support import Runner, eventually
from tether import Container, Network, Owner
from tether.drivers.container import orphans

LEAVING = """
import os, signal, sys
from tether import Owner, Container, Network
owner = Owner("leaving", state_dir=sys.argv[1], on_death="keep")
owner.start(Network("net"))
box = owner.start(Container(sys.argv[2], ["sleep", "100"], network="own", mounts={"/data": None}, name="box"))
print(box.details["container_id"], flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def docker_host(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As most users have it: the engine is found by DOCKER_HOST."""
    monkeypatch.setenv("DOCKER_HOST", engine.url)


@pytest.fixture
def left(runner: Runner, engine: Engine, tmp_path: Path) -> Iterator[Path]:
    """What an owner left: it died, and so did what watched over its estate; the state directory of it."""
    folder = tmp_path / "leaving"
    with runner.popen(LEAVING, folder, IMAGE, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline()
        # What watches over the estate finds no ledger any more.
        shutil.rmtree(folder)
        process.stdin.write("\n")
        process.stdin.close()
        process.wait(30)
    assert len(engine.labelled()) == 4
    yield folder
    for container in engine.client.containers.list(all=True, filters={"label": "tether.resource"}):
        container.remove(force=True)
    for each in [*engine.client.networks.list(filters={"label": "tether.resource"}), *engine.client.volumes.list()]:
        each.remove()  # type: ignore[attr-defined]


def test_what_a_dead_owner_left_is_ended(left: Path, engine: Engine) -> None:
    """A dry run says so, and changes nothing; what a living owner has stays, and the user's of a committed image."""
    (mine,) = engine.client.containers.list(filters={"label": "tether.resource"})
    mine.commit("orphans", "snapshot")
    users = engine.client.containers.run("orphans:snapshot", ["sleep", "100"], detach=True, name="orphans-users")
    with Owner("living") as owner:
        box = owner.start(Container(IMAGE, ["sleep", "100"], network="own", stop_grace=0))
        owner.start(Network("net"))
        everything = set(engine.labelled())
        foreseen = {each.tag: each.what for each in orphans.reap(dry_run=True)}
        assert set(engine.labelled()) == everything
        assert sorted(foreseen.values()) == ["left alone", "left alone", "would end", "would end"]
        came = orphans.reap(engine.url)
        assert sorted(each.what for each in came) == ["ended", "ended", "left alone", "left alone"]
        assert sum("for its ledger to say" in each.detail for each in came) == 2
        assert box.pids()
        users.reload()
        assert users.status == "running"
        users.remove(force=True)
        assert len(engine.labelled()) == 3
    assert engine.labelled() == []
    assert not left.exists()


def test_the_command_line_does_it(left: Path, engine: Engine) -> None:
    """A dry run says so and changes nothing; then it is ended, and nothing is left to be."""
    everything = set(engine.labelled())
    would = table("reap", "--engine", "--dry-run")
    assert [each["what"] for each in would] == ["would end", "would end"]
    assert all("its owner is dead, and its ledger has gone" in each["detail"] for each in would)
    assert set(engine.labelled()) == everything
    with Owner("living") as owner:
        box = owner.start(Container(IMAGE, ["sleep", "100"], name="box", stop_grace=0))
        came = {each["tag"]: each["what"] for each in table("reap", "--engine", engine.url)}
        assert came == {**{each["tag"]: "ended" for each in would}, box.id: "left alone"}
        assert box.pids()
    assert engine.labelled() == []
    assert "nothing of tether's at this engine" in tether("reap", "--engine")


def test_what_the_command_line_refuses(tmp_path: Path) -> None:
    """Options that would end what may live; an engine that is not there is said."""
    assert "--all and --force are not for them" in tether("reap", "--engine", "--force", code=2)
    assert "does not answer" in tether("reap", "--engine", f"unix://{tmp_path}/none.sock", code=1)


def test_labels_hold_no_secret(engine: Engine, owner: Owner) -> None:
    """Who and where, and nothing else."""
    box = owner.start(Container(IMAGE, ["sleep", "100"], env={"TOKEN": "hunter2"}, stop_grace=0))
    labels = engine.client.containers.get(box.details["container_id"]).labels
    assert "hunter2" not in json.dumps(labels)
    assert json.loads(labels["tether.identity"])["state"] == str(owner.state_dir)
    eventually(lambda: box.pids())
