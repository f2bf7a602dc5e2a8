"""The wheel, installed where nothing of this repository is: in a root folder of plain Debian, and in one of musl and busybox, like Alpine's.

``make roots`` makes them, once: some ten minutes. What is tried is a wheel for this machine, or the one that ``TETHER_WHEEL`` names.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import PROGRAMS, SERVICE

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tether-tests"
ENTER = """
set -e
mount -t proc proc "$1/proc"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/tmp"
mkdir "$1/tmp/given"
mount --bind "$2" "$1/tmp/given"
root=$1
shift 2
exec env -i PATH=/usr/bin:/bin:/usr/sbin HOME=/tmp chroot "$root" sh -ec "$@"
"""
INSTALL = """
python3 -m venv --without-pip /tmp/app
python3 "$(echo /tmp/given/pip-*.whl)/pip" -q --python /tmp/app/bin/python install --no-index --find-links /tmp/given tether 2>/tmp/said || { cat /tmp/said; exit 1; }
exec /tmp/app/bin/python /tmp/given/rooted.py /tmp/given/escape.py
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel, what it needs, pip, and the programs that try it."""
    folder = tmp_path_factory.mktemp("given")
    if wheel := os.environ.get("TETHER_WHEEL"):
        shutil.copy(wheel, folder)
    else:
        subprocess.run([Path(sys.executable).with_name("uv"), "build", "-q", "--wheel", "-o", folder, ROOT], check=True)
    download = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--disable-pip-version-check",
        "--no-deps",
        "-d",
        str(folder),
    ]
    subprocess.run([*download, "pip", "platformdirs"], check=True)
    for name in ("rooted.py", "escape.py"):
        shutil.copy(PROGRAMS / name, folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["debian", "musl"])
def test_the_wheel_works_in_a_root_of_its_own(kind: str, request: pytest.FixtureRequest) -> None:
    """It installs, holds thirteen escapees, and leaves none, by stop() and by kill -9. Slow: a wheel is built."""
    root = CACHE / f"root-{kind}"
    if os.getuid() != 0 or not (root / ".ready").exists():
        pytest.skip(f"there is no such root here: make roots, as root, makes it in {root}")
    space = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    given: Path = request.getfixturevalue("given")
    command = [*space, "sh", "-c", ENTER, "enter", str(root), str(given), INSTALL]
    done = subprocess.run([*SERVICE, *command], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["libc"] == "glibc") == (kind == "debian")
    assert [(end["begun"], end["left"], end["on record"]) for end in said["ends"]] == [(13, [], True)] * 2
