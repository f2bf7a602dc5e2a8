"""Where conda environments that have a name are."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["find"]


def find(name: str) -> Path:
    """Return where this user's conda environment of this name is, or would be."""
    home = Path.home()
    folders = [Path(each) for each in os.environ.get("CONDA_ENVS_PATH", "").split(os.pathsep) if each]
    roots = [
        os.environ.get("MAMBA_ROOT_PREFIX"),
        str(Path(exe).parents[1]) if (exe := os.environ.get("CONDA_EXE")) else None,
    ]
    folders += [Path(root) / "envs" for root in roots if root]
    folders += [
        home / ".conda/envs",
        *(home / root / "envs" for root in ("miniforge3", "miniconda3", "anaconda3", "micromamba")),
    ]
    with suppress(OSError):
        known = (home / ".conda/environments.txt").read_text().split("\n")
        folders += [Path(line).parent for line in known if Path(line).name == name]
    return next((folder / name for folder in folders if (folder / name / "conda-meta").is_dir()), folders[0] / name)
