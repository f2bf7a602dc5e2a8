"""Starts, inspects and destroys conda environments."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from tether.drivers import Context
from tether.drivers.conda import folder, making
from tether.drivers.conda.spec import CondaEnv
from tether.errors import DriverUnavailable, Gone, NotCreated, StartError, exec_error, require_extra
from tether.life.machine import Ended
from tether.linux import faults
from tether.model import Finding, Handle, OnDeath, Progress, State, Status, Usage
from tether.protocol import PluginExecutionMode

__all__ = ["CondaDriver"]

_VERSION = 1


class CondaDriver:
    """See `tether.drivers.Driver`. The handle has the prefix, the lock file, and whose it is."""

    kind: ClassVar[str] = "conda"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.CONDA_ENV})
    has_pids: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self._folder = context.state_dir / "conda"

    # -- start ---------------------------------------------------------------------------------------------------------

    def plan(self, spec: CondaEnv, tag: str) -> Handle:
        """Say where it will be. See `HasPlan`."""
        if not spec.is_made:
            prefix = Path(spec.prefix) if spec.prefix is not None else _named(spec.name or "")
            return Handle(
                self.kind, tag, {"prefix": str(prefix), "lock": None, "attached": True, "ephemeral": False}, _VERSION
            )
        request = _request(spec)
        if spec.prefix is not None:
            prefix = Path(spec.prefix)
        elif spec.ephemeral:
            prefix = self._folder / "ephemeral" / tag
        else:
            prefix = self._folder / "envs" / f"{spec.default_name[:40]}-{request[:16]}"
        lock = self._folder / "locks" / hashlib.sha256(os.fsencode(prefix)).hexdigest()[:32]
        data = {
            "prefix": str(prefix),
            "lock": str(lock),
            "attached": False,
            "ephemeral": spec.ephemeral,
            "request": request,
        }
        return Handle(self.kind, tag, data, _VERSION)

    def start(self, spec: CondaEnv, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Make the environment, or use it if it is there.

        Raises:
            NotCreated: it can't be solved, there is none to be used, or the place is taken by something else.
            StartError: packages could not be fetched or installed; what was made is the caller's to destroy, by the plan.

        Crash:
            The kernel releases the lock; what has no mark is half made, and goes at the next sweep or with the next creator.
        """
        handle = self.plan(spec, tag)
        prefix, called = Path(handle.data["prefix"]), spec.name or spec.default_name
        if handle.data["attached"]:
            if not (prefix / "conda-meta").is_dir():
                raise NotCreated(f"cannot use environment {called}: there is none at {prefix}", resource=called)
            return handle
        # Made once is made for everybody: the common case needs no lock.
        if not spec.ephemeral and folder.made_from(prefix) == handle.data["request"]:
            progress("it was made before")
            return handle
        with folder.locked(Path(handle.data["lock"]), progress):
            if folder.made_from(prefix) == handle.data["request"]:
                progress("another process made it")
                return handle
            self._make(spec, handle, called, progress)
        return handle

    def _make(self, spec: CondaEnv, handle: Handle, called: str, progress: Progress) -> None:
        """Make it, under its lock."""
        prefix = Path(handle.data["prefix"])
        if (prefix / folder.BEGUN).exists() or prefix.is_relative_to(self._folder):
            folder.remove(prefix)
        elif prefix.exists() and any(prefix.iterdir()):
            raise NotCreated(
                f"cannot make environment {called}: {prefix} is there and was not made from this request; "
                "use it with CondaEnv(prefix=...) alone, or choose another prefix",
                resource=called,
            )
        try:
            records = making.run(making.solve(spec, self._folder, progress))
        except Exception as error:
            raise NotCreated(f"cannot make environment {called}: {error}", resource=called) from error
        try:
            prefix.mkdir(parents=True, exist_ok=True)
            (prefix / folder.BEGUN).write_text(handle.tag)
            faults.point("start.making")
            making.run(making.install(records, prefix, self._folder, progress))
            faults.point("start.making")
            mark = {
                "request": handle.data["request"],
                "packages": [f"{each.name.normalized}={each.version}" for each in records],
            }
            folder.write_synced(prefix / folder.MARK, json.dumps(mark))
            (prefix / folder.BEGUN).unlink()
        except Exception as error:
            # rattler goes on with other packages for a moment when one has failed, and would fill again what is removed.
            folder.await_quiet(prefix)
            raise StartError(f"cannot make environment {called} at {prefix}: {error}", resource=called) from error

    # -- look ----------------------------------------------------------------------------------------------------------

    def find(self, tag: str) -> list[Handle]:
        """Return nothing: the plan says where it is."""
        return []

    def inspect(self, handle: Handle) -> Status:
        """Look at the folder. Half made by somebody who is still at it counts as not there."""
        prefix = Path(handle.data["prefix"])
        if handle.data["attached"]:
            there = (prefix / "conda-meta").is_dir()
            return (
                Status(State.READY)
                if there
                else Status(State.LOST, reason=f"there is no environment at {prefix} any more")
            )
        if folder.made_from(prefix) == handle.data["request"]:
            return Status(State.READY)
        if not folder.is_ours(prefix, handle) or not folder.lock_is_free(Path(handle.data["lock"])):
            return Status(State.GONE, reason="not there")
        return Status(State.STOPPING, reason="half made")

    def usage(self, handle: Handle) -> Usage:
        """Return nothing: it has no processes of its own; what runs in it is a resource itself."""
        return Usage()

    def details(self, handle: Handle) -> dict[str, Any]:
        """Return where it is, and what is in it."""
        try:
            mark = json.loads((Path(handle.data["prefix"]) / folder.MARK).read_text())
        except (OSError, ValueError):
            mark = {}
        return {"conda_env": handle.data["prefix"], "packages": mark.get("packages", [])}

    def diagnose(self) -> Finding:
        """Look for py-rattler and a shell."""
        try:
            require_extra("rattler", "conda", "a CondaEnv")
        except DriverUnavailable as error:
            return Finding(
                "conda environments", False, str(error), "none can be made; those that exist can't be activated"
            )
        bash = shutil.which("bash")
        if bash is None:
            return Finding(
                "conda environments", False, "there is no bash", "they can be made, and no command can run in them"
            )
        return Finding(
            "conda environments", True, f"py-rattler, and {bash}", "they can be made, and commands run in them"
        )

    def is_attached(self, handle: Handle) -> bool:
        """Whether it stays: it existed before, or was made for everybody who asks for the same."""
        if handle.data["attached"]:
            return True
        return not handle.data["ephemeral"] and folder.made_from(Path(handle.data["prefix"])) == handle.data["request"]

    def inside(self, handle: Handle, argv: Sequence[str]) -> list[str]:
        """Return the command under a shell that activates the environment and becomes the command.

        Raises:
            FileNotFoundError: neither the environment nor the path has such a program; also a StartError.
            DriverUnavailable: the extra is not installed.
        """
        require_extra("rattler", "conda", "a command in a conda environment")
        from rattler.shell import ActivationVariables, Shell, activate

        prefix = Path(handle.data["prefix"])
        if (
            "/" not in argv[0]
            and shutil.which(argv[0], path=f"{prefix / 'bin'}:{os.environ.get('PATH', os.defpath)}") is None
        ):
            raise exec_error(errno.ENOENT, argv[0], argv[0])
        bash = shutil.which("bash")
        if bash is None:
            raise StartError(f"cannot run {argv[0]} in {prefix}: activation scripts need bash, which is not installed")
        current = os.environ.get("CONDA_PREFIX")
        variables = ActivationVariables(current_prefix=Path(current) if current else None)
        script = activate(prefix, variables, Shell.bash).script
        return [bash, "--noprofile", "--norc", "-c", f'{script}\nexec "$@"', "tether", *argv]

    # -- adoption ------------------------------------------------------------------------------------------------------

    def adopt(self, handle: Handle, fence: int) -> int | None:
        """Go on with one that was kept: the ledger's fence is the fence. See `tether.drivers.CanAdopt`."""
        if self.inspect(handle).state is not State.READY:
            raise Gone(
                f"resource {handle.tag} can't be adopted: there is no whole environment at {handle.data['prefix']}"
            )
        return None

    def receipt(self, handle: Handle) -> Ended | None:
        """Nothing is left that could tell."""
        return None

    # -- end -----------------------------------------------------------------------------------------------------------

    def stop(self, handle: Handle, grace: float) -> None:
        """Remove it if it is ephemeral, else let go of it."""
        self.destroy(handle)

    def destroy(self, handle: Handle) -> None:
        """Remove what is ephemeral or half made; what is whole stays for others, and what was there before is never touched.

        Raises:
            OSError: something of it can't be removed.
        """
        if self.is_attached(handle):
            return
        prefix, lock = Path(handle.data["prefix"]), Path(handle.data["lock"])
        if handle.data["ephemeral"]:
            folder.remove(prefix)
            lock.unlink(missing_ok=True)
            return
        with folder.locked_if_free(lock) as free:
            if free and folder.is_ours(prefix, handle) and folder.made_from(prefix) != handle.data["request"]:
                folder.remove(prefix)


def _request(spec: CondaEnv) -> str:
    """What is equal for requests that give the same environment."""
    lock = None if spec.lock is None else hashlib.sha256(Path(spec.lock).read_bytes()).hexdigest()
    asked = [
        sorted(spec.packages),
        list(spec.channels) if spec.packages else [],
        lock,
        platform.machine(),
        platform.system(),
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _named(name: str) -> Path:
    """Where the conda environment of this name is, or would be."""
    home = Path.home()
    folders = [Path(each) for each in os.environ.get("CONDA_ENVS_PATH", "").split(os.pathsep) if each]
    roots = [
        os.environ.get("MAMBA_ROOT_PREFIX"),
        str(Path(exe).parents[1]) if (exe := os.environ.get("CONDA_EXE")) else None,
    ]
    folders += [Path(root) / "envs" for root in roots if root]
    folders += [
        home / ".conda/envs",
        *(home / root / "envs" for root in ("miniforge3", "miniconda3", "anaconda3", "micromamba")),
    ]
    with suppress(OSError):
        known = (home / ".conda/environments.txt").read_text().split("\n")
        folders += [Path(line).parent for line in known if Path(line).name == name]
    return next((folder / name for folder in folders if (folder / name / "conda-meta").is_dir()), folders[0] / name)
