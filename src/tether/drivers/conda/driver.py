"""Starts, inspects and destroys conda environments."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from tether.drivers import Context
from tether.drivers.conda import activation, cache, folder, locks, making, named, python_packages, soundness
from tether.drivers.conda.access import Access, without_secrets
from tether.drivers.conda.folder import Mark
from tether.drivers.conda.lockfile import Locked
from tether.drivers.conda.spec import CondaEnv
from tether.drivers.conda.uses import Uses, is_unused
from tether.errors import Busy, DriverUnavailable, Gone, NotCreated, StartError, exec_error, require_extra
from tether.life.addresses import hide
from tether.life.machine import Ended
from tether.linux import faults
from tether.model import Finding, Handle, OnDeath, Progress, State, Status, Usage
from tether.protocol import PluginExecutionMode

__all__ = ["CondaDriver"]

_VERSION = 1


class CondaDriver:
    """See `tether.drivers.Driver`. The handle has the prefix, the lock beside it, and whose it is."""

    kind: ClassVar[str] = "conda"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.CONDA_ENV})
    has_pids: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self._folder = context.state_dir / "conda"
        self._uses = Uses()

    # -- start ---------------------------------------------------------------------------------------------------------

    def plan(self, spec: CondaEnv, tag: str) -> Handle:
        """Say where it will be. See `HasPlan`."""
        if not spec.is_made:
            prefix = Path(spec.prefix) if spec.prefix is not None else named.find(spec.name or "")
            data = {"prefix": str(prefix), "lock": None, "attached": True, "ephemeral": False}
            return Handle(self.kind, tag, data, _VERSION)
        request = _request(spec)
        if spec.prefix is not None:
            prefix = Path(spec.prefix)
        elif spec.ephemeral:
            prefix = self._folder / "ephemeral" / tag
        else:
            prefix = self._folder / "envs" / f"{spec.default_name[:40]}-{request[:16]}"
        data = {
            "prefix": str(prefix),
            "lock": str(self._lock(prefix, spec)),
            "attached": False,
            "ephemeral": spec.ephemeral,
            "request": request,
            "ours": spec.prefix is None,
        }
        return Handle(self.kind, tag, data, _VERSION)

    def _lock(self, prefix: Path, spec: CondaEnv) -> Path:
        """Where all meet who make one there: beside what anybody can reach, and in the state directory for what lies there."""
        return locks.beside(prefix) if spec.prefix is not None else self._folder / "locks" / f"{prefix.name}.lock"

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
        if self._use(handle, called, progress):
            progress("it was made before")
            return handle
        try:
            with locks.locked(Path(handle.data["lock"]), progress) as lock_fd:
                if self._use(handle, called, progress):
                    progress("another process made it")
                else:
                    self._make(spec, handle, called, lock_fd, progress)
        except OSError as error:
            raise StartError(f"cannot make environment {called} at {prefix}: {error}", resource=called) from error
        return handle

    def _use(self, handle: Handle, called: str, progress: Progress) -> bool:
        """Use what is there, if it was made from this request for everybody, and its files are those that were installed."""
        prefix = Path(handle.data["prefix"])
        mark = folder.mark_of(prefix)
        if handle.data["ephemeral"] or mark is None or mark.ephemeral or mark.request != handle.data["request"]:
            return False
        if not self._uses.begin(handle.tag, prefix):
            return False
        fault = soundness.fault(prefix, mark.packages)
        if fault is not None and not self._puts_up_with(fault, handle, called, progress):
            return False
        with suppress(OSError):
            # The time of the mark is that of the last use.
            os.utime(prefix / folder.MARK)
        return True

    def _puts_up_with(self, fault: soundness.Fault, handle: Handle, called: str, progress: Progress) -> bool:
        """Whether a broken environment is used all the same: somebody else is in it, and nothing of it is missing."""
        prefix = Path(handle.data["prefix"])
        self._uses.end(handle.tag)
        if is_unused(prefix):
            progress(f"{fault.text}: it is made anew")
            return False
        if fault.unusable or not self._uses.begin(handle.tag, prefix):
            raise NotCreated(
                f"cannot use environment {called} at {prefix}: {fault.text}, and it can't be made anew while others use it; "
                "end what uses it ('tether ps' shows that), and try again",
                resource=called,
            )
        progress(f"{fault.text}: others use it now, so it is used as it is")
        return True

    def _make(self, spec: CondaEnv, handle: Handle, called: str, lock_fd: int, progress: Progress) -> None:
        """Make it, under its lock."""
        prefix = Path(handle.data["prefix"])
        self._clear(handle, called)
        locked, access = self._choose(spec, called, progress)
        try:
            prefix.mkdir(parents=True, exist_ok=True)
            folder.begin(prefix, handle.tag)
            faults.point("start.making")
            with locks.shared(cache.packages_lock(self._folder)):
                making.run(making.install(locked, prefix, self._folder, access, progress, copies=spec.ephemeral))
            if locked.pypi:
                python_packages.install(locked.pypi, prefix, lock_fd, progress)
            faults.point("start.making")
            soundness.note(prefix)
            folder.finish(prefix, _mark(handle, locked))
        except Exception as error:
            # rattler goes on with other packages for a moment when one has failed, and would fill again what is removed.
            folder.await_quiet(prefix)
            said = access.hide(f"cannot make environment {called} at {prefix}: {error}")
            raise StartError(said, resource=called) from _unless_secret(error, access)
        self._uses.begin(handle.tag, prefix)

    def _clear(self, handle: Handle, called: str) -> None:
        """Make room: what is half made or broken of the same request goes, and what is somebody's is left alone.

        Raises:
            NotCreated: it is somebody's.
        """
        prefix = Path(handle.data["prefix"])
        mark = folder.mark_of(prefix)
        problem = ""
        if mark is not None and (mark.ephemeral or handle.data["ephemeral"]) and mark.tag != handle.tag:
            whose = "for another resource alone" if mark.ephemeral else "for everybody, so it can't be ephemeral"
            problem = f"{prefix} was made {whose}"
        elif handle.data["ours"] or folder.begun_for(prefix) is not None:
            folder.remove(prefix, handle.tag)
        elif mark is not None and mark.request == handle.data["request"]:
            others = soundness.others(prefix)
            if others:
                problem = f"{prefix} is broken, and has files that tether did not make ({others[0]}); remove it"
            else:
                folder.remove(prefix, handle.tag)
        elif prefix.exists() and not prefix.is_dir():
            problem = f"{prefix} is a file"
        elif not folder.is_free(prefix):
            problem = f"{prefix} is there and was not made from this request; use it with CondaEnv(prefix=...) alone"
        if problem:
            raise NotCreated(f"cannot make environment {called}: {problem}, or choose another prefix", resource=called)

    def _choose(self, spec: CondaEnv, called: str, progress: Progress) -> tuple[Locked, Access]:
        """Say what will be in it. Raises NotCreated."""
        access = Access([*spec.packages, *spec.channels])
        try:
            if spec.lock is None:
                return making.run(making.solve(spec, access, self._folder, progress)), access
            locked, access = making.read_lock(spec)
            python_packages.check(locked)
        except Exception as error:
            said = access.hide(f"cannot make environment {called}: {error}")
            raise NotCreated(said, resource=called) from _unless_secret(error, access)
        return locked, access

    # -- look ----------------------------------------------------------------------------------------------------------

    def find(self, tag: str) -> list[Handle]:
        """Return nothing: the plan says where it is."""
        return []

    def inspect(self, handle: Handle) -> Status:
        """Look at the folder. Half made by somebody who is still at it counts as not there."""
        prefix = Path(handle.data["prefix"])
        if handle.data["attached"]:
            if (prefix / "conda-meta").is_dir():
                return Status(State.READY)
            return Status(State.LOST, reason=f"there is no environment at {prefix} any more")
        if _is_whole(handle):
            return Status(State.READY)
        if not folder.is_ours(prefix, handle) or locks.is_held(Path(handle.data["lock"])):
            return Status(State.GONE, reason="not there")
        return Status(State.STOPPING, reason="half made")

    def usage(self, handle: Handle) -> Usage:
        """Return nothing: it has no processes of its own; what runs in it is a resource itself."""
        return Usage()

    def details(self, handle: Handle) -> dict[str, Any]:
        """Return where it is, and what is in it."""
        mark = folder.mark_of(Path(handle.data["prefix"]))
        return {"conda_env": handle.data["prefix"], "packages": [] if mark is None else mark.packages}

    def diagnose(self) -> Finding:
        """Look for py-rattler and a shell."""
        what = "conda environments"
        try:
            require_extra("rattler", "conda", "a CondaEnv")
        except DriverUnavailable as error:
            return Finding(what, False, str(error), "none can be made; those that exist can be used")
        bash = shutil.which("bash")
        if bash is None:
            return Finding(what, False, "there is no bash", "they can be made, and no command can run in them")
        return Finding(what, True, f"py-rattler, and {bash}", "they can be made, and commands run in them")

    def is_attached(self, handle: Handle) -> bool:
        """Whether it stays: it existed before, or was made for everybody who asks for the same."""
        return bool(handle.data["attached"]) or (not handle.data["ephemeral"] and _is_whole(handle))

    def inside(self, handle: Handle, argv: Sequence[str], env: Mapping[str, str | None] | None = None) -> list[str]:
        """Return the command under a shell that activates the environment and becomes the command.

        Raises:
            FileNotFoundError: neither the environment, nor the path that ``env`` or the activation gives, has such a program;
                also a StartError.
            StartError: it can't be activated.
        """
        prefix = Path(handle.data["prefix"])
        environ = {**os.environ, **(env or {})}
        environ = {name: value for name, value in environ.items() if value is not None}
        path = f"{prefix / 'bin'}:{environ.get('PATH', os.defpath)}"
        # Activated for a look only where that may say something new: it takes a shell.
        if "/" not in argv[0] and shutil.which(argv[0], path=path) is None:
            path = activation.path_inside(prefix, environ)  # type: ignore[arg-type]
            if shutil.which(argv[0], path=path) is None:
                raise exec_error(errno.ENOENT, argv[0], argv[0], here=False)
        return activation.command(prefix, argv)

    # -- adoption ------------------------------------------------------------------------------------------------------

    def adopt(self, handle: Handle, fence: int) -> int | None:
        """Go on with one that was kept: the ledger's fence is the fence. See `tether.drivers.CanAdopt`."""
        if self.inspect(handle).state is not State.READY:
            raise Gone(
                f"resource {handle.tag} can't be adopted: there is no whole environment at {handle.data['prefix']}"
            )
        if not handle.data["attached"]:
            self._uses.begin(handle.tag, Path(handle.data["prefix"]))
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
            Busy: something is still being installed into it.
            OSError: something of it can't be removed.
        """
        self._uses.end(handle.tag)
        if self.is_attached(handle) or not _is_to_go(handle):
            return
        prefix = Path(handle.data["prefix"])
        with locks.locked_if_free(Path(handle.data["lock"])) as free:
            # Looked at again under the lock: somebody else may have made it his meanwhile.
            if free and _is_to_go(handle):
                folder.remove(prefix, handle.tag)
            elif handle.data["ephemeral"] and _is_to_go(handle):
                raise Busy(f"environment {prefix} can't be removed yet: something is being installed into it")

    def close(self) -> None:
        """Let go of every environment that this process uses. See `HasConnections`."""
        self._uses.close()


def _is_whole(handle: Handle) -> bool:
    """Whether it is there as it was asked for: of an ephemeral one, this very resource's."""
    mark = folder.mark_of(Path(handle.data["prefix"]))
    if mark is None or mark.request != handle.data["request"]:
        return False
    return mark.tag == handle.tag if handle.data["ephemeral"] else not mark.ephemeral


