"""cgroup v2, where it is writable. Source: Documentation/admin-guide/cgroup-v2.rst of the kernel.

A folder for each owner, and in it a folder for each tree. The shim moves itself into the tree's folder before
it starts the command, so that the command is born there: nothing that it forks can be outside, and the move, which can
take the kernel some milliseconds, is off the path of a spawn.
"""

from __future__ import annotations

import os

from tether.linux import proc, tier

__all__ = ["current", "enter", "kill", "limit", "make", "owner_folder", "owner_folders", "pids", "remove", "trees"]


def _mount_point() -> str | None:
    try:
        lines = proc.read("/proc/self/mountinfo").decode(errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 "):
            return left.split()[4]
    return None


def current() -> str | None:
    """Return the folder of the v2 cgroup that this process is in; None without a mounted hierarchy."""
    mount = _mount_point()
    if mount is None:
        return None
    for line in proc.read("/proc/self/cgroup").decode(errors="surrogateescape").splitlines():
        if line.startswith("0::"):
            return os.path.normpath(mount + line[3:])
    return None


def owner_folder(owner: str) -> str | None:
    """Return the folder where the trees of this owner would go; None where there is no cgroup v2, or it is forced off."""
    if tier.forced() in (tier.SHIM, tier.PORTABLE):
        return None
    base = current()
    return f"{base}/tether-{owner}" if base else None


def owner_folders() -> dict[str, str]:
    """Return the folders of owners beside which this process is, by the owner's id."""
    base = current()
    if base is None:
        return {}
    prefix = f"{base}/tether-"
    return {folder.removeprefix(prefix): folder for folder in trees(base) if folder.startswith(prefix)}


def make(folder: str) -> bool:
    """Make a cgroup that can be killed as a whole (cgroup.kill, Linux 5.14); False where that is not to be had."""
    try:
        os.mkdir(folder, 0o755)
    except FileExistsError:
        pass
    except OSError:
        return False
    if os.path.exists(f"{folder}/cgroup.kill"):
        return True
    remove(folder)
    return False


def _write(path: str, data: bytes) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, data)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def enter(folder: str) -> bool:
    """Move this process into ``folder``; False if the kernel refuses."""
    return _write(f"{folder}/cgroup.procs", b"0")


def kill(folder: str) -> bool:
    """Send SIGKILL to everything in ``folder`` and below it, forks in flight included; False if that can't be done."""
    return _write(f"{folder}/cgroup.kill", b"1")


def trees(folder: str) -> list[str]:
    """Return the folders just below ``folder``."""
    try:
        return [entry.path for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def pids(folder: str) -> list[int]:
    """Return every pid in ``folder`` and below it; empty if there is no such folder."""
    try:
        found = [int(pid) for pid in proc.read(f"{folder}/cgroup.procs").split()]
    except OSError:
        return []
    # 0 stands for a process that this pid namespace can't see.
    return [pid for pid in found if pid] + [pid for below in trees(folder) for pid in pids(below)]


def remove(folder: str) -> bool:
    """Remove ``folder`` and the folders below it, if nothing is in them any more; True if it is gone."""
    for below in trees(folder):
        remove(below)
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def limit(folder: str | None, *, memory: int | None, cpus: float | None) -> str:
    """Limit what the processes in ``folder`` may use together: bytes, and processors' time.

    Returns:
        What is missing for that, in words; empty if it is done.
    """
    if folder is None:
        return "there is no writable cgroup v2"
    wanted = {"memory": memory is not None, "cpu": cpus is not None}
    names = [name for name, is_wanted in wanted.items() if is_wanted]
    parents = [os.path.dirname(os.path.dirname(folder)), os.path.dirname(folder)]
    for parent in parents:
        # A controller is there where every folder above hands it on.
        _write(f"{parent}/cgroup.subtree_control", " ".join(f"+{name}" for name in names).encode())
    try:
        there = proc.read(f"{folder}/cgroup.controllers").split()
    except OSError:
        there = []
    absent = [name for name in names if name.encode() not in there]
    if absent:
        return f"this cgroup v2 has no controller {' and '.join(absent)} to hand on"
    period_us = 100_000
    written = (memory is None or _write(f"{folder}/memory.max", str(memory).encode())) and (
        cpus is None or _write(f"{folder}/cpu.max", f"{max(1000, int(cpus * period_us))} {period_us}".encode())
    )
    return "" if written else "the kernel refused the limit"
