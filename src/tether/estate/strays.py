"""Strays: what an app started beside tether, and left. One rule for an orderly end, a crash and execv().

The mark is the owner's tag in the environment. It is only a hint: whatever descends from the app inherits it, however far (a
tmux server and all that is started in it, a browser, an ssh-agent, the app's own successor). So what is ended must have stayed
with the app besides: it lives in the session that the app lived in. What leads a session of its own, or was begun in one, has
gone its own way, and is never hit. Nor are other living owners, the app's successor, and all that is below either.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tether.errors import DeadlineExceeded, TetherError
from tether.ledger import place
from tether.ledger.store import Ledger
from tether.linux import identity, members, proc, signals, tree

__all__ = [
    "RULES",
    "Rule",
    "Stray",
    "end",
    "find",
    "forget",
    "in_words",
    "remember",
    "remembered",
    "see_to",
    "signature",
]

Rule = Literal["warn", "end", "leave"]
RULES: tuple[str, ...] = get_args(Rule)

_GRACE_S = 5.0
_KILL_LIMIT_S = 5.0
_LOOK_AGAIN_S = 0.02
_VARIABLE = members.OWNER.encode() + b"="


@dataclass(frozen=True)
class Stray:
    """One process that was left: who it is, and its command."""

    pid: int
    start: int
    command: str


def signature(pid: int) -> str:
    """Return by what a successor of the process ``pid`` is recognised: the same command, in a form that tells nothing of it."""
    try:
        command = proc.read(f"/proc/{pid}/cmdline")
    except OSError:
        return ""
    # Only who has plugins comes here.
    import hashlib

    return hashlib.sha256(command).hexdigest() if command else ""


# -- the rule on record ------------------------------------------------------------------------------------------------


def _path(state_dir: Path, owner: str) -> Path:
    return state_dir / "run" / f"{owner}.strays"


def remember(state_dir: Path, owner: str, rule: Rule) -> None:
    """Record an owner's rule for whoever settles its estate. Raises OSError."""
    said = {"rule": rule, "successor": signature(os.getpid())}
    place.write_private(_path(state_dir, owner), json.dumps(said).encode())


def remembered(state_dir: Path, owner: str) -> tuple[Rule, str]:
    """Return the rule of an owner that has died, and the signature of its successors; "warn" where none is on record."""
    try:
        said = json.loads(_path(state_dir, owner).read_bytes())
        rule, successor = said["rule"], str(said["successor"])
    except (OSError, ValueError, TypeError, KeyError):
        return "warn", ""
    return (rule if rule in RULES else "warn"), successor


def forget(state_dir: Path, owner: str) -> None:
    """Remove what was recorded of an owner that has ended."""
    with suppress(OSError):
        _path(state_dir, owner).unlink(missing_ok=True)


# -- who they are ------------------------------------------------------------------------------------------------------


def _tags(pid: int) -> list[str]:
    """The ids of owners in a process's environment, the innermost last."""
    for variable in proc.environ(pid).split(b"\0"):
        if variable.startswith(_VARIABLE):
            return variable[len(_VARIABLE) :].decode(errors="replace").split(":")
    return []


def _is_ours(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}").stat().st_uid == os.getuid()
    except OSError:
        return False


