"""A command in a conda environment, which is made of a package that this example makes itself: no network is needed.

python examples/conda.py
"""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import tempfile
from pathlib import Path

from rattler.index import index_fs

from tether import CondaEnv, Owner, Process


def make_channel(folder: Path) -> str:
    """Make a channel with one package, which has a program and an activation script; return its address."""
    contents = {
        "bin/greet": "#!/bin/sh\necho hello from $GREETER\n",
        "etc/conda/activate.d/greet.sh": 'export GREETER="$CONDA_PREFIX"\n',
    }
    meta = {"name": "greet", "version": "1.0", "build": "0", "build_number": 0, "depends": [], "subdir": "noarch"}
    paths = [{"_path": path, "path_type": "hardlink"} for path in contents]
    described = {
        "info/index.json": json.dumps({**meta, "noarch": "generic"}),
        "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}),
    }
    (folder / "noarch").mkdir()
    with tarfile.open(folder / "noarch/greet-1.0-0.tar.bz2", "w:bz2") as tar:
        for path, text in {**described, **contents}.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(text), 0o755
            tar.addfile(info, io.BytesIO(text.encode()))
    asyncio.run(index_fs(folder))
    return folder.as_uri()


def main() -> None:
    """Make the environment, run the program in it, and leave: the environment was for this run alone."""
    with tempfile.TemporaryDirectory() as folder, Owner("example") as owner:
        channel = make_channel(Path(folder))
        env = owner.start(CondaEnv(["greet"], [channel], ephemeral=True), on_progress=print)
        job = owner.start(Process(["greet"], env_in=env))
        job.wait()
        print(job.logs(), end="")


if __name__ == "__main__":
    main()
