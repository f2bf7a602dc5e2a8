"""Whether the files of an environment are still those that were installed, found out at little cost.

A table made with the environment has size and time of each file. One look at each (lstat) is enough where nothing has changed;
what differs is compared with the digest that ``conda-meta`` has of it. So a file that was cut short, lost, or written through a
hard link of another environment is noticed before the environment is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.drivers.conda import folder

__all__ = ["Fault", "fault", "note", "others"]

_TABLE = "conda-meta/tether-files"
_META = "conda-meta"
_OWN = (folder.MARK, folder.BEGUN, _TABLE)


@dataclass(frozen=True)
class Fault:
    """What is wrong with an environment.

    Attributes:
        text: in words.
        unusable: whether something is missing; otherwise something has another content than was installed.
    """

    text: str
    unusable: bool


_Seen = list[int]


def note(prefix: Path) -> None:
    """Write the table of an environment that was just installed."""
    table = dict(_files(prefix))
    (prefix / _TABLE).write_text(json.dumps(table))


def _files(prefix: Path) -> Iterator[tuple[str, _Seen]]:
    root = os.fspath(prefix)
    for path, folders, names in os.walk(root):
        links = [name for name in folders if Path(path, name).is_symlink()]
        for name in (*names, *links):
            relative = os.path.relpath(f"{path}/{name}", root)
            # Python writes compiled files again as it likes.
            if not name.endswith(".pyc") and relative not in _OWN:
                yield relative, _look(f"{path}/{name}")


def _look(path: str) -> _Seen:
    seen = os.lstat(path)
    return [seen.st_size, seen.st_mtime_ns]


def fault(prefix: Path, packages: list[str]) -> Fault | None:
    """Look at every file of an environment; None if all is as it was installed.

    Args:
        prefix: where it is.
        packages: what its mark says is in it.
    """
    try:
        table: dict[str, _Seen] = json.loads((prefix / _TABLE).read_text())
    except (OSError, ValueError):
        return Fault("the table of its files is missing", unusable=True)
    records = {name: seen for name, seen in table.items() if _is_record(name)}
    if any(_missing_or_changed(prefix, name, seen) for name, seen in records.items()):
        # Another tool has changed what is installed: then its records say what must be there.
        return _fault_by_records(prefix, {each.partition("=")[0] for each in packages if "==" not in each})
    digests: dict[str, str] | None = None
    for name, seen in table.items():
        said = None if name in records else _missing_or_changed(prefix, name, seen)
        if said == "missing":
            return Fault(f"{name} is missing", unusable=True)
        if said:
            digests = _digests(prefix) if digests is None else digests
            if _has_other_content(prefix / name, seen[0], digests.get(name)):
                return Fault(f"{name} is not what was installed", unusable=(prefix / name).stat().st_size == 0)
    return None


def _is_record(name: str) -> bool:
    return name.startswith(f"{_META}/") and name.endswith(".json")


def _missing_or_changed(prefix: Path, name: str, seen: _Seen) -> str:
    try:
        return "" if _look(f"{prefix}/{name}") == seen else "changed"
    except OSError:
        return "missing"


def _has_other_content(path: Path, size: int, digest: str | None) -> bool:
    if path.is_symlink() or digest is None:
        return path.lstat().st_size != size
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() != digest


def _records(prefix: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((prefix / _META).glob("*.json")):
        yield json.loads(path.read_text())


def _paths(record: dict[str, Any]) -> list[dict[str, Any]]:
    paths: list[dict[str, Any]] = record.get("paths_data", {}).get("paths", [])
    return paths


def _digests(prefix: Path) -> dict[str, str]:
    """Digests of the files as they were installed, by path, as far as ``conda-meta`` has them."""
    found: dict[str, str] = {}
    for record in _records(prefix):
        for path in _paths(record):
            # The digest of a file that has the prefix put into it is another than the package's.
            digest = path.get("sha256_in_prefix") or (None if "prefix_placeholder" in path else path.get("sha256"))
            if digest:
                found[path["_path"]] = digest
    return found


def _fault_by_records(prefix: Path, packages: set[str]) -> Fault | None:
    try:
        records = list(_records(prefix))
    except (OSError, ValueError) as error:
        return Fault(f"a record of its packages can't be read: {error}", unusable=True)
    lacking = packages - {str(record.get("name")) for record in records}
    if lacking:
        return Fault(f"package {', '.join(sorted(lacking))} is not in it any more", unusable=True)
    for record in records:
        for path in _paths(record):
            if path.get("path_type") != "pyc_file" and not os.path.lexists(prefix / path["_path"]):
                return Fault(f"{path['_path']} of package {record.get('name')} is missing", unusable=True)
    return None


def others(prefix: Path) -> list[str]:
    """Return the files of an environment that were not there when it was made."""
    try:
        table: dict[str, _Seen] = json.loads((prefix / _TABLE).read_text())
    except (OSError, ValueError):
        table = {}
    return sorted(name for name, _ in _files(prefix) if name not in table)
