"""No secret is on record, shown or raised: looked for with grep in all that an owner leaves and says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from engine import IMAGE, Engine
from tether import Container, Owner, Pod, Process, RemoteProcess, Service, StartError, http

SECRET = "hunter2X"

WORDS = [
    ["mysql", f"-p{SECRET}"],
    ["sshpass", "-p", SECRET],
    ["curl", "-u", f"user:{SECRET}"],
    ["x", f"--pw={SECRET}"],
    ["x", "--pass", SECRET],
    ["x", "--pat", SECRET],
    ["x", f"--sas={SECRET}"],
    ["x", "--api-key", f"-{SECRET}"],
    ["x", f"Server=h;Uid=u;Pwd={SECRET};"],
    ["x", f"DATABASE_URL=postgres://u:{SECRET}@h/db"],
    ["x", f"postgresql://u:{SECRET}@h"],
    ["x", f"redis://:{SECRET}@h"],
    ["curl", "-H", f"Authorization: Bearer {SECRET}"],
    ["curl", "-H", f"Authorization: Basic {SECRET}"],
    ["x", f"https://h/c?token={SECRET}"],
    ["x", f"https://u:{SECRET}@h/c"],
]


def _said(owner: Owner) -> str:
    """All that an owner says of what it has and had."""
    resources = [[each.info(), repr(each), repr(each.spec), each.details, each.reason] for each in owner.resources]
    return json.dumps([owner.status(), resources, repr(owner), [repr(each) for each in owner.events()]], default=repr)


def _grep(folder: Path) -> str:
    """Where it is found, by the program that a user would look with."""
    return subprocess.run(["grep", "-rac", SECRET, folder], capture_output=True, text=True, check=False).stdout


def _found(folder: Path) -> list[str]:
    return [line for line in _grep(folder).splitlines() if not line.endswith(":0")]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_arguments_and_variables(owner: Owner, private_state: Path, tmp_path: Path, words: list[str]) -> None:
    """Of a command that runs, and of one that does not come up; what is no secret is shown."""
    program = tmp_path / words[0]
    program.write_text('#!/bin/sh\n[ -z "$FAILS" ] || exit 3\nexec sleep 60\n')
    program.chmod(0o755)
    owner.start(Process([program, *words[1:], "--port", "8080"], name="runs", env={"TOKEN": SECRET}))
    with pytest.raises(StartError) as caught:
        owner.start(
            Process(
                [program, *words[1:]],
                name="fails",
                env={"TOKEN": SECRET, "FAILS": "1"},
                port=1,
                ready=http(f"/?token={SECRET}"),
            )
        )
    assert SECRET not in str(caught.value) + repr(caught.value)
    said = _said(owner)
    assert SECRET not in said
    assert "8080" in said
    owner.shutdown()
    assert _found(private_state) == []


def test_a_container(owner: Owner, engine: Engine, private_state: Path) -> None:
    """Its command, variables and labels are with the engine, and nowhere else."""
    owner.start(
        Container(
            IMAGE,
            ["sh", "-c", "exec sleep 60", "x", "--password", SECRET, f"https://u:{SECRET}@h/c"],
            name="box", env={"TOKEN": SECRET}, labels={"token": SECRET}, engine=engine.url, stop_grace=0,
        )
    )  # fmt: skip
    with pytest.raises(StartError) as caught:
        owner.start(
            Container(
                IMAGE,
                ["no-such-program", f"--password={SECRET}"],
                engine=engine.url,
                name="fails",
                ready=http("/"),
                port=80,
            )
        )
    assert SECRET not in str(caught.value)
    assert SECRET not in _said(owner)
    owner.shutdown()
    assert _found(private_state) == []


def test_a_command_that_makes_a_container(owner: Owner, private_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of its engine is put on record only if there is no secret in it."""
    monkeypatch.setenv("DOCKER_HOST", f"tcp://user:{SECRET}@127.0.0.1:1")
    job = owner.start(Process(["docker", "run", "-e", f"TOKEN={SECRET}", "image"], stdout="null", stderr="null"))
    job.wait(timeout=60)
    assert SECRET not in _said(owner)
    owner.shutdown()
    assert _found(private_state) == []


def test_a_service(owner: Owner, private_state: Path) -> None:
    """Neither a path of its health check nor what it was refused for."""
    with pytest.raises(StartError) as caught:
        owner.start(Service("http://127.0.0.1:1", name="far", ready=http(f"/h?token={SECRET}", timeout=0.5)))
    assert SECRET not in str(caught.value)
    assert SECRET not in _said(owner)
    owner.shutdown()
    assert _found(private_state) == []


@pytest.mark.parametrize(
    "spec",
    [
        Container(
            "image", ["x", "--password", SECRET], env={"A": SECRET}, labels={"token": SECRET}, options={"Env": [SECRET]}
        ),
        Container("image", entrypoint=["x", f"--token={SECRET}"]),
        Pod(
            "image",
            ["x", "--password", SECRET],
            env={"A": SECRET},
            labels={"token": SECRET},
            annotations={"token": SECRET},
        ),
        RemoteProcess("far", ["x", "--password", SECRET], env={"A": SECRET}),
    ],
    ids=lambda spec: str(spec.kind),
)
def test_a_spec_is_shown_without(spec: object) -> None:
    """What it is for is shown all the same."""
    assert SECRET not in repr(spec)
    assert "image" in repr(spec) or "far" in repr(spec)
