"""What a lock file of pixi or rattler names, for one of its environments and one of its platforms."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.drivers.conda.spec import CondaEnv
from tether.life.addresses import find

__all__ = ["Locked", "PyPI", "addresses", "digest_of", "read"]

_WHEEL_OR_SDIST = re.compile(r"\.(whl|tar\.gz|zip)$")


@dataclass(frozen=True)
class PyPI:
    """A package from a Python index.

    Attributes:
        name, version: which one.
        source: a URL, or the path of a file or folder.
        sha256: of the file, in hexadecimal; empty where the lock file has none.
    """

    name: str
    version: str
    source: str
    sha256: str = ""


@dataclass(frozen=True)
class Locked:
    """What is to be installed: for which platform, rattler's records, and packages from a Python index."""

    platform: str
    records: list[Any]
    pypi: list[PyPI]


def read(spec: CondaEnv) -> Locked:
    """Read what a lock file names. Raises ValueError, which says what there is instead."""
    import rattler

    path = Path(spec.lock or "")
    file = rattler.LockFile.from_path(path)
    wanted = spec.environment or "default"
    environment = file.environment(wanted)
    if environment is None:
        there = _words(name for name, _ in file.environments())
        raise ValueError(f"lock file {path} has no environment {wanted!r} (there are: {there}); say environment=")
    platform = _platform(spec, environment.platforms(), f"environment {wanted!r} of lock file {path}")
    records = environment.conda_repodata_records_for_platform(platform) or []
    python = environment.pypi_packages_for_platform(platform) or []
    return Locked(str(platform.subdir), records, [_pypi(each, path.parent) for each in python])


def _platform(spec: CondaEnv, there: list[Any], where: str) -> Any:
    import rattler

    wanted = spec.platform or str(rattler.Subdir.current())
    named = [each for each in there if each.name == wanted]
    fitting = named or [each for each in there if str(each.subdir) == wanted]
    if len(fitting) != 1:
        problem = f"is for several platforms that are {wanted}" if fitting else f"is not for {wanted}"
        raise ValueError(f"{where} {problem} (it is for: {_words(each.name for each in there)}); say platform=")
    return fitting[0]


def _words(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _pypi(package: Any, folder: Path) -> PyPI:
    source = str(package.location).removeprefix("direct+")
    if "://" not in source:
        source = str((folder / source).resolve())
    try:
        digest = package.hashes.sha256
    except AttributeError:
        # A package without any, which rattler does not expect.
        digest = None
    return PyPI(package.name, str(package.version), source, digest.hex() if digest else "")


def addresses(locked: Locked) -> list[str]:
    """Return every address that it fetches from."""
    texts = [str(record.url) for record in locked.records] + [str(record.channel) for record in locked.records]
    return [address for text in texts for address in find(text)]


def digest_of(package: PyPI) -> str:
    """Return what pip and uv check of a file; nothing for a folder, or where the lock file has none."""
    return f"--hash=sha256:{package.sha256}" if package.sha256 and _WHEEL_OR_SDIST.search(package.source) else ""
