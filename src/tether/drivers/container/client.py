"""What the command line of an engine is asked, and what it says of the containers that it made for a command of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.drivers.container import limits
from tether.errors import DriverUnavailable
from tether.linux import members

__all__ = ["ENVIRONMENT", "Client", "Made", "program"]

ENVIRONMENT = (
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"),
    *("CONTAINER_HOST", "CONTAINER_CONNECTION", "CONTAINER_SSHKEY", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"),
    *("STORAGE_DRIVER", "TMPDIR", "HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"),
)
"""The variables that say which engine is meant, and where it keeps what it has."""

_LAST_LINES = 3
_BEFORE_IT_RUNS = frozenset({"created", "configured", "initialized"})
_RUNNING = frozenset({"running", "paused", "restarting", "stopping"})


def program(word: str, env: Mapping[str, str], cwd: str) -> str | None:
    """Return the path of the program that a word means; None if there is none that can be asked."""
    found = shutil.which(str(Path(cwd, word)) if "/" in word else word, path=env.get("PATH", os.defpath))
    if found is None:
        return None
    # One in a snap can't write where the state directory is.
    return None if Path(found).resolve().name == "snap" else str(Path(cwd, found))


@dataclass(frozen=True)
class Made:
    """A container, as its engine shows it.

    Attributes:
        id: in full.
        attempt: which command line made it, by its label.
        status: the engine's word.
        runs: whether it runs, or may go on running.
        never_ran: whether it was created, and not started yet.
        goes_by_itself: whether it is removed when it ends, as ``--rm`` says.
    """

    id: str
    attempt: str
    status: str
    runs: bool
    never_ran: bool
    goes_by_itself: bool

    @property
    def is_to_go(self) -> bool:
        """Whether something of it is to be ended or removed; what has ended stays where ``--rm`` was not said, as users expect."""
        return self.runs or self.never_ran or self.goes_by_itself


class Client:
    """The program with which a command line of the user's asks its engine, as it was asked there.

    Args:
        words: the program, by its path, and its global options.
        env: the variables of `ENVIRONMENT` that were set there.
        cwd: where.
    """

    def __init__(self, words: Sequence[str], env: Mapping[str, str], cwd: str) -> None:
        self._words = list(words)
        self._env = dict(env)
        self._cwd = cwd

    def __str__(self) -> str:
        return Path(self._words[0]).name

    def ask(self, *words: str, within_s: float = limits.WORK_S, refused: bool = True) -> str:
        """Have it ask its engine, and return what it says.

        Args:
            words: the command.
            within_s: seconds that it may take.
            refused: whether to raise if it fails; else what it said by then is returned.

        Raises:
            DriverUnavailable: it is not there any more, takes too long, or fails.
        """
        left_out = {*ENVIRONMENT, members.OWNER, members.RESOURCE}
        env = {**{name: value for name, value in os.environ.items() if name not in left_out}, **self._env}
        cwd = self._cwd if Path(self._cwd).is_dir() else "/"
        try:
            said = subprocess.run(
                [*self._words, *words],
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                timeout=within_s,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise DriverUnavailable(f"the engine of {self} can't be asked: {error}") from error
        except subprocess.TimeoutExpired as error:
            raise DriverUnavailable(
                f"the engine of {self} does not answer '{words[0]}' within {within_s:g} s"
            ) from error
        if refused and said.returncode != 0:
            why = " / ".join(said.stderr.strip().splitlines()[-_LAST_LINES:])
            raise DriverUnavailable(f"the engine of {self} can't be asked, or refuses '{words[0]}': {why}")
        return said.stdout

    def containers(self, label: str, attempt_label: str) -> list[Made]:
        """Return the containers with a label (``name=value``), and the value of another one. Raises DriverUnavailable."""
        asked = ("ps", "--all", "--no-trunc", "--filter", f"label={label}", "--format", "{{.ID}}")
        ids = self.ask(*asked, within_s=limits.LOOK_S).split()
        if not ids:
            return []
        # One of them may go meanwhile, which it fails for.
        shown = self.ask("inspect", "--type", "container", *ids, within_s=limits.LOOK_S, refused=False)
        name, _, value = label.partition("=")
        return [each for each in _read(shown, attempt_label, {name: value}) if each.id in ids]


def _read(shown: str, attempt_label: str, wanted: Mapping[str, str]) -> list[Made]:
    try:
        containers: list[dict[str, Any]] = json.loads(shown or "[]")
        return [
            Made(
                id=each["Id"],
                attempt=str(labels.get(attempt_label, "")),
                status=(status := str(each["State"]["Status"])),
                runs=status in _RUNNING or bool(each["State"].get("Running")),
                never_ran=status in _BEFORE_IT_RUNS,
                goes_by_itself=bool((each.get("HostConfig") or {}).get("AutoRemove")),
            )
            for each in containers
            if (labels := each["Config"].get("Labels") or {}).items() >= wanted.items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DriverUnavailable(f"what the engine says of its containers can't be read: {error!r}") from error
