"""The manual page tether(1), which is made of what ``--help`` says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commandline import tether
from tether.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is put into the wheel: by an interpreter that has nothing of ours installed."""
    path = tmp_path_factory.mktemp("man") / "tether.1"
    subprocess.run([sys.executable, "-I", "-S", ROOT / "scripts/manpage", path], check=True, timeout=60)
    return path


def test_it_has_every_command_and_option(page: Path) -> None:
    """As the help of each has them."""
    text = page.read_text().replace("\\-", "-")
    for name in COMMANDS:
        section = text.partition(f"\n.SS {name}\n")[2].partition("\n.SS ")[0].partition("\n.SH ")[0]
        assert section.startswith(".B tether")
        options = set(re.findall(r"^ +(?:-\w(?: [\w=\[\]]+)?, )?(--[a-z-]+)", tether(name, "--help"), re.MULTILINE))
        assert {each for each in options if each not in section} <= {"--help"}, name


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
def test_it_is_sound(page: Path) -> None:
    """Groff finds nothing to say about it, and nothing of an example is taken for an instruction."""
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", page], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    shown = re.sub("\x1b\\[[0-9;]*m|.\x08", "", done.stdout)
    assert "tether exec web -- sh -c 'echo $HOSTNAME'" in shown
    assert "TETHER_STATE_DIR" in shown
