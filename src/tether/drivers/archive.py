"""Files and folders on their way into what runs elsewhere, and out of it: as archives."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO

__all__ = ["pack", "unpack"]


def pack(source: bytes | str | os.PathLike[str], name: str) -> bytes:
    """Return an archive with one file or folder under a name: content as bytes, or a path of this machine. Raises OSError."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        if isinstance(source, bytes):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(source), 0o644
            tar.addfile(entry, io.BytesIO(source))
        else:
            # As `docker cp` does it: what is copied belongs to root there, whoever has it here.
            tar.add(Path(source), name, filter=_to_root)
    return made.getvalue()


def _to_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def unpack(packed: IO[bytes], target: Path) -> None:
    """Unpack what is under the one name in an archive, as the target. Nothing of it may lead out of the target.

    Raises:
        tarfile.TarError: it is no sound archive of one file or folder.
        OSError: it can't be written here.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tether-") as folder:
        with tarfile.open(fileobj=packed) as tar:
            tar.extractall(folder, filter="data")
        made, *others = Path(folder).iterdir()
        if others:
            raise tarfile.ReadError("it has more than one thing at its top")
        if made.is_dir() and target.exists():
            shutil.copytree(made, target, dirs_exist_ok=True, symlinks=True)
        else:
            os.replace(made, target)  # noqa: PTH105 - a file that is there is replaced in one step
