"""Lock files: which of their environments, which platform, and packages of a Python index."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import pytest

import channel
from tether import CondaEnv, Owner, Process, SpecError, StartError
from tether.drivers.conda import python_packages


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A channel with a tool, and a python that is this one under another prefix, as a virtual environment is."""
    folder = tmp_path_factory.mktemp("channel")
    real = os.path.realpath(sys.executable)
    channel.make_package(
        folder,
        "python",
        "3.11",
        files={
            "bin/python": (f'#!/bin/bash\nexec -a "$0" "{real}" "$@"\n', 0o755),
            "pyvenv.cfg": (f"home = {os.path.dirname(real)}\n", 0o644),
        },
    )
    return channel.make(folder)


def wheel(folder: Path, name: str = "greeting") -> Path:
    """Make a wheel with one module."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "print('hello from a wheel')\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


@pytest.fixture(autouse=True)
def _no_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("UV_OFFLINE", "1")


def test_packages_of_a_python_index_are_installed(owner: Owner, address: str, tmp_path: Path) -> None:
    """With the environment; what was installed is listed, shares no file, and is checked as the rest is."""
    lock = tmp_path / "env.lock"
    channel.lock_of(address, ["python"], lock, pypi=[("greeting", "1.0", wheel(tmp_path).as_uri())])
    said: list[str] = []
    env = owner.start(CondaEnv(lock=lock, name="env"), on_progress=said.append)
    assert "installing greeting from a Python index" in said
    assert env.details["packages"] == ["python=3.11", "greeting==1.0"]
    job = owner.start(Process(["python", "-c", "import greeting"], env_in=env, name="job"))
    assert (job.wait(timeout=20), job.logs()) == (0, "hello from a wheel\n")
    prefix = Path(env.details["conda_env"])
    (module,) = prefix.glob("lib/python*/site-packages/greeting.py")
    assert module.stat().st_nlink == 1
    env.stop()
    module.unlink()
    owner.start(CondaEnv(lock=lock, name="env"))
    assert module.exists()


def test_a_package_that_cant_be_installed(owner: Owner, address: str, tmp_path: Path) -> None:
    """The installer's words are in the error, and nothing half made is left."""
    bad = tmp_path / "bad-1.0-py3-none-any.whl"
    bad.write_text("no archive")
    lock = tmp_path / "env.lock"
    channel.lock_of(address, ["python"], lock, pypi=[("bad", "1.0", bad.as_uri())])
    with pytest.raises(StartError, match="(?s)from a Python index could not be installed.*bad"):
        owner.start(CondaEnv(lock=lock, name="env"))
    assert list((owner.state_dir / "conda/envs").iterdir()) == []


def test_they_are_refused_where_nothing_could_install_them(
    owner: Owner, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is created: without python, and without uv and pip."""
    lock = tmp_path / "env.lock"
    package = ("greeting", "1.0", wheel(tmp_path).as_uri())
    channel.lock_of(address, ["tool"], lock, pypi=[package])
    with pytest.raises(StartError, match=r"\(greeting\), and no python to install them with"):
        owner.start(CondaEnv(lock=lock, name="env"))
    channel.lock_of(address, ["python"], lock, pypi=[package])
    monkeypatch.setattr(python_packages, "_uv", lambda: None)
    with pytest.raises(StartError, match="neither uv nor pip is there.*pip install uv"):
        owner.start(CondaEnv(lock=lock, name="env"))
    assert list((owner.state_dir / "conda/envs").glob("*")) == []


def test_environment_and_platform_of_a_lock(owner: Owner, address: str, tmp_path: Path) -> None:
    """Are chosen, are part of the request, and what there is instead is said."""
    lock = tmp_path / "env.lock"
    channel.lock_of(address, ["tool"], lock, environment="gpu", platform="linux-aarch64")
    found = {}
    with pytest.raises(StartError, match="has no environment 'default' .there are: gpu.; say environment="):
        owner.start(CondaEnv(lock=lock, name="env", platform="linux-aarch64"))
    with pytest.raises(StartError, match="is not for osx-64 .it is for: linux-aarch64.; say platform="):
        owner.start(CondaEnv(lock=lock, name="env", environment="gpu", platform="osx-64"))
    spec = CondaEnv(lock=lock, name="env", environment="gpu", platform="linux-aarch64")
    env = owner.start(spec)
    found["lock"] = env.details["conda_env"]
    assert "tool=1.0" in env.details["packages"]
    assert (env.info()["spec"]["environment"], env.info()["spec"]["platform"]) == ("gpu", "linux-aarch64")


def test_the_platform_of_packages(owner: Owner, address: str) -> None:
    """Another platform is another environment."""
    places = set()
    for platform in (None, "linux-64", "linux-aarch64"):
        env = owner.start(CondaEnv(["tool"], [address], platform=platform))
        places.add(env.details["conda_env"])
        env.stop()
    assert len(places) == 3


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"packages": ["x"], "environment": "gpu"}, "there is no lock="),
        ({"prefix": "/x", "platform": "linux-64"}, "one that exists is what it is"),
        ({"packages": ["x"], "prefix": "/a:b"}, "colon"),
    ],
)
def test_what_cant_be_right_is_refused(wrong: dict[str, object], says: str) -> None:
    """Before anything is looked at."""
    with pytest.raises(SpecError, match=says):
        CondaEnv(**wrong)  # type: ignore[arg-type]


def test_a_lock_file_that_is_none(owner: Owner, tmp_path: Path) -> None:
    """Is said."""
    (tmp_path / "x.lock").write_text(json.dumps({"version": 99}))
    with pytest.raises(StartError, match="cannot make environment env"):
        owner.start(CondaEnv(lock=tmp_path / "x.lock", name="env"))
