"""Containers that a command of the user's makes, ``docker run`` or ``podman run``: they end with it, and with its owner."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tether.drivers import Context
from tether.drivers.container import attempts, limits, words
from tether.drivers.container.client import ENVIRONMENT, Client, Made, program
from tether.errors import DriverUnavailable, NotCreated
from tether.model import Handle, OnDeath, Progress, State, Status, Usage
from tether.protocol import PluginExecutionMode
from tether.redaction import redact_text
from tether.spec import Process, SpecBase

__all__ = ["ATTEMPT", "RESOURCE", "ClientDriver", "MadeByCommand"]

_log = logging.getLogger("tether")

RESOURCE = "tether.client"
"""The label with the tag, on what a client makes."""

ATTEMPT = "tether.client.attempt"
"""The label that says which run of its command line made it."""

_VERSION = 1
_LATE_NEWS_S = 0.5
_KILLS = 4
"""So often it is asked to be killed."""


@dataclass(frozen=True, repr=False)
class MadeByCommand(SpecBase):
    """What a command line makes: started before it, and ended after it.

    Attributes:
        made_by: the name of the process.
        client: the words with which its engine is asked.
        environment: the variables that say which engine that is.
        cwd: where the command runs.
        cidfile: the file for the id that its user asked for; None for one of tether's.
    """

    made_by: str
    client: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    cwd: str
    cidfile: str | None = None
    name: str | None = None
    needs: Sequence[str] | None = None
    on_death: OnDeath | None = None
    keep_for: float = 3600.0
    stop_grace: float = 10.0
    ready: None = field(default=None, init=False)
    kind: str = field(default="client", init=False)
    rented: ClassVar[bool] = True
    """It is for one process alone, and ends with it."""

    @property
    def default_name(self) -> str:
        """After the process."""
        return f"{self.made_by}-container"

    @property
    def stays_up(self) -> bool:
        """It is as long as its process is."""
        return True

    def record(self) -> dict[str, Any]:
        """Return what goes into the ledger."""
        return {"made_by": self.made_by, "stop_grace": self.stop_grace, "stays_up": True}


class ClientDriver:
    """See `tether.drivers.Driver`. The handle says how the client of a command is asked."""

    kind: ClassVar[str] = "client"
    modes: ClassVar[frozenset[PluginExecutionMode]] = frozenset({PluginExecutionMode.DOCKER})
    has_pids: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self._state_dir = context.state_dir

    @staticmethod
    def made_by(spec: Process, on_death: OnDeath) -> MadeByCommand | None:
        """Return what a command would make that has to be held beside it; None for nothing. See `HoldsCommands`.

        A command that is understood and can't be held, or is not understood, is left as it is; a warning says so.
        """
        argv = [str(word) for word in spec.argv]
        run = words.read(argv)
        if run is None:
            return None
        called = spec.name or spec.default_name
        cwd = str(Path(spec.cwd or ".").absolute())
        env = _environment(spec)
        path = program(argv[0], env, cwd)
        why = run if isinstance(run, str) else _why_not(spec, run, on_death)
        if not why and path is None:
            # It is not there, and the kernel says so; or it can't be asked.
            return None
        chosen = {} if isinstance(run, str) else _chosen_engine(run, env)
        if not why and not isinstance(run, str) and _has_secrets([*run.client, *chosen.values()]):
            why = "what says where its engine is looks like a secret, and is not put on record"
        if why or isinstance(run, str) or path is None:
            _log.warning("%s: the container that it makes is not held, and may outlive it: %s", called, why)
            return None
        return MadeByCommand(
            called,
            (path, *run.client[1:]),
            chosen,
            cwd,
            None if run.cidfile is None else str(Path(cwd, run.cidfile)),
            on_death=on_death,
            stop_grace=spec.stop_grace,
        )

    # -- start ---------------------------------------------------------------------------------------------------------

    def plan(self, spec: MadeByCommand, tag: str) -> Handle:
        """Say how the engine will be asked for what the command makes. See `HasPlan`."""
        data = {
            "client": list(spec.client),
            "environment": dict(spec.environment),
            "cwd": spec.cwd,
            "cidfile": spec.cidfile,
        }
        return Handle(self.kind, tag, data, _VERSION)

    def start(self, spec: MadeByCommand, tag: str, on_death: OnDeath, progress: Progress) -> Handle:
        """Make nothing: that is for the command, and what it makes is found by the plan."""
        return self.plan(spec, tag)

    def inside(self, handle: Handle, argv: Sequence[str], env: Mapping[str, str | None] | None = None) -> list[str]:
        """Return the command line with the label, and the file for the id, of a run that is on record now. See `HasInside`.

        Raises:
            NotCreated: what an earlier run has left can't be ended now.

        Crash:
            Between the record and the command there is nothing to be found, and nothing is.
        """
        run = words.read(argv)
        if run is None or isinstance(run, str):
            return list(argv)
        try:
            self.destroy(handle)
        except DriverUnavailable as error:
            raise NotCreated(f"cannot start {argv[0]}: what its last run has left can't be ended: {error}") from error
        attempt = attempts.begin(self._state_dir, handle)
        options = ["--label", f"{RESOURCE}={handle.tag}", "--label", f"{ATTEMPT}={attempt.name}"]
        if run.cidfile is None:
            options += ["--cidfile", str(attempt.cidfile)]
        return run.with_options(argv, options)

    # -- look ----------------------------------------------------------------------------------------------------------

    def find(self, tag: str) -> list[Handle]:
        """Ask the engines of the runs that are on record under the tag."""
        plans = {json.dumps(each.data): each.data for each in attempts.of(self._state_dir, tag)}
        handles = [Handle(self.kind, tag, data, _VERSION) for data in plans.values()]
        return [handle for handle in handles if any(each.is_to_go for each in self._look(handle))]

    def inspect(self, handle: Handle) -> Status:
        """Ask the engine. GONE means that nothing of it runs, and that nothing is left but what its user asked to stay."""
        found = self._look_twice(handle)
        if any(each.runs for each in found):
            return Status(State.READY)
        if any(each.is_to_go for each in found):
            return Status(State.STOPPING, reason=f"left at the engine: {_in_words(found)}")
        stays = _in_words(found)
        return Status(State.GONE, reason=f"has ended, and stays without --rm: {stays}" if stays else "not there")

    def details(self, handle: Handle) -> dict[str, Any]:
        """Return the id of what the command made last."""
        made = [each.made for each in attempts.of(self._state_dir, handle.tag)]
        return {
            "container_id": next((each for each in reversed(made) if each), None),
            "engine": Path(handle.data["client"][0]).name,
        }

    def usage(self, handle: Handle) -> Usage:
        """It is not counted: that would be to ask the engine."""
        return Usage()

    def _look(self, handle: Handle) -> list[Made]:
        """Return what is ours of what has the label: by an id on record, or what an unfinished run has created and not started."""
        on_record = attempts.of(self._state_dir, handle.tag)
        if not on_record:
            return []
        ids = {made for each in on_record if (made := each.made)}
        unfinished = {each.name for each in on_record if each.made is None}
        try:
            labelled = self._client(handle).containers(f"{RESOURCE}={handle.tag}", ATTEMPT)
        except DriverUnavailable as error:
            if ids:
                raise
            # No client has written an id, so nothing was started: most likely it could not reach its engine either.
            _log.debug("%s: nothing ran, and it can't be asked whether something was created: %s", handle.tag, error)
            return []
        return [each for each in labelled if each.id in ids or (each.never_ran and each.attempt in unfinished)]

    def _look_twice(self, handle: Handle) -> list[Made]:
        """Look again for what an unfinished run asked for just before it ended: it may appear after a look that did not show it."""
        found = self._look(handle)
        if not found and any(each.made is None for each in attempts.of(self._state_dir, handle.tag)):
            time.sleep(_LATE_NEWS_S)
            found = self._look(handle)
        return found

    @staticmethod
    def _client(handle: Handle) -> Client:
        return Client(handle.data["client"], handle.data["environment"], handle.data["cwd"])

    # -- end -----------------------------------------------------------------------------------------------------------

    def stop(self, handle: Handle, grace: float) -> None:
        """Have the engine stop what runs, then do as `destroy`. Raises as that."""
        client, seconds = self._client(handle), str(math.ceil(grace))
        for each in self._look_twice(handle):
            if each.runs:
                # What is refused is for the end by force, which follows.
                with suppress(DriverUnavailable):
                    client.ask("stop", "-t", seconds, each.id, within_s=grace + limits.WORK_S)
        self.destroy(handle)

    def destroy(self, handle: Handle) -> None:
        """Have the engine kill what runs, and remove what was never started, or is not to stay.

        Raises:
            DriverUnavailable: the engine can't be asked, or can't end it; to be tried again.
        """
        client = self._client(handle)
        left = self._look_twice(handle)
        for round_ in range(limits.REMOVAL_ROUNDS):
            if not any(each.is_to_go for each in left):
                attempts.forget(self._state_dir, handle.tag)
                return
            if round_:
                time.sleep(limits.ROUND_PAUSE_S * round_)
            for each in left:
                _end(client, each, by_removal=round_ >= _KILLS)
            left = self._look(handle)
        if any(each.is_to_go for each in left):
            raise DriverUnavailable(f"the engine of {client} can't end {_in_words(left)}, tried again")
        attempts.forget(self._state_dir, handle.tag)


def _end(client: Client, made: Made, *, by_removal: bool) -> None:
    """End one container; by removal, what its engine does not see end: podman, where the monitor was killed with the command."""
    if not made.is_to_go:
        return
    # It is looked again whether it worked: another may be at it, or it ended by itself meanwhile.
    if made.goes_by_itself or made.never_ran:
        client.ask("rm", "--force", "--volumes", made.id, refused=False)
        return
    if by_removal:
        client.ask("rm", "--force", made.id, refused=False)
        return
    if made.status == "paused":
        client.ask("unpause", made.id, refused=False)
    client.ask("kill", made.id, refused=False)


def _in_words(found: Sequence[Made]) -> str:
    return ", ".join(f"container {each.id[:12]} ({each.status})" for each in found)


def _environment(spec: Process) -> dict[str, str]:
    """Return the variables that the command gets."""
    env: dict[str, str] = {} if spec.clear_env else dict(os.environ)
    for name, value in spec.env.items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


def _chosen_engine(run: words.Run, env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that say which engine is meant, also after another one was made the usual one."""
    chosen = {name: env[name] for name in ENVIRONMENT if name in env}
    said = any(word.startswith(("-H", "--host", "-c", "--context", "--config")) for word in run.client[1:])
    if run.client[0].endswith("docker") and not said and not {"DOCKER_HOST", "DOCKER_CONTEXT"} & set(chosen):
        chosen["DOCKER_CONTEXT"] = _usual_context(env)
    return chosen


def _usual_context(env: Mapping[str, str]) -> str:
    folder = env.get("DOCKER_CONFIG") or str(Path(env.get("HOME", "/"), ".docker"))
    try:
        return str(json.loads(Path(folder, "config.json").read_bytes()).get("currentContext") or "default")
    except (OSError, ValueError, AttributeError):
        return "default"


def _why_not(spec: Process, run: words.Run, on_death: OnDeath) -> str:
    """Say why what a command makes can't be held; empty if it can."""
    if run.detached:
        return "-d asks for one that goes on by itself; leave it out, or start a tether.Container"
    if on_death == "keep":
        return "on_death='keep' keeps the command alone; start a tether.Container, which can be kept"
    if spec.env_in is not None or spec.executable is not None:
        return "env_in= and executable= say that another program is executed than argv names"
    if spec.user is not None or spec.group is not None or spec.extra_groups is not None:
        return "user= and group= make it another user's, whose engine can't be asked from here"
    return ""


def _has_secrets(texts: Sequence[str]) -> bool:
    return any(redact_text(text) != text for text in texts)
