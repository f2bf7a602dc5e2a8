"""The environments that were made for everybody: what there is, how big, when it was used last, and how it is removed."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tether.drivers.conda import folder, locks
from tether.drivers.conda.uses import is_unused, processes_in

__all__ = ["CachedEnv", "Removed", "cached", "packages_lock", "packages_size", "prune"]

_PRUNING = "tether envs prune"


@dataclass(frozen=True)
class CachedEnv:
    """An environment of the cache.

    Attributes:
        name: its folder's.
        prefix: where it is.
        state: "whole", "half made" (nobody is at it: it goes with the next sweep or pruning), or "being made".
        packages: what is in it, like "numpy=2.1".
        size_bytes: what it takes on the disk; files that it shares with the cache of packages count.
        made, used: when, in seconds since the epoch; of one that is not whole, when it was begun.
        in_use: whether an owner holds it, or a process runs in it, as far as can be seen from here.
    """

    name: str
    prefix: str
    state: Literal["whole", "half made", "being made"]
    packages: list[str]
    size_bytes: int
    made: float
    used: float
    in_use: bool


@dataclass(frozen=True)
class Removed:
    """What became of one environment, or of the cache of packages.

    Attributes:
        name: which one.
        size_bytes: what it took.
        kept_because: why it is still there; empty if it was removed.
    """

    name: str
    size_bytes: int
    kept_because: str = ""


def _folder(state_dir: Path) -> Path:
    return state_dir / "conda"


def packages_lock(conda_folder: Path) -> Path:
    """Return the lock that who installs shares, and who removes the cache of packages has alone."""
    return conda_folder / "locks/packages"


def cached(state_dir: Path) -> list[CachedEnv]:
    """Return the environments of a state directory's cache, the one that was used last first. Only looks."""
    found = []
    with suppress(FileNotFoundError):
        for prefix in (_folder(state_dir) / "envs").iterdir():
            with suppress(FileNotFoundError):
                found.append(_look(state_dir, prefix))
    return sorted(found, key=lambda env: -env.used)


def _lock_of(state_dir: Path, prefix: Path) -> Path:
    return _folder(state_dir) / "locks" / f"{prefix.name}.lock"


def _look(state_dir: Path, prefix: Path) -> CachedEnv:
    mark = folder.mark_of(prefix)
    if mark is None:
        state: Literal["half made", "being made"] = (
            "being made" if locks.is_held(_lock_of(state_dir, prefix)) else "half made"
        )
        began = prefix.stat().st_mtime
        return CachedEnv(prefix.name, str(prefix), state, [], _size(prefix), began, began, state == "being made")
    used = (prefix / folder.MARK).stat().st_mtime
    in_use = locks.is_held(prefix / folder.MARK) or bool(processes_in(prefix))
    return CachedEnv(prefix.name, str(prefix), "whole", mark.packages, _size(prefix), mark.began, used, in_use)


def _size(top: Path) -> int:
    """What a folder takes on the disk, each file once. Like du(1)."""
    sizes: dict[tuple[int, int], int] = {}
    for path, folders, names in os.walk(top):
        for name in (*folders, *names):
            with suppress(FileNotFoundError):
                seen = os.lstat(f"{path}/{name}")
                sizes[seen.st_dev, seen.st_ino] = seen.st_blocks * 512
    return sum(sizes.values())


def packages_size(state_dir: Path) -> int:
    """Return what the cache of packages and of channels' indices takes, which is only to make environments quicker."""
    return _size(_folder(state_dir) / "packages") + _size(_folder(state_dir) / "repodata")


def prune(
    state_dir: Path,
    *,
    unused_for: float = 0.0,
    names: Collection[str] = (),
    packages: bool = True,
    dry_run: bool = False,
) -> list[Removed]:
    """Remove environments of the cache that nobody uses, and the cache of packages.

    An environment that an owner holds, or that a process runs in, is never removed.

    Args:
        state_dir: whose cache.
        unused_for: only what was not used for so many seconds.
        names: only these; by default all.
        packages: the cache of packages as well.
        dry_run: remove nothing, and say what would be.

    Returns:
        What became of each that was asked for.

    Crash:
        What is removed is marked as half made before: the rest goes with the next pruning, or with the next who makes it.
    """
    there = cached(state_dir)
    done = [Removed(name, 0, "there is none of this name") for name in names if name not in {env.name for env in there}]
    for env in there:
        if names and env.name not in names:
            continue
        if time.time() - env.used < unused_for:
            done.append(Removed(env.name, env.size_bytes, "used lately"))
        else:
            done.append(_remove(state_dir, env, dry_run=dry_run))
    if packages and not names:
        done.append(_remove_packages(state_dir, dry_run=dry_run))
    return done


def _remove(state_dir: Path, env: CachedEnv, *, dry_run: bool) -> Removed:
    if dry_run:
        return Removed(env.name, env.size_bytes, "in use" if env.in_use else "")
    prefix = Path(env.prefix)
    try:
        with locks.locked_if_free(_lock_of(state_dir, prefix)) as free:
            if not free:
                return Removed(env.name, env.size_bytes, "being made")
            if folder.mark_of(prefix) is not None:
                # Whoever begins to use it after this finds that it is not whole, and waits for the lock.
                folder.begin(prefix, _PRUNING)
                if not is_unused(prefix):
                    (prefix / folder.BEGUN).unlink()
                    return Removed(env.name, env.size_bytes, "in use")
            folder.remove(prefix, _PRUNING)
    except OSError as error:
        return Removed(env.name, env.size_bytes, str(error))
    return Removed(env.name, env.size_bytes)


def _remove_packages(state_dir: Path, *, dry_run: bool) -> Removed:
    name, size = "packages", packages_size(state_dir)
    if dry_run or not size:
        return Removed(name, size)
    with locks.locked_if_free(packages_lock(_folder(state_dir))) as free:
        if not free:
            return Removed(name, size, "an environment is being made")
        try:
            for each in ("packages", "repodata"):
                folder.remove_tree(_folder(state_dir) / each)
        except OSError as error:
            return Removed(name, size, str(error))
    return Removed(name, size)