class _Look:
    """One look at all processes."""

    def __init__(self, owner: str, app: int, living: Collection[tuple[int, int]], successor: str) -> None:
        self.owner = owner
        self.app = app
        self.table = {stat.pid: stat for stat in proc.all_stats() if stat.running}
        self.tags = {pid: tags for pid in self.table if _is_ours(pid) and owner in (tags := _tags(pid))}
        self.children: dict[int, list[int]] = {}
        for stat in self.table.values():
            self.children.setdefault(stat.ppid, []).append(stat.pid)
        spared = {pid for pid, start in living if pid in self.table and self.table[pid].start == start}
        spared |= self._hosts_of_other_owners()
        spared |= {pid for pid in self.tags if successor and signature(pid) == successor}
        self.spared = spared | self.below(spared) | tree.line_of(os.getpid())

    def below(self, pids: Collection[int]) -> set[int]:
        """Every descendant of ``pids``."""
        queue = list(pids)
        for pid in queue:
            queue += self.children.get(pid, [])
        return set(queue) - set(pids)

    def _hosts_of_other_owners(self) -> set[int]:
        """Processes that are owners themselves: what is below them carries another owner's tag after this one's."""
        hosts = set()
        for pid, tags in self.tags.items():
            above = pid if tags[-1] != self.owner else 0
            while above and self.tags.get(above, [""])[-1] != self.owner:
                stat = self.table.get(above)
                above = stat.ppid if stat else 0
            hosts.add(above)
        return hosts - {0}

    def stayed(self, stat: proc.Stat) -> bool:
        """Whether a process lives in the session that the app lived in.

        That is led by the app itself, by somebody who never carried its tag (a shell, a service manager), or from outside this
        pid namespace (0). A session whose leader has gone proves nothing.
        """
        if stat.session in (0, self.app):
            return True
        return stat.session in self.table and stat.session not in self.tags and stat.session != stat.pid

    def strays(self) -> list[proc.Stat]:
        """The strays, and what is below them in the same session."""
        marked = {pid for pid, tags in self.tags.items() if tags[-1] == self.owner and self.stayed(self.table[pid])}
        marked -= self.spared
        found = set(marked)
        for root in marked:
            found |= {pid for pid in self.below([root]) if self.table[pid].session == self.table[root].session}
        return [self.table[pid] for pid in sorted(found - self.spared)]


def find(owner: str, app: int, living: Collection[tuple[int, int]], successor: str) -> list[Stray]:
    """Return the strays of an owner.

    Args:
        owner: its id.
        app: the pid of its process, alive or not.
        living: pid and start time of owners that live, which are spared with all that is below them.
        successor: the signature of the owner's process; what has the same is spared, with all that is below it.
    """
    look = _Look(owner, app, living, successor)
    return [Stray(stat.pid, stat.start, stat.name.decode(errors="replace")) for stat in look.strays()]


def in_words(strays: Collection[Stray]) -> str:
    """Say who they are, at most ten by name."""
    shown = ", ".join(f"pid {stray.pid} ({stray.command})" for stray in list(strays)[:10])
    return f"{shown} and {len(strays) - 10} more" if len(strays) > 10 else shown


def end(
    owner: str, app: int, living: Collection[tuple[int, int]], successor: str, grace_s: float = _GRACE_S
) -> tuple[list[Stray], list[Stray]]:
    """End the strays of an owner: SIGTERM first, SIGKILL to what is there after the grace. Returns those found, and those left."""
    first = left = find(owner, app, living, successor)
    asked: set[tuple[int, int]] = set()
    begin = time.monotonic()
    while left and time.monotonic() < begin + grace_s + _KILL_LIMIT_S:
        force = time.monotonic() >= begin + grace_s
        for stray in left:
            if force or (stray.pid, stray.start) not in asked:
                asked.add((stray.pid, stray.start))
                _send(stray, signal.SIGKILL if force else signal.SIGTERM)
        signals.wait_end(left[0].pid, left[0].start, _LOOK_AGAIN_S if force else min(0.2, grace_s))
        left = find(owner, app, living, successor)
    return first, left


def _send(stray: Stray, signum: int) -> None:
    # Another user's can't be signalled; it is reported when it stays.
    with suppress(PermissionError):
        signals.send(stray.pid, stray.start, signum)
        # One that is stopped hears of it only when it goes on.
        signals.send(stray.pid, stray.start, signal.SIGCONT)


def see_to(
    owner: str, rule: Rule, ledger: Ledger, state_dir: Path, note: Callable[[str, str], None]
) -> list[Exception]:
    """Do with the strays of this process what its owner's rule says, in an orderly end. Returns what went wrong."""
    forget(state_dir, owner)
    if rule == "leave":
        return []
    living: list[tuple[int, int]] = []
    with suppress(TetherError):
        others = [each.identity for each in ledger.owners() if each.id != owner]
        living = [(each.pid, each.start) for each in others if each.pid != os.getpid() and identity.is_alive(each)]
    successor = signature(os.getpid())
    found, left = find(owner, os.getpid(), living, successor), list[Stray]()
    said = 'let go, they still run: Owner(strays="end") ends them, tether.apart() is for what may stay'
    if rule == "end" and found:
        found, left = end(owner, os.getpid(), living, successor)
        said = "ended"
    if found:
        note("left behind", f"{in_words(found)}, started beside tether: {said}")
    return [DeadlineExceeded(f"{in_words(left)}, started beside tether, could not be ended")] if left else []
