"""What a user holds of a resource."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, cast

from tether.errors import Gone, SpecError
from tether.life.driver import CanCopy, CanExecute, CanPause, CanSignal, HasInside, HasStreamsApart
from tether.life.managed import Managed
from tether.life.supervisor import Supervisor
from tether.model import Handle, Identity, OnDeath, State, Usage
from tether.owner import show

__all__ = ["Resource"]


def _silent(_: str) -> None:
    return None


class Resource:
    """One external thing that an owner started, or adopted.

    As a context manager it stops at the end of the block. All methods may be called from any thread.
    """

    def __init__(self, supervisor: Supervisor, managed: Managed) -> None:
        self._supervisor = supervisor
        self._managed = managed

    def __repr__(self) -> str:
        return f"<Resource {self.name} ({', '.join(show.words(self))})>"

    def _repr_html_(self) -> str:
        return show.table([self])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Its tag, unique for ever."""
        return self._managed.tag

    @property
    def name(self) -> str:
        """Its name, unique among the live resources of its owner."""
        return self._managed.name

    @property
    def kind(self) -> str:
        """The kind of its driver."""
        return str(self._managed.spec.kind)

    @property
    def spec(self) -> Any:
        """What it was started from; of one that was adopted, what was recorded of that."""
        return self._managed.spec

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self._managed.state

    @property
    def on_death(self) -> OnDeath:
        """What becomes of it when its owner dies: its spec's rule, or its owner's."""
        return self._managed.on_death

    @property
    def reason(self) -> str:
        """Why it is in this state, in words; empty where that goes without saying."""
        return self._managed.life.reason

    @property
    def exit_code(self) -> int | None:
        """The exit code of its command, negative for a signal; None while it runs, and where it is not known."""
        return self._managed.life.exit_code

    @property
    def url(self) -> str | None:
        """Where it answers; None if it has no port."""
        return self._managed.url

    @property
    def pid(self) -> int | None:
        """The pid of its command; None if it has ended, or has none on this machine."""
        pids = self._managed.pids()
        return pids[0] if pids else None

    def pids(self) -> list[int]:
        """Return its live processes on this machine: the command first, then every descendant, each once."""
        return list(self._managed.pids())

    def usage(self) -> Usage:
        """Say what it uses now; all of it None once it has ended."""
        if self._managed.handle is None or self.state.is_final:
            return Usage()
        return self._managed.driver.usage(self._managed.handle)

    def logs(self, tail: int | None = None, *, stream: Literal["stdout", "stderr"] | None = None) -> str:
        """Return its output, or the last ``tail`` lines of it; empty if it goes elsewhere.

        Args:
            tail: how many lines; None for all.
            stream: of a container, only what went to one of the two.

        Raises:
            SpecError: the two are not kept apart for this kind.
        """
        if stream is None:
            return self._managed.log(tail)
        driver, handle = self._managed.driver, self._managed.handle
        if not isinstance(driver, HasStreamsApart):
            raise SpecError(f"{self.name} is of kind {self.kind}, whose standard output and error are not kept apart")
        return "" if handle is None else driver.read_stream(handle, stream, tail).decode(errors="replace")

    def info(self) -> dict[str, Any]:
        """Return all of the above, ready for JSON and without secrets."""
        pids = self.pids()
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "state": self.state.value,
            "reason": self.reason,
            "exit_code": self.exit_code,
            "url": self.url,
            "pid": pids[0] if pids else None,
            "pids": pids,
            "on_death": self._managed.on_death,
            **self._managed.details(),
            "log": None if self._managed.log_path is None else str(self._managed.log_path),
            "spec": self._managed.spec.record(),
        }

    @property
    def details(self) -> dict[str, Any]:
        """What its driver tells of it beside what all do, as part of `info`: ``container_id``, ``conda_env``, ..."""
        return self._managed.details()

    def _stream(self, name: str) -> Any:
        return self._managed.streams.get(name)

    # The pipes are this resource's until they are closed: also after it has ended, as with `subprocess.Popen`.

    @property
    def stdin(self) -> BinaryIO | None:
        """The pipe to its standard input, if the spec said "pipe"."""
        return cast("BinaryIO | None", self._stream("stdin"))

    @property
    def stdout(self) -> BinaryIO | None:
        """The pipe from its standard output, if the spec said "pipe"."""
        return cast("BinaryIO | None", self._stream("stdout"))

    @property
    def stderr(self) -> BinaryIO | None:
        """The pipe from its standard error, if the spec said "pipe"."""
        return cast("BinaryIO | None", self._stream("stderr"))

    # -- what can be done with it --------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until all of it has ended, and return the exit code of its command (None if unknown).

        Raises:
            DeadlineExceeded: it goes on after ``timeout`` seconds; also a `TimeoutError`.
        """
        self._supervisor.wait(self._managed, timeout)
        return self.exit_code

    def stop(self, grace: float | None = None) -> None:
        """End it politely, by force after ``grace`` seconds (by default those of its spec). Returns when it has ended.

        What has ended already is success. If this process dies here, the shim goes on and ends the tree.

        Raises:
            DeadlineExceeded: it was killed and is still there (a process in uninterruptible sleep); it stays on record as
                STOPPING, and ends when the kernel lets go.
        """
        self._supervisor.stop(self._managed, "stopped by its owner", grace=grace)

    def kill(self) -> None:
        """End it by force at once. Otherwise as `stop`."""
        self._supervisor.stop(self._managed, "killed by its owner", force=True)

    @property
    def main(self) -> Identity | None:
        """The identity of its command, by which it can be signalled safely; None if it has none on this machine."""
        handle = self._managed.handle
        here = handle is not None and getattr(self._managed.driver, "has_pids", True)
        pair = handle.data.get("main") if handle is not None and here else None
        return None if handle is None or pair is None else Identity(handle.data["boot"], *pair[:2])

    def inside(self, argv: Sequence[str], env: Mapping[str, str | None] | None = None) -> list[str]:
        """Return the command that runs ``argv`` in it, activated, with ``env`` on top. Raises SpecError if it is no environment."""
        driver, handle = self._managed.driver, self._managed.handle
        if handle is None or not isinstance(driver, HasInside):
            raise SpecError(f"nothing can run in {self.name}: it is of kind {self.kind}, which is no environment")
        return driver.inside(handle, argv, env)

    def exec(
        self,
        argv: Sequence[str],
        *,
        input: str | bytes = b"",  # noqa: A002 - as in subprocess.run
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        workdir: str | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Execute a command in a container that runs, and wait for it; as `subprocess.run` with its output captured as text.

        Args:
            argv: the command and its arguments.
            input: what it reads from standard input.
            env: variables beside those of the container.
            user: by default the container's.
            workdir: by default the container's.
            timeout: seconds; after that it goes on in the container, and ends with that.
            check: raise if it does not end with 0.

        Raises:
            SpecError: nothing can be executed in this kind.
            Gone: it has ended.
            subprocess.CalledProcessError: with ``check``.
            DeadlineExceeded: it goes on after ``timeout`` seconds.
        """
        if isinstance(argv, str | bytes):
            raise SpecError(f"argv must be a list of arguments, not one string: {argv!r}")
        driver, handle = self._usable(CanExecute, "nothing can be executed in it")
        sent = input.encode() if isinstance(input, str) else input
        said = driver.execute(
            handle, list(argv), env=env or {}, user=user, workdir=workdir, sent=sent, timeout_s=timeout
        )
        code, output, errors = said[0], said[1].decode(errors="replace"), said[2].decode(errors="replace")
        if check and code != 0:
            raise subprocess.CalledProcessError(-1 if code is None else code, list(argv), output, errors)
        return subprocess.CompletedProcess(list(argv), -1 if code is None else code, output, errors)

    def copy_in(self, source: bytes | str | os.PathLike[str], path: str) -> None:
        """Copy a file or folder of this machine, or content as bytes, to a path of a container. Raises SpecError, Gone, OSError."""
        driver, handle = self._usable(CanCopy, "nothing can be copied into it")
        driver.copy_in(handle, source, path)

    def copy_out(self, path: str, target: str | os.PathLike[str]) -> None:
        """Copy a file or folder of a container to a path of this machine. Raises SpecError, Gone, NotFound, OSError."""
        driver, handle = self._usable(CanCopy, "nothing can be copied out of it")
        driver.copy_out(handle, path, Path(target))

    def _usable(self, ability: type[Any], otherwise: str) -> tuple[Any, Handle]:
        driver, handle = self._managed.driver, self._managed.handle
        if not isinstance(driver, ability):
            raise SpecError(f"{self.name} is of kind {self.kind}: {otherwise}")
        if handle is None or self.state.is_final:
            raise Gone(f"resource {self.name} has ended ({self.reason or self.state.value})")
        return driver, handle

    def send_signal(self, signum: int, to: Literal["main", "group", "tree"] = "main") -> None:
        """Send it a signal; what has ended is left alone.

        Args:
            signum: the signal.
            to: "main" for its command, "group" for the command's process group, "tree" for every process of it.

        Raises:
            SpecError: there is no such signal or no such part of it, or this kind can't be sent signals.
        """
        if signum not in signal.valid_signals():
            raise SpecError(f"cannot signal {self.name}: {signum!r} is no signal")
        if to not in ("main", "group", "tree"):
            raise SpecError(f"cannot signal {self.name}: to={to!r} is not known; use one of 'main', 'group', 'tree'")
        driver, handle = self._managed.driver, self._managed.handle
        if not isinstance(driver, CanSignal):
            raise SpecError(f"{self.name} is of kind {self.kind}: it can't be sent signals")
        if handle is not None and not self.state.is_final:
            driver.signal(handle, signum, to)

    def resume(self) -> None:
        """Continue it, should a signal have stopped it (SIGCONT). What has ended, or can't be stopped, is left alone."""
        driver, handle = self._managed.driver, self._managed.handle
        if handle is not None and not self.state.is_final and isinstance(driver, CanPause):
            driver.resume(handle)

    def restart(self) -> None:
        """Stop it and start it again, under the same name and id. Returns when it is ready; raises StartError."""
        self._supervisor.restart(self._managed, None, _silent)
