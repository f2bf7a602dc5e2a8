"""Jupyter kernels as resources: a kernel ends with all that it started, and with the client, however that dies.

jupyter_client finds the provisioner by the entry point group ``jupyter_client.kernel_provisioners``, under ``tether-provisioner``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from tether.errors import DeadlineExceeded, SpecError
from tether.owner.owner import Owner
from tether.owner.resource import Resource
from tether.spec import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from jupyter_client.connect import KernelConnectionInfo

__all__ = ["TetherProvisioner"]

_HELPERS_GRACE_S = 2.0
"""How long helpers have when their kernel has ended: less than the 2.5 seconds after which jupyter_client asks once more."""
_FOREVER_S = 1e9
_UNKNOWN = 255
_TAKEN = ("pass_fds", "umask", "user", "group", "extra_groups")
"""What is passed on as subprocess has it, besides streams, environment and folder."""


class _Kernels:
    """The owner of all kernels of this process, which is there while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: Owner | None = None
        self._pid = 0
        self._holders: weakref.WeakSet[LocalProvisioner] = weakref.WeakSet()

    def owner_for(self, holder: LocalProvisioner) -> Owner:
        """Return the owner, and have it stay until ``holder`` needs it no more. Raises as `Owner`."""
        with self._lock:
            if self._owner is None or self._pid != os.getpid():
                # A fork has nothing of its parent's. What else a server of notebooks starts, terminals for instance, is its own.
                self._owner, self._pid = Owner("jupyter", strays="leave"), os.getpid()
                self._holders.clear()
            self._holders.add(holder)
            return self._owner

    def let_go(self, holder: LocalProvisioner) -> None:
        """Need the owner no more; the last ends it."""
        with self._lock:
            if self._pid == os.getpid():
                self._holders.discard(holder)
                if not self._holders and self._owner is not None:
                    owner, self._owner = self._owner, None
                    owner.shutdown()


_kernels = _Kernels()


class TetherProvisioner(LocalProvisioner):
    """Starts a kernel as `LocalProvisioner` does, but held: interrupts reach its group, its end is the end of its whole tree.

    Attributes:
        resource: the kernel while there is one; ``stdout`` and ``stderr`` of it are the pipes, where the client asked for pipes.

    Crash:
        When the client dies, by whatever cause, the guard ends the kernel with all that it started. One that was started with
        ``independent=True`` goes on instead, as jupyter_client promises; ``tether ps`` shows it.
    """

    resource: Resource | None = None

    @property
    def has_process(self) -> bool:
        """Whether there is a kernel, or one whose end was not waited for."""
        return self.resource is not None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel.

        Raises:
            OSError: it can't be executed (FileNotFoundError, PermissionError, ...), as from subprocess; nothing was started.
            SpecError: there is an argument that only subprocess knows; nothing was started.
            TetherError: it could not be recorded or guarded; nothing was started.
        """
        spec = _spec(self._name(), cmd, kwargs)
        owner = await asyncio.to_thread(_kernels.owner_for, self)
        try:
            # At once, as with Popen: a call that is cancelled while it waits could leave a kernel that nobody knows.
            self.resource = owner.start(spec)
        except BaseException:
            await asyncio.to_thread(_kernels.let_go, self)
            raise
        self.pid = self.pgid = self.resource.pid
        self.cwd = kwargs.get("cwd", Path.cwd())
        return self.connection_info

    def _name(self) -> str:
        kernel = getattr(self.parent, "kernel_name", "") or "kernel"
        return f"{kernel}-{self.kernel_id[:8]}" if self.kernel_id else kernel

    async def poll(self) -> int | None:
        """Return None while anything of the kernel runs, else its exit code."""
        if self.resource is None:
            return 0
        if not self.resource.state.is_final:
            return None
        # What nobody saw is no success.
        return _UNKNOWN if self.resource.exit_code is None else self.resource.exit_code

    async def wait(self) -> int | None:
        """Wait until nothing of the kernel is left, close its pipes, and return its exit code."""
        code = await self.poll()
        if self.resource is not None:
            # jupyter_client polls until the end before it calls this, so no thread is kept waiting.
            await asyncio.to_thread(self.resource.wait)
            code = await self.poll()
            for stream in (self.resource.stdin, self.resource.stdout, self.resource.stderr):
                if stream is not None:
                    stream.close()
            self.resource = None
        return code

    async def send_signal(self, signum: int) -> None:
        """Signal the kernel and its process group, so that an interrupt reaches what it waits for."""
        if self.resource is not None:
            self.resource.send_signal(signum, to="group")

    async def terminate(self, restart: bool = False) -> None:
        """Ask the kernel to end."""
        await self.send_signal(signal.SIGTERM)

    async def kill(self, restart: bool = False) -> None:
        """End the kernel and all that it started by force, and wait for it."""
        if self.resource is None:
            return
        try:
            await asyncio.to_thread(self.resource.kill)
        except DeadlineExceeded as error:
            # It stays on record. jupyter_client goes on without it.
            self.log.warning("%s", error)

    async def cleanup(self, restart: bool = False) -> None:
        """Give back what is needed no more."""
        await super().cleanup(restart=restart)
        if not restart:
            await asyncio.to_thread(_kernels.let_go, self)


def _spec(name: str, command: list[str], asked: Mapping[str, Any]) -> Process:
    """Say what to start, of what jupyter_client would have given to Popen."""
    given = dict(asked)
    independent = given.pop("independent", False)
    environ = {str(name): value for name, value in (given.pop("env", None) or os.environ).items()}
    # The guard watches the client. Kernels would watch their parent, which is the guard; 1 is known as a parent that never ends.
    environ["JPY_PARENT_PID"] = "1"
    if independent:
        del environ["JPY_PARENT_PID"]
    streams = {stream: given.pop(stream, None) for stream in ("stdin", "stdout", "stderr")}
    more = {word: given.pop(word) for word in _TAKEN if given.get(word) is not None}
    folder = given.pop("cwd", None)
    for word in ("extra_arguments", "kernel_id", *_TAKEN):
        given.pop(word, None)
    if given:
        raise SpecError(
            f"cannot start kernel {name}: {', '.join(sorted(given))} can't be passed on by tether-provisioner; "
            f"leave it out, or use the local-provisioner for this kernel"
        )
    return Process(
        [_literal(os.path.expanduser(word)) for word in command],  # noqa: PTH111 - a word may be no path
        name=name,
        env={key: _literal(value) for key, value in environ.items()},
        clear_env=True,
        cwd=folder,
        stdin="null" if streams["stdin"] is None else streams["stdin"],
        stdout="inherit" if streams["stdout"] is None else streams["stdout"],
        stderr="inherit" if streams["stderr"] is None else streams["stderr"],
        ends="main",
        stop_grace=_HELPERS_GRACE_S,
        on_death="keep" if independent else "kill",
        keep_for=_FOREVER_S,
        **more,
    )


def _literal(text: str) -> str:
    return text.replace("{port}", "{{port}}")