def _is_to_go(handle: Handle) -> bool:
    """Whether it is there and ends with its resource: it is half made, or that resource's alone."""
    if handle.data["ephemeral"] and _is_whole(handle):
        return True
    prefix = Path(handle.data["prefix"])
    return folder.is_ours(prefix, handle) and folder.made_from(prefix) != handle.data["request"]


def _mark(handle: Handle, locked: Locked) -> Mark:
    """Say what was made: of packages of a Python index with "==", as that writes them."""
    return Mark(
        request=handle.data["request"],
        prefix=os.path.realpath(handle.data["prefix"]),
        tag=handle.tag,
        ephemeral=handle.data["ephemeral"],
        packages=[
            *(f"{each.name.normalized}={each.version}" for each in locked.records),
            *(f"{each.name}=={each.version}" for each in locked.pypi),
        ],
        began=time.time(),
    )


def _unless_secret(error: Exception, access: Access) -> Exception | None:
    """Return the cause to be shown with an error; None if it says what must not be shown."""
    return error if access.hide(str(error)) == str(error) else None


def _request(spec: CondaEnv) -> str:
    """What is equal for requests that give the same environment; whoever was let in where by what token."""
    asked: list[Any] = [spec.platform, platform.machine(), platform.system()]
    if spec.lock is not None:
        asked += [hashlib.sha256(Path(spec.lock).read_bytes()).hexdigest(), spec.environment]
    else:
        asked += [
            sorted(map(without_secrets, spec.packages)),
            list(map(hide, spec.channels)),
            making.virtual_packages(),
        ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
