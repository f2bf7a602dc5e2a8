"""What a user holds of a resource."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self, cast

from tether.errors import DeadlineExceeded, Gone, SpecError
from tether.life.driver import CanCopy, CanExecute, CanPause, CanSignal, HasInside, HasStreamsApart
from tether.life.managed import Managed
from tether.life.supervisor import Supervisor
from tether.linux import signals
from tether.listeners import Listener
from tether.model import Handle, Identity, OnDeath, Progress, State, Usage, silent
from tether.owner import conversation, following, show

__all__ = ["Resource"]


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise SpecError(f"{name}={value!r} is not known; use one of {', '.join(map(repr, allowed))}")


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
            stream: only what went to one of the two: of a container, and of a process with ``stderr="own-log"``, whose standard
                error comes last without this.

        Raises:
            SpecError: the two are not kept apart.
        """
        if stream is None:
            return self._managed.log(tail)
        driver, handle = self._managed.driver, self._managed.handle
        if not isinstance(driver, HasStreamsApart):
            raise SpecError(f"{self.name} is of kind {self.kind}, whose standard output and error are not kept apart")
        return "" if handle is None else driver.read_stream(handle, stream, tail).decode(errors="replace")

    def lines(self, *, follow: bool = False, tail: int | None = None) -> following.Lines:
        """Return an iterator of the lines of its output, without their ends: of what `logs` returns. It may be closed early.

        Args:
            follow: go on with what is written, until all of it has ended; of one that is restarted, until its end before that.
            tail: begin with so many lines; None for all.

        Raises:
            SpecError: its output goes to a pipe, which is there to be read.
        """
        if "stdout" in self._managed.streams:
            raise SpecError(f"the output of {self.name} goes to a pipe: read its stdout, or start it with stdout='log'")
        return following.lines(self._managed, follow=follow, tail=tail)

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
    def stdin(self) -> IO[Any] | None:
        """The pipe to its standard input, if the spec said "pipe"."""
        return cast("IO[Any] | None", self._stream("stdin"))

    @property
    def stdout(self) -> IO[Any] | None:
        """The pipe from its standard output, if the spec said "pipe"."""
        return cast("IO[Any] | None", self._stream("stdout"))

    @property
    def stderr(self) -> IO[Any] | None:
        """The pipe from its standard error, if the spec said "pipe"."""
        return cast("IO[Any] | None", self._stream("stderr"))

    # -- what can be done with it --------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None, *, of: Literal["tree", "main"] = "tree") -> int | None:
        """Wait until all of it has ended, and return the exit code of its command (None if unknown).

        Args:
            timeout: seconds; None for as long as it takes.
            of: "main" waits for the command alone, as `subprocess` does: what that left behind may go on.

        Raises:
            DeadlineExceeded: it goes on after ``timeout`` seconds; also a `TimeoutError`.
            Gone: its owner was shut down, and left it to the next one.
        """
        _check("of", of, ("tree", "main"))
        return self._supervisor.wait(self._managed, timeout, of=of).exit_code

    def communicate(
        self,
        input: str | bytes | None = None,  # noqa: A002 - as in subprocess
        timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """Send ``input`` to its standard input, read its pipes until they end, and wait for its command; as `subprocess` does.

        What was read by way of ``stdout`` or ``stderr`` before is not told again.

        Args:
            input: what it reads; text if its pipes are, else bytes. Its standard input is closed after that.
            timeout: seconds. After that it may be called again, without ``input``, and nothing of the output is lost.

        Returns:
            What came from standard output and error; None for what is no pipe.

        Raises:
            DeadlineExceeded: it goes on after ``timeout`` seconds; it is not ended.
            SpecError: there is no pipe for ``input``, or its pipes are not of this machine.
        """
        self._managed.check_owned()
        deadline = None if timeout is None else time.monotonic() + timeout
        going = conversation.of(self._managed)
        try:
            going.proceed(input, deadline)
        except DeadlineExceeded:
            raise DeadlineExceeded(f"the output of {self.name} has not ended after {timeout:g} s") from None
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()), of="main")
        return going.heard("stdout"), going.heard("stderr")

    def poll(self) -> int | None:
        """Return the exit code of its command, without waiting; None while that runs, as with `subprocess.Popen`."""
        return self.exit_code

    def send_signal(self, sig: int, to: Literal["main", "group", "tree"] = "main") -> None:
        """Send a signal to its command, to that with its process group, or to every process of it.

        What has ended already is left alone, as by `subprocess.Popen`. It ends by a signal as by itself: `stop` and `kill` are what
        ends it in order.

        Raises:
            SpecError: its kind takes no signals, or there is no such signal.
            PermissionError: its command is another user's by now.
        """
        _check("to", to, ("main", "group", "tree"))
        if sig and sig not in signal.valid_signals():
            raise SpecError(f"{sig!r} is no signal, so that none was sent to {self.name}")
        self._managed.check_owned()
        driver, handle, main = self._managed.driver, self._managed.handle, self.main
        if not isinstance(driver, CanSignal):
            raise SpecError(f"{self.name} is of kind {self.kind}, which takes no signals")
        if handle is None or self.state.is_final or (to == "main" and self.exit_code is not None):
            return
        if to == "main" and main is not None:
            # At once, and with the kernel's answer.
            signals.send(main.pid, main.start, sig)
        else:
            driver.signal(handle, sig, to)

    def on_end(self, listener: Callable[[], object], *, of: Literal["tree", "main"] = "tree") -> Callable[[], None]:
        """Have ``listener`` called once when all of it has ended, soon if it has; the function that is returned ends that.

        With ``of="main"`` when its command has ended, whatever that left behind.
        It takes no thread to wait so. It is called as those of `Owner.on_change` are, and may start, stop or restart resources.
        """
        _check("of", of, ("tree", "main"))
        called = Listener(listener)
        forget = self._managed.on_end(partial(self._supervisor.telemetry.listeners.call, called), of=of)

        def leave() -> None:
            called.leave()
            forget()

        return leave

    def stop(self, grace: float | None = None) -> None:
        """End it politely, by force after ``grace`` seconds (by default those of its spec). Returns when it has ended.

        What has ended already is success. If this process dies here, the shim goes on and ends the tree.

        Raises:
            DeadlineExceeded: it was killed and is still there (a process in uninterruptible sleep); it stays on record as
                STOPPING, and ends when the kernel lets go.
            Gone: its owner was shut down, and left it to the next one.
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
        self._managed.check_owned()
        if not isinstance(driver, ability):
            raise SpecError(f"{self.name} is of kind {self.kind}: {otherwise}")
        if handle is None or self.state.is_final:
            raise Gone(f"resource {self.name} has ended ({self.reason or self.state.value})")
        return driver, handle

    def resume(self) -> None:
        """Continue it, should a signal have stopped it (SIGCONT). What has ended, or can't be stopped, is left alone."""
        self._managed.check_owned()
        driver, handle = self._managed.driver, self._managed.handle
        if handle is not None and not self.state.is_final and isinstance(driver, CanPause):
            driver.resume(handle)

    def restart(self, *, on_progress: Progress | None = None) -> None:
        """Stop it and start it again, under the same name and id, on the same port. Returns when it is ready.

        One restart comes after the other; a `stop` or `kill` beside it holds. ``on_progress`` is called with a line of text
        whenever there is something new to say.

        Raises:
            SpecError, ExecError, LedgerError: it can't be started again (its program has gone, the ledger can't be written):
                it was not ended, and goes on.
            StartError: it did not come up again.
            Gone: it was stopped meanwhile, or its owner shut down, and stays so.
        """
        self._supervisor.restart(self._managed, None, on_progress or silent)
