"""Drivers are known by a table, and by entry points of other packages."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tether.errors import DriverUnavailable
from tether.life import registry

ROOT = Path(__file__).parents[2]


def test_the_table_has_what_the_project_says() -> None:
    """Whoever adds a kind of tether's own writes it into pyproject.toml and into BUILT_IN: there it costs nothing to look up."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["tether.drivers"] == registry.BUILT_IN


@pytest.mark.parametrize("kind", sorted(registry.BUILT_IN))
def test_each_kind_has_its_driver(kind: str) -> None:
    """Of that very kind."""
    assert registry.driver_class(kind).kind == kind


def test_one_driver_imports_no_other() -> None:
    """Nor does it read what every installed package offers."""
    code = "import sys; from tether.life import registry; registry.driver_class('plugin'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    others = {f"tether.drivers.{kind}" for kind in registry.BUILT_IN if kind != "plugin"}
    assert others & set(loaded) == set()
    assert "importlib.metadata" not in loaded


def test_a_kind_that_nobody_brings() -> None:
    """What there is, and what to do."""
    with pytest.raises(DriverUnavailable, match=r"no driver for 'mainframe' here \(there are: .*process.*\); install"):
        registry.driver_class("mainframe")


def test_a_driver_of_another_package(tmp_path: Path) -> None:
    """Found by its entry point; one that can't be imported names the extra."""
    folder = tmp_path / "other-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[tether.drivers]\nother = other:Driver\nbroken = not_there:Driver\n")
    (tmp_path / "other.py").write_text("class Driver: kind = 'other'\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from tether.life import registry; from tether.errors import DriverUnavailable\n"
        "print(registry.driver_class('other').kind, 'other' in registry.kinds())\n"
        "try: registry.driver_class('broken')\nexcept DriverUnavailable as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    found, error = done.stdout.splitlines()
    assert found == "other True"
    assert "pip install 'tether[broken]'" in error
