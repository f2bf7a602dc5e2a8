"""``tether run``: run a command so that nothing of it outlives this one, and otherwise as if tether was not there."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence

from tether.cli import asked, text
from tether.errors import ExecError, TetherError
from tether.linux import signals
from tether.notices import Notice
from tether.owner.owner import Owner
from tether.owner.resource import Resource
from tether.spec import Process

__all__ = ["run"]

_NOT_FOUND = 127
_NOT_PERMITTED = 126
_FROM_KERNEL = 0x80
_WAKE = signal.SIGURG
_WAITED_FOR = {
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGTSTP,
    signal.SIGCONT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    _WAKE,
}


def run(argv: Sequence[str]) -> int:
    """Run a command; when it ends, or this process does by whatever cause, nothing of it is left.

    Standard streams, the terminal, its job control and signals are the command's own. The exit code is the command's,
    128 plus the number for a signal, 127 if there is no such program, 126 if it may not be executed, 125 if tether failed.
    """
    given = asked.read(argv)
    text.in_own_words()
    # Before any thread begins, so that signals wait for the main one.
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    owner = Owner(given.name or _name_of(given.command[0].rpartition("/")[2]), on_death="kill")
    try:
        owner.share_terminal()
        return _Run(owner, given).run()
    except ExecError as error:
        sys.stderr.write(f"tether run: {error.strerror}: {error.filename}\n")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_PERMITTED
    finally:
        owner.shutdown()


def _name_of(program: str) -> str:
    # isalnum() alone takes letters of every alphabet.
    cleaned = "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "-" for each in program)
    return cleaned.lstrip("._-")[:128] or "command"


def _arguments(given: asked.Asked) -> list[str]:
    """Return the command as a spec says it: where no port was asked for, ``{port}`` stands for itself."""
    if given.port is not None:
        return given.command
    return [word.replace("{port}", "{{port}}") for word in given.command]


class _Run:
    """One command in the foreground."""

    def __init__(self, owner: Owner, given: asked.Asked) -> None:
        self._owner = owner
        self._grace_s = given.grace_s
        self._spec = Process(
            _arguments(given),
            name=owner.name,
            stdin="inherit",
            stdout="inherit",
            stderr="inherit",
            stop_grace=given.grace_s,
            port=given.port or None,
        )
        self._notices: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._main_thread = threading.get_ident()

    def run(self) -> int:
        """Return the exit code for the shell."""
        self._owner.telemetry.subscribe(self._heard)
        resource = self._owner.start(self._spec)
        while not resource.state.is_final:
            info = signal.sigwaitinfo(_WAITED_FOR)
            if info.si_signo == _WAKE:
                self._heed(resource)
            elif info.si_signo == signal.SIGCONT:
                resource.resume()
            elif info.si_signo in (signal.SIGTERM, signal.SIGHUP):
                self._stop(resource)
            elif info.si_code != _FROM_KERNEL:
                # Sent to this process alone. What a terminal sends, the command has had itself, and once is enough.
                self._forward(resource, info.si_signo)
        code = resource.exit_code
        return 1 if code is None else 128 - code if code < 0 else code

    def _heard(self, notice: Notice) -> None:
        self._notices.put(notice.what)
        signal.pthread_kill(self._main_thread, _WAKE)

    def _heed(self, resource: Resource) -> None:
        while not self._notices.empty():
            what = self._notices.get()
            if what == "exited":
                self._stop(resource)
            elif what == "paused":
                # As the shell sees it, the command is this process.
                os.kill(os.getpid(), signal.SIGSTOP)

    def _stop(self, resource: Resource) -> None:
        def stop() -> None:
            try:
                resource.stop(self._grace_s)
            except TetherError as error:
                sys.stderr.write(f"tether run: {error}\n")

        threading.Thread(target=stop, name="tether-stop", daemon=True).start()

    @staticmethod
    def _forward(resource: Resource, signum: int) -> None:
        main = resource.main
        if main is not None:
            signals.send(main.pid, main.start, signum)
