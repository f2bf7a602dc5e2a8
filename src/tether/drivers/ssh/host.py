"""The one connection to a host that all its resources share: requests, events, leases, forwarded ports; and when it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tether.drivers.ssh import logins
from tether.drivers.ssh.agent import Far, FarError, Hello
from tether.drivers.ssh.forward import Forward, refusal
from tether.drivers.ssh.where import Where
from tether.errors import DriverUnavailable
from tether.guard.wire import Kind, Message

if TYPE_CHECKING:
    import asyncssh

__all__ = ["Host", "Loop"]

_T = TypeVar("_T")
_log = logging.getLogger("tether")

_CLOSE_S = 15.0
_CONNECTING_AT_ONCE = 64
_ANSWER_S = 30.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 15.0
_RENEWALS = 3
_IDLE_S = 10.0
_PIECE_LEAST, _PIECE_FIRST, _PIECE_MOST = 8 << 10, 32 << 10, 256 << 10
_PIECE_FAST_S, _PIECE_SLOW_S = 0.1, 0.5


class Loop:
    """An event loop in a thread of its own, begun when it is first needed.

    Attributes:
        connecting: how many hosts may be connected to at once; so many that some dead ones keep nobody waiting.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.connecting = asyncio.Semaphore(_CONNECTING_AT_ONCE)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(self._loop,), name="tether-ssh", daemon=True)
                self._thread.start()
            return self._loop

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine there, and return what it returns; an interrupt cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join(_CLOSE_S)
                self._loop = None


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


@dataclass
class _Held:
    """A resource whose lease is renewed."""

    lease: float
    fence: int


