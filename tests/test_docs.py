"""Every Python example of the documentation runs, and the examples do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cloud.ec2 import why_not

ROOT = Path(__file__).parents[1]


def _blocks() -> list[tuple[str, str]]:
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)):
            found.append((f"{page.stem}-{number}", code))
    return found


@pytest.mark.parametrize("code", [code for _, code in _blocks()], ids=[name for name, _ in _blocks()])
def test_an_example_of_the_documentation_runs(code: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """As it is printed, in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={**os.environ, **_with_engine(code, request)},
    )
    assert done.returncode == 0, done.stderr


def _with_engine(code: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """What runs a container finds the engine of the tests."""
    return {"DOCKER_HOST": request.getfixturevalue("engine").url} if "Container(" in code else {}


def test_the_driver_of_the_documentation_passes_the_contract(tmp_path: Path) -> None:
    """As a package of somebody else's: the driver, an entry point, and the contract."""
    page = (ROOT / "docs/drivers.md").read_text()
    driver, contract = (
        "".join(re.findall(rf"^```python {what}\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
        for what in ("driver", "contract")
    )
    (tmp_path / "my_package.py").write_text(driver)
    (tmp_path / "test_it.py").write_text("from my_package import *\n" + contract)
    (tmp_path / "my_package-1.0.dist-info").mkdir()
    (tmp_path / "my_package-1.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n"
    )
    (tmp_path / "my_package-1.0.dist-info/entry_points.txt").write_text(
        "[tether.drivers]\nscratch = my_package:ScratchDriver\n"
    )
    said = _tested(tmp_path, timeout=110)
    assert "passed" in said
    assert "skipped" not in said


def _tested(folder: Path, *, timeout: float) -> str:
    """Run test_it.py of a folder, whose modules it finds, and return what is said when it has passed."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_tests_of_the_documentation_pass(tmp_path: Path) -> None:
    """As a user's file of tests."""
    page = (ROOT / "docs/frameworks.md").read_text()
    code = "".join(re.findall(r"^```python pytest\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    (tmp_path / "test_it.py").write_text(code)
    assert "2 passed" in _tested(tmp_path, timeout=60)


def test_the_readme_is_python() -> None:
    """The first of its examples runs as it stands, and prints what stands below it; others need a model, and compile."""
    page = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for code in blocks:
        compile(code, "README.md", "exec")
    said = re.search(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert said is not None
    done = subprocess.run([sys.executable, "-c", blocks[0]], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == said[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "example", sorted(path.name for path in (ROOT / "examples").glob("*.py") if path.name != "kubernetes.py")
)
def test_an_example_program_runs(example: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Each is run to its end; that of pods in tests/kube, where there is a cluster. Slow: real servers."""
    if example == "machine.py" and why_not():
        pytest.skip(f"no stand-in for EC2: {why_not()}")
    engine = _with_engine((ROOT / "examples" / example).read_text(), request)
    environ = {**os.environ, "TETHER_STATE_DIR": str(tmp_path / "state"), **engine}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environ,
    )
    assert done.returncode == 0, done.stdout + done.stderr
