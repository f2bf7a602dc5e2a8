"""Every Python example of the documentation runs, and the examples do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _blocks() -> list[tuple[str, str]]:
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)):
            found.append((f"{page.stem}-{number}", code))
    return found


@pytest.mark.parametrize("code", [code for _, code in _blocks()], ids=[name for name, _ in _blocks()])
def test_an_example_of_the_documentation_runs(code: str, tmp_path: Path) -> None:
    """As it is printed, in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_is_python() -> None:
    """Its examples need a model; they compile."""
    for code in re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL):
        compile(code, "README.md", "exec")


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_an_example_program_runs(example: str, tmp_path: Path) -> None:
    """Each is run to its end. Slow: real servers."""
    environ = {**os.environ, "TETHER_STATE_DIR": str(tmp_path / "state")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environ,
    )
    assert done.returncode == 0, done.stdout + done.stderr