class Host:
    """One host. Its coroutines run in the loop's thread.

    Args:
        where: how it is reached.
        connecting: limits how many are connected to at once.
        event: called with each event from there.
        lost: called with the reason when the connection has broken.
        back: called when there is one again after that.
        gone: asked after each attempt to get it back that failed: whether the host is gone for ever, and with it what was held.
    """

    def __init__(
        self,
        where: Where,
        connecting: asyncio.Semaphore,
        event: Callable[[Message], None],
        lost: Callable[[str], None],
        back: Callable[[], None],
        gone: Callable[[], bool],
    ) -> None:
        self.where = where
        self._gate = connecting
        self.hello: Hello | None = None
        self.forwarding_refused: str | None = None
        self._event, self._lost, self._back, self._gone = event, lost, back, gone
        self._connection: asyncssh.SSHClientConnection | None = None
        self._far: Far | None = None
        self._connecting: asyncio.Task[Far] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._held: dict[str, _Held] = {}
        self._changed = asyncio.Event()
        self._renewing: asyncio.Task[None] | None = None
        self._ports: dict[str, tuple[int, int]] = {}
        self._forwards: dict[str, Forward] = {}
        self._bulk = asyncio.Lock()
        self._piece = _PIECE_FIRST

    # -- the connection ------------------------------------------------------------------------------------------------

    async def call(self, kind: Kind, *, within: float = _ANSWER_S, **fields: Any) -> Message:
        """Have one thing done there, over a connection that is made if there is none.

        Args:
            kind: what.
            within: seconds that the connection may be silent meanwhile.
            fields: of the message.

        Raises:
            FarError: it was refused there.
            DriverUnavailable: the host does not answer.
        """
        far = await self.reach()
        import asyncssh

        try:
            return await far.call(kind, within, **fields)
        except (OSError, TimeoutError, asyncssh.Error) as error:
            self._drop(far, f"host {self.where} does not answer: {_in_words(error)}")
            raise DriverUnavailable(f"host {self.where} does not answer: {_in_words(error)}") from error

    async def log(self, tag: str, offset: int, most: int) -> tuple[int, int, bytes]:
        """Fetch a piece of a log: one at a time of all logs, so small that nothing else waits for it for long.

        Args:
            tag: whose.
            offset: where it begins; counted from the end if it is negative.
            most: bytes at most.

        Returns:
            Where it begins, how long the log is, and the bytes.

        Raises: as `call`.
        """
        async with self._bulk:
            began = asyncio.get_running_loop().time()
            size = min(most, self._piece)
            got = await self.call(Kind.LOG, tag=tag, offset=offset, size=size)
            took = asyncio.get_running_loop().time() - began
            if took > _PIECE_SLOW_S:
                self._piece = max(_PIECE_LEAST, self._piece // 2)
            elif took < _PIECE_FAST_S and size == self._piece:
                self._piece = min(_PIECE_MOST, self._piece * 2)
        return got.number("offset") or 0, got.number("size") or 0, b"".join(got.fields.get("data", ()))

    async def reach(self) -> Far:
        """Return the far side, connected to if need be; all who wait for a connection share one attempt, and its failure.

        Raises:
            DriverUnavailable: the host can't be reached, or nothing can be started there.
        """
        if self._far is not None and self._connection is not None and self._connection.is_closed():
            self._drop(self._far, f"host {self.where}: the connection was closed")
        if self._far is not None:
            return self._far
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect())
            self._connecting.add_done_callback(self._connected)
        return await asyncio.shield(self._connecting)

    def _connected(self, task: asyncio.Task[Far]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()

    async def _connect(self) -> Far:
        import asyncssh

        where = self.where
        try:
            async with self._gate:
                connection = await asyncssh.connect(where.host, **logins.options(where))
        except asyncssh.HostKeyNotVerifiable as error:
            raise DriverUnavailable(
                f"host {where}: its host key is not the known one, or none is known ({error.reason}); compare it, and add it "
                "with ssh-keyscan to known_hosts"
            ) from error
        except asyncssh.PermissionDenied as error:
            raise DriverUnavailable(
                f"host {where} refused the login of {where.user or 'this user'}: {error.reason}; check user= and key=, or the agent"
            ) from error
        except (OSError, asyncssh.Error, asyncssh.KeyImportError, ValueError) as error:
            raise DriverUnavailable(f"host {where} can't be reached: {_in_words(error)}") from error
        try:
            far = await Far.start(connection, str(where), where.connect_timeout, self._event)
        except BaseException as error:
            connection.abort()
            if isinstance(error, TimeoutError):
                raise DriverUnavailable(
                    f"host {where}: its login said nothing for {where.connect_timeout:g} s; see what its shell does at a login, "
                    "or give connect_timeout="
                ) from error
            if isinstance(error, OSError | asyncssh.Error | ValueError):
                raise DriverUnavailable(f"host {where}: nothing can be started there: {_in_words(error)}") from error
            raise
        self._connection, self._far = connection, far
        self.hello, self.forwarding_refused = far.hello, None
        self._spawn(self._listen(far))
        for tag, (inside, outside) in list(self._ports.items()):
            with contextlib.suppress(OSError, asyncssh.Error):
                await self._forward(tag, inside, outside)
        return far

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, far: Far) -> None:
        said = "the connection was closed"
        try:
            await far.listen()
        except Exception as error:
            said = _in_words(error)
        self._drop(far, f"host {self.where}: {said}")

    def _drop(self, far: Far, reason: str) -> None:
        """The connection is of no use any more; what is held is tried to be reached again."""
        if self._far is not far:
            return
        connection, self._connection, self._far = self._connection, None, None
        for forward in self._forwards.values():
            forward.close()
        self._forwards.clear()
        if connection is not None:
            connection.abort()
        self._changed.set()
        if self._held:
            self._lost(reason)

    # -- leases --------------------------------------------------------------------------------------------------------

    def hold(self, tag: str, lease: float, fence: int) -> None:
        """Renew the lease of a resource from now on, three times in its time."""
        self._held[tag] = _Held(lease, fence)
        if lease <= _RENEWALS * self._every_s():
            self._changed.set()
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.ensure_future(self._renew())

    async def let_go(self, tag: str) -> None:
        """Renew it no more, and close its forwarded port."""
        self._held.pop(tag, None)
        self._ports.pop(tag, None)
        forward = self._forwards.pop(tag, None)
        if forward is not None:
            forward.close()

    def fence(self, tag: str) -> int | None:
        """Return the number of the ownership by which a resource is held from here; None if it is not."""
        held = self._held.get(tag)
        return held.fence if held is not None else None

    def _every_s(self) -> float:
        """How often what is held must be renewed."""
        return min((held.lease for held in self._held.values()), default=_IDLE_S) / _RENEWALS

    async def _renew(self) -> None:
        """Renew what is held, and get the connection back when it has broken, as long as anything is held."""
        now = asyncio.get_running_loop().time
        pause = _FIRST_PAUSE_S
        due = now() + self._every_s()
        while self._held:
            if self._far is not None and now() < due:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), due - now())
                # Something with a shorter lease may have come.
                due = min(due, now() + self._every_s())
                continue
            was_lost = self._far is None
            try:
                there = await self._renew_all()
            except DriverUnavailable as error:
                _log.debug("%s", error)
                if self._gone():
                    return
                await asyncio.sleep(min(pause, self._every_s()))
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            except FarError as error:
                _log.warning("host %s could not renew: %s", self.where, error.said)
                there = False
            pause = _FIRST_PAUSE_S
            due = now() + self._every_s()
            if was_lost or not there:
                self._back()

    async def _renew_all(self) -> bool:
        """Renew what is held, of one lease and fence after the other; False if not all of it is there. Raises as `call`."""
        groups: dict[tuple[float, int], list[str]] = {}
        for tag, held in self._held.items():
            groups.setdefault((held.lease, held.fence), []).append(tag)
        wanted, there = set(self._held), set[str]()
        for (lease, fence), tags in groups.items():
            fields = {"lease_ms": int(lease * 1000), "fence": fence, "tag": tags}
            there.update((await self.call(Kind.RENEW, within=self._every_s(), **fields)).texts("tag"))
        return wanted <= there | (wanted - set(self._held))

    # -- ports ---------------------------------------------------------------------------------------------------------

    async def why_not_forwarded(self, port: int) -> str:
        """Return why ports can't be forwarded to this host; empty if they can. Asked once a connection. Raises as `reach`."""
        await self.reach()
        if self.forwarding_refused is None and self._connection is not None:
            with contextlib.suppress(OSError):
                self.forwarding_refused = await refusal(self._connection, port)
        return self.forwarding_refused or ""

    def forward_refused(self, tag: str) -> str:
        """Return why the last connection through a forwarded port failed; empty if it did not."""
        forward = self._forwards.get(tag)
        return forward.refused if forward is not None else ""

    async def forward(self, tag: str, inside: int, outside: int = 0) -> int:
        """Forward a port of this machine (0 for a free one) to one there, and return it. Raises OSError."""
        await self.reach()
        return await self._forward(tag, inside, outside)

    async def _forward(self, tag: str, inside: int, outside: int) -> int:
        if self._connection is None:
            raise ConnectionResetError(f"host {self.where} was lost")
        forward = Forward(self._connection, inside)
        await forward.start(outside)
        self._forwards[tag] = forward
        self._ports[tag] = (inside, forward.port)
        return forward.port

    async def close(self) -> None:
        """Let go of everything there; what is there goes on until its lease is over."""
        self._held.clear()
        for forward in self._forwards.values():
            forward.close()
        connection, self._connection, self._far = self._connection, None, None
        for task in [*self._tasks, *([self._renewing] if self._renewing else [])]:
            task.cancel()
        if connection is not None:
            connection.close()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(connection.wait_closed(), 2.0)


def _in_words(error: BaseException) -> str:
    return str(error) or type(error).__name__
