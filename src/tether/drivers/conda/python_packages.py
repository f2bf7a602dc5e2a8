"""Packages from a Python index that a lock file names, installed by uv or by pip."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tether.drivers.conda import lockfile
from tether.drivers.conda.lockfile import PyPI
from tether.life.addresses import hide
from tether.model import Progress

__all__ = ["check", "install"]

_NOT_FOR_IT = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
_SHOWN_LINES = 15


def check(locked: lockfile.Locked) -> None:
    """Refuse before anything is created what could not be installed. Raises ValueError."""
    if not locked.pypi:
        return
    names = {record.name.normalized for record in locked.records}
    if "python" not in names:
        raise ValueError(
            f"it has packages from a Python index ({_names(locked.pypi)}), and no python to install them with"
        )
    if not names & {"pip", "uv"} and _uv() is None:
        raise ValueError(
            f"it has packages from a Python index ({_names(locked.pypi)}), and neither uv nor pip is there to install them; "
            "run: pip install uv, or add pip to the environment"
        )


def _names(packages: Sequence[PyPI]) -> str:
    return ", ".join(sorted(package.name for package in packages))


def _uv() -> str | None:
    """Return uv's program, of the path or of this Python."""
    with suppress(ImportError, FileNotFoundError):
        import uv

        return str(uv.find_uv_bin())
    return shutil.which("uv")


def install(packages: Sequence[PyPI], prefix: Path, lock_fd: int, progress: Progress) -> None:
    """Install packages, and nothing that they depend on: a lock file names all.

    Args:
        packages: what the lock file names.
        prefix: an environment with python in it.
        lock_fd: the lock under which the environment is made; the installer keeps it, should this process die.
        progress: told what is done.

    Raises:
        ValueError: the installer could not do it; with the last lines that it wrote.
    """
    with_digest = [package for package in packages if lockfile.digest_of(package)]
    for batch in (with_digest, [package for package in packages if package not in with_digest]):
        if batch:
            progress(f"installing {_names(batch)} from a Python index")
            _run(prefix, "\n".join(map(_requirement, batch)), lock_fd)
    _forget_tokens(prefix)


def _requirement(package: PyPI) -> str:
    source = package.source if "://" in package.source else Path(package.source).as_uri()
    return f"{package.name} @ {source} {lockfile.digest_of(package)}".strip()


def _command(prefix: Path) -> list[str]:
    python = str(prefix / "bin/python")
    uv = str(prefix / "bin/uv") if (prefix / "bin/uv").exists() else _uv()
    if uv is not None:
        # Copies: links would be shared with uv's cache, and with whatever else it installs.
        return [
            uv,
            "pip",
            "install",
            "--python",
            python,
            "--no-deps",
            "--link-mode",
            "copy",
            "--no-progress",
            "-r",
            "-",
        ]
    return [python, "-m", "pip", "install", "--no-deps", "--no-input", "--progress-bar", "off", "-r", "/dev/stdin"]


def _run(prefix: Path, requirements: str, lock_fd: int) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_IT}
    environ.update(PYTHONNOUSERSITE="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    with subprocess.Popen(
        _command(prefix),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environ,
        pass_fds=[lock_fd],
    ) as installer:
        try:
            said = installer.communicate(requirements.encode())[0].decode(errors="replace")
        except BaseException:
            installer.kill()
            raise
    if installer.returncode != 0:
        last = "\n".join(said.splitlines()[-_SHOWN_LINES:])
        raise ValueError(f"its packages from a Python index could not be installed: {last}")


def _forget_tokens(prefix: Path) -> None:
    """Take what lets somebody in out of the addresses that the installer wrote down (PEP 610)."""
    for path in prefix.glob("lib/python*/site-packages/*.dist-info/direct_url.json"):
        text = path.read_text()
        if hide(text) != text:
            path.write_text(hide(text))
