"""Each run of a command line that makes a container, on record before it runs: with the file for the id of what it makes.

That file is the second proof: an id in it was written by the client that tether started, once its engine had created the
container and before that was started. A label alone is handed on by ``docker commit``.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.model import Handle

__all__ = ["Attempt", "begin", "forget", "of"]

_ID = re.compile(r"[0-9a-f]{64}")
_VERSION = 1


@dataclass(frozen=True)
class Attempt:
    """One run of a command line.

    Attributes:
        name: unique for ever; a label of what it makes has it.
        cidfile: where its client writes the id of that.
        data: of the handle.
    """

    name: str
    cidfile: Path
    data: dict[str, Any]

    @property
    def made(self) -> str | None:
        """The id of what it made; None if it has written none: then nothing that it made was started."""
        try:
            text = self.cidfile.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            return None
        return text if _ID.fullmatch(text) else None


def _folder(state_dir: Path, tag: str) -> Path:
    return state_dir / "run" / f"{tag}.client"


def begin(state_dir: Path, handle: Handle) -> Attempt:
    """Put a run on record that is about to begin. Raises OSError."""
    folder = _folder(state_dir, handle.tag)
    folder.mkdir(mode=0o700, exist_ok=True)
    name = secrets.token_hex(8)
    given = handle.data.get("cidfile")
    attempt = Attempt(name, Path(given) if given else folder / f"{name}.cid", dict(handle.data))
    with (folder / name).open("x", encoding="utf-8") as file:
        json.dump({"version": _VERSION, "cidfile": str(attempt.cidfile), "data": attempt.data}, file)
        file.flush()
        os.fsync(file.fileno())
    return attempt


def of(state_dir: Path, tag: str) -> list[Attempt]:
    """Return the runs that are on record under a tag."""
    return list(_read_all(_folder(state_dir, tag)))


def _read_all(folder: Path) -> Iterator[Attempt]:
    try:
        names = sorted(each.name for each in folder.iterdir() if each.suffix != ".cid")
    except OSError:
        return
    for name in names:
        try:
            said = json.loads((folder / name).read_bytes())
            yield Attempt(name, Path(said["cidfile"]), dict(said["data"]))
        except (OSError, ValueError, KeyError, TypeError):
            # It was cut off while it was written: before its command ran.
            continue


def forget(state_dir: Path, tag: str) -> None:
    """Nothing is left of all that they made."""
    shutil.rmtree(_folder(state_dir, tag), ignore_errors=True)
