"""tether for asyncio: the same names, each call awaited.

The work is done in threads, since most of it is waiting in the kernel that another thread does already; the event loop is never
blocked. A call that is cancelled goes on in its thread: what it started belongs to the owner all the same, and ends
with it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self, overload

from tether import notices
from tether.estate.strays import Rule
from tether.ledger.store import EventRow
from tether.model import OnDeath, Spec, State, Usage
from tether.notices import Notice
from tether.owner import owner as sync
from tether.owner import resource as sync_resource
from tether.owner.job import Watched

__all__ = ["Owner", "Resource", "Watch"]


class Resource:
    """See `tether.Resource`. What only tells is a plain attribute; what takes time is awaited."""

    def __init__(self, resource: sync_resource.Resource) -> None:
        self._resource = resource

    def __repr__(self) -> str:
        return repr(self._resource)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def id(self) -> str:
        """See `tether.Resource.id`."""
        return self._resource.id

    @property
    def name(self) -> str:
        """See `tether.Resource.name`."""
        return self._resource.name

    @property
    def kind(self) -> str:
        """See `tether.Resource.kind`."""
        return self._resource.kind

    @property
    def state(self) -> State:
        """See `tether.Resource.state`."""
        return self._resource.state

    @property
    def on_death(self) -> OnDeath:
        """See `tether.Resource.on_death`."""
        return self._resource.on_death

    @property
    def reason(self) -> str:
        """See `tether.Resource.reason`."""
        return self._resource.reason

    @property
    def exit_code(self) -> int | None:
        """See `tether.Resource.exit_code`."""
        return self._resource.exit_code

    @property
    def url(self) -> str | None:
        """See `tether.Resource.url`."""
        return self._resource.url

    @property
    def pid(self) -> int | None:
        """See `tether.Resource.pid`."""
        return self._resource.pid

    @property
    def spec(self) -> Any:
        """See `tether.Resource.spec`."""
        return self._resource.spec

    @property
    def details(self) -> dict[str, Any]:
        """See `tether.Resource.details`."""
        return self._resource.details

    def inside(self, argv: Sequence[str], env: Mapping[str, str | None] | None = None) -> list[str]:
        """See `tether.Resource.inside`."""
        return self._resource.inside(argv, env)

    async def exec(self, argv: Sequence[str], **more: Any) -> subprocess.CompletedProcess[str]:
        """See `tether.Resource.exec`."""
        return await asyncio.to_thread(self._resource.exec, argv, **more)

    async def copy_in(self, source: bytes | str | os.PathLike[str], path: str) -> None:
        """See `tether.Resource.copy_in`."""
        await asyncio.to_thread(self._resource.copy_in, source, path)

    async def copy_out(self, path: str, target: str | os.PathLike[str]) -> None:
        """See `tether.Resource.copy_out`."""
        await asyncio.to_thread(self._resource.copy_out, path, target)

    async def pids(self) -> list[int]:
        """See `tether.Resource.pids`."""
        return await asyncio.to_thread(self._resource.pids)

    async def usage(self) -> Usage:
        """See `tether.Resource.usage`."""
        return await asyncio.to_thread(self._resource.usage)

    async def logs(self, tail: int | None = None) -> str:
        """See `tether.Resource.logs`."""
        return await asyncio.to_thread(self._resource.logs, tail)

    async def info(self) -> dict[str, Any]:
        """See `tether.Resource.info`."""
        return await asyncio.to_thread(self._resource.info)

    async def send_signal(self, signum: int, to: Literal["main", "group", "tree"] = "main") -> None:
        """See `tether.Resource.send_signal`."""
        await asyncio.to_thread(self._resource.send_signal, signum, to)

    async def wait(self, timeout: float | None = None) -> int | None:  # noqa: ASYNC109 - the same names as tether.Resource
        """See `tether.Resource.wait`."""
        return await asyncio.to_thread(self._resource.wait, timeout)

    async def stop(self, grace: float | None = None) -> None:
        """See `tether.Resource.stop`."""
        await asyncio.to_thread(self._resource.stop, grace)

    async def kill(self) -> None:
        """See `tether.Resource.kill`."""
        await asyncio.to_thread(self._resource.kill)

    async def restart(self) -> None:
        """See `tether.Resource.restart`."""
        await asyncio.to_thread(self._resource.restart)


class Watch(notices.Watch):
    """See `tether.notices.Watch`: an asynchronous iterator of events, in the event loop that made it."""

    def __init__(self, end: Callable[[notices.Watch], None]) -> None:
        super().__init__(end)
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Notice | None] = asyncio.Queue()

    def put(self, notice: Notice | None) -> None:
        """Take in a notice, in whatever thread it happens; None for the end."""
        # A loop that was closed hears of nothing more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, notice)

    def __aiter__(self) -> AsyncIterator[Notice]:
        return self

    async def __anext__(self) -> Notice:
        notice = None if self._over else await self._queue.get()
        if notice is None:
            self._over = True
            raise StopAsyncIteration
        return notice

    def close(self) -> None:
        """End it; who waits for the next event hears that there is none."""
        self._end(self)
        self.put(None)


class Owner:
    """See `tether.Owner`. Made like it; used with ``async with``."""

    def __init__(
        self,
        name: str,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        on_death: OnDeath = "kill",
        strays: Rule = "warn",
    ) -> None:
        self._owner = sync.Owner(name, state_dir=state_dir, on_death=on_death, strays=strays)

    def __repr__(self) -> str:
        return repr(self._owner)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    @property
    def name(self) -> str:
        """See `tether.Owner`."""
        return self._owner.name

    @property
    def id(self) -> str:
        """See `tether.Owner`."""
        return self._owner.id

    @property
    def resources(self) -> list[Resource]:
        """See `tether.Owner.resources`."""
        return [Resource(resource) for resource in self._owner.resources]

    @property
    def plugins(self) -> dict[str, Any]:
        """See `tether.Owner.plugins`."""
        return self._owner.plugins

    async def start(self, spec: Spec, *, on_progress: Callable[[str], None] | None = None) -> Resource:
        """See `tether.Owner.start`. ``on_progress`` is called in the event loop."""
        loop = asyncio.get_running_loop()

        def progress(text: str) -> None:
            if on_progress is not None:
                loop.call_soon_threadsafe(on_progress, text)

        return Resource(await asyncio.to_thread(self._owner.start, spec, on_progress=progress))

    async def adopt(self, name: str) -> Resource:
        """See `tether.Owner.adopt`."""
        return Resource(await asyncio.to_thread(self._owner.adopt, name))

    async def register(
        self,
        plugin: Any = None,
        *,
        name: str | None = None,
        pids: Callable[[], Iterable[int]] | Iterable[int] | None = None,
        cleanup: Callable[[], object] | None = None,
    ) -> Any:
        """See `tether.Owner.register`."""
        return await asyncio.to_thread(self._owner.register, plugin, name=name, pids=pids, cleanup=cleanup)

    async def unregister(self, plugin: Any) -> None:
        """See `tether.Owner.unregister`."""
        await asyncio.to_thread(self._owner.unregister, plugin)

    def on_change(self, listener: Callable[[Notice], object]) -> Callable[[], None]:
        """See `tether.Owner.on_change`. ``listener`` is called in the event loop."""
        loop = asyncio.get_running_loop()

        def listen(notice: Notice) -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(listener, notice)

        return self._owner.on_change(listen)

    @overload
    def watch(self, process: None = None) -> Watch: ...

    @overload
    def watch(self, process: Any, *, name: str | None = None, grace: float = 5.0) -> Awaitable[Watched]: ...

    def watch(self, process: Any = None, *, name: str | None = None, grace: float = 5.0) -> Watch | Awaitable[Watched]:
        """See `tether.Owner.watch`: ``async for notice in owner.watch()``, or ``await owner.watch(process)``."""
        if process is None:
            return self._owner.telemetry.join(Watch(self._owner.telemetry.forget))
        return asyncio.to_thread(self._owner.watch, process, name=name, grace=grace)

    async def pids(self) -> list[int]:
        """See `tether.Owner.pids`."""
        return await asyncio.to_thread(self._owner.pids)

    async def status(self) -> dict[str, Any]:
        """See `tether.Owner.status`."""
        return await asyncio.to_thread(self._owner.status)

    async def events(self, *, last: int | None = None) -> list[EventRow]:
        """See `tether.Owner.events`."""
        return await asyncio.to_thread(self._owner.events, last=last)

    async def shutdown(self, grace: float | None = None) -> None:
        """See `tether.Owner.shutdown`."""
        await asyncio.to_thread(self._owner.shutdown, grace)
