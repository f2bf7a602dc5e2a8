"""What a user holds of a resource, in the loop."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast

from tether.aio import loops
from tether.aio.beginning import Beginning
from tether.aio.threads import ask, begin_end, finish, outcome
from tether.aio.watch import in_loop
from tether.errors import DeadlineExceeded
from tether.model import Identity, OnDeath, State, Usage
from tether.owner import resource as sync

if TYPE_CHECKING:
    # It imports anyio where that is installed, which is for whoever has pipes.
    from tether.aio.streams import ReceiveStream, SendStream

__all__ = ["Resource"]

_S = TypeVar("_S")


def _ignore(_: object) -> None:
    return None


class Resource:
    """One external thing that an owner started, or adopted. What only tells is a plain attribute; what takes time is awaited.

    As ``async with`` it stops at the end of the block, also if the task is cancelled there.

    Cancellation: a `wait` that is cancelled leaves nothing behind. An end that is cancelled goes on. A restart that is cancelled
    ends the resource before it raises. A question (`exec`, `logs`, ...) that is cancelled goes on, and nobody hears the answer.
    """

    def __init__(self, resource: sync.Resource) -> None:
        self._resource = resource
        self._streams: dict[str, Any] = {}

    def __repr__(self) -> str:
        return repr(self._resource)

    def _repr_html_(self) -> str:
        return self._resource._repr_html_()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await finish(self._resource.stop)

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Its tag, unique for ever."""
        return self._resource.id

    @property
    def name(self) -> str:
        """Its name, unique among the live resources of its owner."""
        return self._resource.name

    @property
    def kind(self) -> str:
        """The kind of its driver."""
        return self._resource.kind

    @property
    def spec(self) -> Any:
        """What it was started from; of one that was adopted, what was recorded of that."""
        return self._resource.spec

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self._resource.state

    @property
    def on_death(self) -> OnDeath:
        """What becomes of it when its owner dies: its spec's rule, or its owner's."""
        return self._resource.on_death

    @property
    def reason(self) -> str:
        """Why it is in this state, in words; empty where that goes without saying."""
        return self._resource.reason

    @property
    def exit_code(self) -> int | None:
        """The exit code of its command, negative for a signal; None while it runs, and where it is not known."""
        return self._resource.exit_code

    @property
    def url(self) -> str | None:
        """Where it answers; None if it has no port."""
        return self._resource.url

    @property
    def pid(self) -> int | None:
        """The pid of its command; None if it has ended, or has none on this machine."""
        return self._resource.pid

    @property
    def main(self) -> Identity | None:
        """The identity of its command, by which it can be signalled safely; None if it has none on this machine."""
        return self._resource.main

    @property
    def details(self) -> dict[str, Any]:
        """What its driver tells of it beside what all do, as part of `info`: ``container_id``, ``conda_env``, ..."""
        return self._resource.details

    async def pids(self) -> list[int]:
        """Return its live processes on this machine: the command first, then every descendant, each once."""
        return await ask(self._resource.pids)

    async def usage(self) -> Usage:
        """Say what it uses now; all of it None once it has ended."""
        return await ask(self._resource.usage)

    async def logs(self, tail: int | None = None, *, stream: Literal["stdout", "stderr"] | None = None) -> str:
        """Return its output, or the last ``tail`` lines of it; empty if it goes elsewhere.

        Args:
            tail: how many lines; None for all.
            stream: of a container, only what went to one of the two.

        Raises:
            SpecError: the two are not kept apart for this kind.
        """
        return await ask(self._resource.logs, tail, stream=stream)

    async def lines(self, *, follow: bool = False, tail: int | None = None) -> AsyncIterator[str]:
        """Yield the lines of its output, without their ends, with ``follow`` until all of it has ended: ``async for``.

        Args:
            follow: go on with what is written. To wait for that takes no thread where its output is a log of this machine.
            tail: begin with so many lines; None for all.

        Raises:
            SpecError: its output goes to a pipe, which is there to be read.
        """
        with self._resource.lines(follow=follow, tail=tail) as reading:
            while (found := await ask(reading.take)) is not None:
                for line in found:
                    yield line
                if found:
                    continue
                if reading.fd is None:
                    await ask(reading.wait)
                else:
                    await loops.current().readable(reading.fd)

    async def info(self) -> dict[str, Any]:
        """Return all of the above, ready for JSON and without secrets."""
        return await ask(self._resource.info)

    # -- its pipes -----------------------------------------------------------------------------------------------------

    @property
    def stdin(self) -> SendStream | None:
        """The pipe to its standard input, if the spec said "pipe". Of one that was restarted, another one."""
        from tether.aio.streams import SendStream

        return self._stream("stdin", SendStream)

    @property
    def stdout(self) -> ReceiveStream | None:
        """The pipe from its standard output, if the spec said "pipe". Of one that was restarted, another one."""
        from tether.aio.streams import ReceiveStream

        return self._stream("stdout", ReceiveStream)

    @property
    def stderr(self) -> ReceiveStream | None:
        """The pipe from its standard error, if the spec said "pipe". Of one that was restarted, another one."""
        from tether.aio.streams import ReceiveStream

        return self._stream("stderr", ReceiveStream)

    def _stream(self, name: str, kind: Callable[[Any], _S]) -> _S | None:
        file = getattr(self._resource, name)
        if file is None:
            return None
        known = self._streams.get(name)
        if known is None or known.file is not file:
            known = self._streams[name] = kind(file)
        return cast("_S", known)

    # -- what can be done with it --------------------------------------------------------------------------------------

    async def wait(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - the same names as tether.Resource
        *,
        of: Literal["tree", "main"] = "tree",
    ) -> int | None:
        """Wait until all of it has ended, and return the exit code of its command (None if unknown). Takes no thread.

        With ``of="main"`` until its command has ended: what that left behind may go on.

        Raises:
            DeadlineExceeded: it goes on after ``timeout`` seconds; also a `TimeoutError`.
            Gone: its owner was shut down, and left it to the next one.
        """
        loop, managed = loops.current(), self._resource._managed  # noqa: SLF001
        event = loop.event()
        ended, exit_code = False, None

        def end() -> None:
            # Now: another task may restart it before the loop comes to hear of it.
            nonlocal ended, exit_code
            ended, exit_code = not managed.is_left, self.exit_code
            loop.call(event.set)

        forget = managed.on_end(end, of=of, waits=True)
        try:
            await loop.wait(event, timeout)
        finally:
            forget()
        # It may have ended before the loop came to hear of it.
        if not ended:
            managed.check_owned()
            raise DeadlineExceeded(f"resource {self.name} is still {self.state.value} after {timeout:g} s")
        return exit_code

    def on_end(self, listener: Callable[[], object], *, of: Literal["tree", "main"] = "tree") -> Callable[[], None]:
        """Have ``listener`` called once, in the loop, when all of it has ended, or its command alone; soon if it has.

        Returns:
            What ends that; it may be called twice.
        """
        return self._resource._managed.on_end(in_loop(loops.current(), listener), of=of)  # noqa: SLF001

    def poll(self) -> int | None:
        """Return the exit code of its command; None while that runs."""
        return self._resource.poll()

    def send_signal(self, sig: int, to: Literal["main", "group", "tree"] = "main") -> None:
        """Send a signal to its command, to that with its process group, or to every process of it. See `tether.Resource`."""
        self._resource.send_signal(sig, to)

    async def communicate(
        self,
        input: str | bytes | None = None,  # noqa: A002 - as in subprocess
        timeout: float | None = None,  # noqa: ASYNC109 - the same names as tether.Resource
    ) -> tuple[Any, Any]:
        """Send ``input``, read its pipes until they end, and wait for its command. See `tether.Resource.communicate`.

        One that is cancelled goes on, in a thread of its own; what it hears is told by the next call.
        """
        return await ask(self._resource.communicate, input, timeout)

    async def stop(self, grace: float | None = None) -> None:
        """End it politely, by force after ``grace`` seconds (by default those of its spec). Returns when it has ended.

        What has ended already is success. It waits for no other call of yours; if it is cancelled, the end goes on.

        Raises:
            DeadlineExceeded: it was killed and is still there (a process in uninterruptible sleep); it stays on record as
                STOPPING, and ends when the kernel lets go.

        Crash:
            The shim goes on and ends the tree.
        """
        await outcome(begin_end(self._resource.stop, grace))

    async def kill(self) -> None:
        """End it by force at once. Otherwise as `stop`."""
        await outcome(begin_end(self._resource.kill))

    async def resume(self) -> None:
        """Continue it, should a signal have stopped it (SIGCONT). What has ended, or can't be stopped, is left alone."""
        await ask(self._resource.resume)

    async def restart(self, *, on_progress: Callable[[str], object] | None = None) -> None:
        """Stop it and start it again, under the same name and id. Returns when it is ready; raises StartError.

        ``on_progress`` is called in the loop with a line of text whenever there is something new to say. If it is cancelled, the
        resource is ended by force before that is raised.
        """
        told = in_loop(loops.current(), on_progress or _ignore)
        beginning = Beginning(told, self._resource)
        await beginning.done(lambda: self._resource.restart(on_progress=beginning.say))

    def inside(self, argv: Sequence[str], env: Mapping[str, str | None] | None = None) -> list[str]:
        """Return the command that runs ``argv`` in it, activated, with ``env`` on top. Raises SpecError if it is no environment."""
        return self._resource.inside(argv, env)

    async def exec(
        self,
        argv: Sequence[str],
        *,
        input: str | bytes = b"",  # noqa: A002 - as in subprocess.run
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        workdir: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the same names as tether.Resource
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
        return await ask(
            self._resource.exec,
            argv,
            input=input,
            env=env,
            user=user,
            workdir=workdir,
            timeout=timeout,
            check=check,
        )

    async def copy_in(self, source: bytes | str | os.PathLike[str], path: str) -> None:
        """Copy a file or folder of this machine, or content as bytes, to a path of a container. Raises SpecError, Gone, OSError."""
        await ask(self._resource.copy_in, source, path)

    async def copy_out(self, path: str, target: str | os.PathLike[str]) -> None:
        """Copy a file or folder of a container to a path of this machine. Raises SpecError, Gone, NotFound, OSError."""
        await ask(self._resource.copy_out, path, target)
