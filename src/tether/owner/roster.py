"""The plugins of an owner: registered, looked at, and cleaned up at the end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tether import calls
from tether.errors import NotFound, PluginError, SpecError
from tether.ledger.writer import Writer
from tether.life.managed import new_id
from tether.linux import identity
from tether.model import Handle, State, check_name
from tether.owner import asking
from tether.owner.attendant import Attendant
from tether.owner.job import Watched
from tether.owner.registered import Held, Registered

__all__ = ["Held", "Registered", "Roster"]

_CLEANUP_LIMIT_S = 10.0
_REMOTE_PAUSE_S = 15.0
_REMOTE_ON_RECORD = (
    "provider", "region", "instance_id", "job_id", "ssh_host", "ssh_port", "status", "resource_type", "gpu_count",
    "gpu_type", "estimated_cost_per_hour",
)  # fmt: skip
"""What of a remote resource goes into the ledger: ``metadata`` may have secrets."""


class Roster:
    """All plugins of one owner.

    Args:
        owner: the owner's id.
        ledger: where the plugins and their processes are recorded.
        note: told of what plugins leave behind: what, and the detail.
        held: says what tether itself holds for the owner.
        state_dir: the state directory.
    """

    def __init__(
        self,
        owner: str,
        ledger: Writer,
        note: Callable[[str, str], None],
        held: Callable[[], Held],
        state_dir: Path,
    ) -> None:
        self._owner = owner
        self._ledger = ledger
        self._note = note
        self._held = held
        self._state_dir = state_dir
        self._lock = threading.Lock()
        self._record_lock = threading.Lock()
        self._registered: list[Registered] = []
        self._attendant: Attendant | None = None
        self._remote_due = 0.0

    # -- who is registered ---------------------------------------------------------------------------------------------

    def add(self, plugin: Any, name: str | None, arm: Callable[[], Any]) -> bool:
        """Register a plugin, once ``arm()`` has seen to its guard; False if it is registered already.

        Raises:
            PluginError: it is not lifecycle-aware, or a method raised or returned nonsense.
            SpecError: the name is no name, or in use.
        """
        chosen = check_name(name or type(plugin).__name__.lstrip("_"), "a plugin")
        registered = Registered(plugin, chosen, new_id(), self._owner, self._held)
        registered.mode()
        registered.look()
        calls.resources(plugin)
        with self._lock:
            if any(each.plugin is plugin for each in self._registered):
                return False
            if any(each.name == chosen for each in self._registered):
                raise SpecError(f"a plugin {chosen} is registered already; give this one another name=")
            arm()
            spec = {"type": type(plugin).__qualname__}
            self._ledger.add_resource(registered.tag, self._owner, chosen, "plugin", spec, "kill", 0)
            self._registered.append(registered)
            if self._attendant is None:
                path = asking.path_of(self._state_dir, self._owner)
                self._attendant = Attendant(chosen, path, self._look_at_all, self._answer)
        self._record(registered)
        self._remote_due = 0.0
        self._attendant.wake()
        return True

    def free_name(self, base: str) -> str:
        """Return ``base``, made a name, with a number if it is in use."""
        cleaned = "".join(each if each.isalnum() or each in "._-" else "-" for each in base).lstrip("._-")[:100]
        used = {registered.name for registered in self._registered}
        names = (cleaned if number == 1 else f"{cleaned}-{number}" for number in range(1, len(used) + 2))
        return next(name for name in names if name not in used)

    def remove(self, plugin: Any, why: str = "unregistered") -> None:
        """Forget a plugin. Raises NotFound."""
        with self._lock:
            for registered in self._registered:
                if registered.plugin is plugin:
                    self._registered.remove(registered)
                    break
            else:
                raise NotFound(f"plugin {type(plugin).__name__} is not registered")
        self._end_record(registered, why)

    @property
    def plugins(self) -> dict[str, Any]:
        """The plugins by name."""
        return {registered.name: registered.plugin for registered in self._registered}

    # -- the record ----------------------------------------------------------------------------------------------------

    def _record(self, registered: Registered, events: Iterable[tuple[str, str]] = ()) -> None:
        data = {
            "boot": identity.boot_id(),
            "pids": sorted(registered.seen),
            "uid": os.getuid(),
            "owner": self._owner,
            "remote": _on_record(registered.remote),
        }
        url = (registered.remote or {}).get("endpoint_url")
        with self._record_lock:
            if registered.over:
                return
            self._ledger.write(
                registered.tag,
                1,
                State.READY,
                list(events),
                handle=Handle("plugin", registered.tag, data),
                url=_without_secrets(url) if isinstance(url, str) else None,
            )
        self._ledger.flush()

    def _end_record(self, registered: Registered, why: str, state: State = State.GONE) -> None:
        with self._record_lock:
            registered.over = True
            what = "gone" if state is State.GONE else "cleanup failed"
            self._ledger.write(registered.tag, 1, state, [(what, why)], reason=why)
        self._ledger.flush()

    # -- looking -------------------------------------------------------------------------------------------------------

    def _look_at_all(self) -> bool:
        """Look at every plugin that may start things by itself; one that hangs or raises keeps nobody from the next."""
        remote = time.monotonic() >= self._remote_due
        if remote:
            self._remote_due = time.monotonic() + _REMOTE_PAUSE_S
        looked = False
        for registered in [each for each in self._registered if each.starts_by_itself]:
            looked = True
            before, trouble = (set(registered.seen), registered.remote), registered.trouble
            try:
                registered.look_in_time(remote=remote)
            except PluginError as error:
                registered.trouble = str(error)
            if registered.trouble and registered.trouble != trouble:
                self._note("plugin failed", registered.trouble)
            if (registered.seen, registered.remote) != before:
                self._record(registered)
            # An attribute of that name of anybody else's means whatever it means there.
            if isinstance(registered.plugin, Watched) and registered.plugin.has_ended:
                self._let_go_of_ended(registered)
        return looked

    def _let_go_of_ended(self, registered: Registered) -> None:
        """A process that was to be watched has ended by itself: seen, so it can be said."""
        with suppress(NotFound):
            self.remove(registered.plugin, "ended by itself")
            self._note("exited", f"{registered.name}: ended by itself")

    def _look(self, registered: Registered) -> list[int]:
        before = set(registered.seen)
        pids = registered.pids_in_time()
        if registered.seen != before:
            self._record(registered)
        return pids

    def pids(self) -> list[int]:
        """Return the live pids of all plugins; new ones are put on record as they are seen. Raises PluginError."""
        return [pid for registered in list(self._registered) for pid in self._look(registered)]

    def status(self) -> list[dict[str, Any]]:
        """Return what there is to say of each plugin, ready for JSON; one that raises is reported in its place."""
        return [self._status(registered) for registered in list(self._registered)]

    def _status(self, registered: Registered) -> dict[str, Any]:
        before = (set(registered.seen), registered.remote)
        said, wrong = registered.status()
        if (registered.seen, registered.remote) != before:
            self._record(registered)
        return {
            "name": registered.name,
            "type": type(registered.plugin).__qualname__,
            **said,
            "error": "; ".join(dict.fromkeys(wrong)) or None,
        }

    # -- the end -------------------------------------------------------------------------------------------------------

    def clean_up(self) -> list[Exception]:
        """Have every plugin clean up, the last registered first, and end what they leave. Returns what went wrong.

        One that was interrupted (by Ctrl-C) can be called again, and goes on with the plugins that are left.
        """
        errors: list[Exception] = []
        while self._registered:
            registered = self._registered[-1]
            errors += self._clean_up(registered)
            with self._lock, suppress(ValueError):
                self._registered.remove(registered)
        return errors

    def _clean_up(self, registered: Registered) -> list[Exception]:
        try:
            errors = registered.clean_up(_CLEANUP_LIMIT_S, self._note)
        except Exception as error:
            errors = [error]
        said = "; ".join(map(str, errors))
        if registered.seen:
            left = ", ".join(f"pid {pid}" for pid, _ in sorted(registered.seen))
            self._record(registered)
            self._end_record(registered, f"cleaned up, and {left} still there; {said}", State.STOPPING)
        elif errors:
            self._end_record(
                registered, f"nothing of its is seen any more, but its cleanup failed: {said}", State.FAILED
            )
        else:
            self._end_record(registered, "cleaned up, nothing of its is seen any more")
        return errors

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Clean up one plugin for somebody outside; it stays registered, since its app may begin it again."""
        wanted, force = request.get("plugin"), bool(request.get("force"))
        for registered in list(self._registered):
            if wanted in (registered.name, registered.tag):
                break
        else:
            return {"unknown": ", ".join(self.plugins) or "none"}
        errors = registered.clean_up_for(_CLEANUP_LIMIT_S, self._note, force=force)
        left = sorted(pid for pid, _ in registered.seen)
        who = f"asked for from outside, by pid {request.get('pid')}"
        note = "cleaned up, nothing of its is seen any more" if not left else f"{len(left)} processes are still there"
        failed = "; ".join(map(str, errors))
        self._record(registered, [("cleanup failed" if errors else "cleaned up", f"{who}: {failed or note}")])
        return {"plugin": registered.name, "errors": [str(error) for error in errors], "left": left, "note": note}

    def close(self) -> None:
        """Look at nothing and hear nothing any more."""
        attendant, self._attendant = self._attendant, None
        if attendant is not None:
            attendant.close()

    def release_in_fork(self) -> None:
        """In a fork of the owner: let go of the attendant, whose thread is not there."""
        if self._attendant is not None:
            self._attendant.release_in_fork()


def _on_record(remote: dict[str, Any] | None) -> dict[str, Any] | None:
    """What of a remote resource is recorded: what it takes to find it at its provider."""
    if remote is None:
        return None
    return {name: remote[name] for name in _REMOTE_ON_RECORD if isinstance(remote.get(name), str | int | float)}


def _without_secrets(url: str) -> str:
    """A url without user, password, query and fragment, any of which may be a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
