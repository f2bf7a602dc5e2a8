"""A real conda channel in a folder: packages made by hand, indexed by rattler."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from rattler.index import index_fs

Files = dict[str, tuple[str, int]]
"""By path: the text, and the mode."""

TOOL: Files = {
    "bin/tool": ('#!/bin/sh\necho "tool $TOOL_HOME"\nexec sleep "${1:-0}"\n', 0o755),
    "etc/conda/activate.d/tool.sh": ('export TOOL_HOME="$CONDA_PREFIX/share/tool"\n', 0o644),
    "share/tool/data": ("data\n", 0o644),
}


def make_package(
    channel: Path, name: str, version: str = "1.0", depends: Sequence[str] = (), files: Files = TOOL
) -> Path:
    """Make a package of the channel."""
    folder = channel / "noarch"
    folder.mkdir(parents=True, exist_ok=True)
    index = {
        "name": name,
        "version": version,
        "build": "0",
        "build_number": 0,
        "depends": list(depends),
        "subdir": "noarch",
        "noarch": "generic",
        "timestamp": 1_700_000_000_000,
    }
    paths = [
        {
            "_path": path,
            "path_type": "hardlink",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "size_in_bytes": len(text.encode()),
        }
        for path, (text, _) in files.items()
    ]
    contents: Files = {
        "info/index.json": (json.dumps(index), 0o644),
        "info/paths.json": (json.dumps({"paths": paths, "paths_version": 1}), 0o644),
        "info/files": ("\n".join(files), 0o644),
        **files,
    }
    package = folder / f"{name}-{version}-0.tar.bz2"
    with tarfile.open(package, "w:bz2") as tar:
        for path, (text, mode) in contents.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.mtime = len(text.encode()), mode, 1_700_000_000
            tar.addfile(info, io.BytesIO(text.encode()))
    return package


def index(channel: Path) -> str:
    """Index the channel, and return its address."""
    asyncio.run(index_fs(channel))
    return channel.as_uri()


def make(folder: Path, *, extra: int = 3) -> str:
    """Make a channel with a tool, what it depends on, and some more of that kind; return its address."""
    names = [f"library-{number}" for number in range(extra)]
    for name in names:
        make_package(folder, name, files={f"share/{name}/{n}": (f"{name} {n}\n" * 50, 0o644) for n in range(40)})
    make_package(folder, "tool", depends=names)
    make_package(folder, "other", files={"share/other": ("other\n", 0o644)})
    return index(folder)


def lock_of(
    address: str,
    specs: Sequence[str],
    path: Path,
    *,
    platform: str | None = None,
    environment: str = "default",
    pypi: Sequence[tuple[str, str, str]] = (),
) -> None:
    """Write a lock file of what a channel gives for some specs, and of packages of a Python index: name, version, location."""
    import rattler

    here = platform or str(rattler.Subdir.current())
    records = asyncio.run(rattler.solve(sources=[address], specs=list(specs), platforms=[here, "noarch"]))  # type: ignore[list-item]
    locked = rattler.LockPlatform(here)
    lock = rattler.LockFile([locked])
    lock.set_channels(environment, [rattler.LockChannel(address)])
    for record in records:
        lock.add_conda_package(environment, locked, record)
    for name, version, location in pypi:
        lock.add_pypi_package(environment, locked, name, version, location)
    lock.to_path(path)
