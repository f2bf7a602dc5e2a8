"""Environments on the disk: which is whole, which is half made, whose they are, and how they are removed.

Two files say it. ``.tether-begun`` has the tag for which an environment is being made or removed, and where: while it stands there,
the folder is half made. ``conda-meta/tether`` is written last, and says what it proves: that tether made the environment whole, at
this place, from this request. A mark that came with a copy of the folder proves nothing, since the place is another.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tether.model import Handle

__all__ = [
    "BEGUN",
    "MARK",
    "Mark",
    "await_quiet",
    "begin",
    "begun_for",
    "finish",
    "is_free",
    "is_ours",
    "made_from",
    "mark_of",
    "remove",
    "remove_tree",
]

_QUIET_S = 0.2
_QUIET_LOOKS = 25

MARK = "conda-meta/tether"
"""What a whole environment has; written last. No ``.json``: other tools read those of this folder as records of packages."""

BEGUN = ".tether-begun"
"""What one that is being made has, or being removed."""

_PROVES = "tether made this environment whole, at this prefix, from this request; without this file it counts as somebody else's"


@dataclass(frozen=True)
class Mark:
    """What the mark of a whole environment says.

    Attributes:
        request: what it was made from, as a digest.
        prefix: where.
        tag: for which resource it was made.
        ephemeral: whether it is that resource's alone.
        packages: what is in it, like "numpy=2.1".
        began: when it was made, in seconds since the epoch.
    """

    request: str
    prefix: str
    tag: str
    ephemeral: bool
    packages: list[str] = field(default_factory=list)
    began: float = 0.0


def mark_of(prefix: Path) -> Mark | None:
    """Return the mark of a whole environment; None if it is not whole, not there, or not tether's."""
    try:
        said: dict[str, Any] = json.loads((prefix / MARK).read_text())
        said.pop("proves", None)
        mark = Mark(**said)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return mark if mark.prefix == os.path.realpath(prefix) and not (prefix / BEGUN).exists() else None


def made_from(prefix: Path) -> str | None:
    """Return the request that a whole environment was made from; None if it is not whole, or not there."""
    mark = mark_of(prefix)
    return None if mark is None else mark.request


def begin(prefix: Path, tag: str) -> None:
    """Mark a folder as half made, before anything of it is made or removed."""
    (prefix / BEGUN).write_text(f"{tag}\n{os.path.realpath(prefix)}\n")


def begun_for(prefix: Path) -> str | None:
    """Return the tag for which a half made folder was begun; None if it is not half made, or its mark came with a copy."""
    try:
        tag, _, place = (prefix / BEGUN).read_text().partition("\n")
    except (OSError, ValueError):
        return None
    return tag if place.rstrip("\n") == os.path.realpath(prefix) else None


def finish(prefix: Path, mark: Mark) -> None:
    """Mark an environment as whole."""
    _write_synced(prefix / MARK, json.dumps({**asdict(mark), "proves": _PROVES}))
    (prefix / BEGUN).unlink()


def is_ours(prefix: Path, handle: Handle) -> bool:
    """Whether a folder that is not whole was begun for this resource, or lies in the state directory, where all is tether's."""
    if begun_for(prefix) == handle.tag:
        return True
    return bool(handle.data.get("ours")) and prefix.exists()


def is_free(prefix: Path) -> bool:
    """Whether an environment can be made there without touching anything of somebody's. Raises OSError."""
    try:
        return not any(prefix.iterdir())
    except FileNotFoundError:
        return True


def remove(prefix: Path, tag: str) -> None:
    """Remove a folder; a removal that is interrupted leaves one that counts as half made.

    Raises:
        OSError: something of it can't be removed.
    """
    if not os.path.lexists(prefix):
        return
    with suppress(PermissionError):
        begin(prefix, tag)
    try:
        _empty(prefix)
    except PermissionError:
        _open_up(prefix)
        begin(prefix, tag)
        _empty(prefix)
    # Last, so that what is left by an interruption is known as half made.
    (prefix / BEGUN).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        Path(os.path.realpath(prefix)).rmdir()


def remove_tree(path: Path) -> None:
    """Remove a folder that has no marks, read-only folders in it as well. Raises OSError."""
    try:
        shutil.rmtree(path, onerror=_ignore_absent)
    except PermissionError:
        _open_up(path)
        shutil.rmtree(path, onerror=_ignore_absent)


def _empty(prefix: Path) -> None:
    (prefix / MARK).unlink(missing_ok=True)
    with os.scandir(prefix) as entries:
        children = [entry for entry in entries if entry.name != BEGUN]
    for child in children:
        if child.is_dir(follow_symlinks=False):
            shutil.rmtree(child.path, onerror=_ignore_absent)
        else:
            Path(child.path).unlink(missing_ok=True)


def _open_up(folder: Path) -> None:
    """Make every folder below one writable, from the top: packages bring read-only ones."""
    for path, _, _ in os.walk(folder, onerror=None):
        _make_writable(path)
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    _make_writable(entry.path)


def _make_writable(path: str) -> None:
    mode = stat.S_IMODE(os.lstat(path).st_mode)
    if mode & 0o700 != 0o700:
        Path(path).chmod(mode | 0o700)


def await_quiet(prefix: Path) -> None:
    """Wait until nothing appears in a folder any more, five seconds at most."""
    seen: list[tuple[str, list[str], list[str]]] | None = None
    for _ in range(_QUIET_LOOKS):
        now = list(os.walk(prefix))
        if now == seen:
            return
        seen = now
        time.sleep(_QUIET_S)


def _ignore_absent(_: Any, __: str, failure: Any) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]


def _write_synced(path: Path, text: str) -> None:
    """Write a file that is on the disk when this returns."""
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
