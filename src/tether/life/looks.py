"""Looks whether a resource is ready, by its probe.

A probe of a process proves identity too: it passes only if the socket that listens on the port belongs to a member of the tree. An
orphan of yesterday that answers 200 on the old port fools nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tether.errors import TetherError
from tether.life.connections import connect
from tether.life.probes import Asked, Target, http
from tether.linux import sockets
from tether.model import Ready
from tether.redaction import redact_text

if TYPE_CHECKING:
    import re
    from ssl import SSLContext

__all__ = ["Look", "Seen", "begin"]

_TCP_S = 2.0
_LOOPBACKS = ("127.0.0.1", "::1")
_EVERYWHERE = {"0.0.0.0": ("127.0.0.1",), "::": _LOOPBACKS}  # noqa: S104 - what is read, not bound to
_OVERLAP = 64 * 1024
_MOST_NAMED = 3
_MOST_SAID = 300


@dataclass(frozen=True)
class Seen:
    """What one look came to.

    Attributes:
        missing: what is missing, in words; empty if the resource is ready.
        hopeless: whether it is in vain to look again.
        url: where a server of a tree of this machine answered, if that was found out.
    """

    missing: str = ""
    hopeless: bool = False
    url: str = ""


Look = Callable[[float], Seen]
"""Looks once, for at most so many seconds; it may remember what it saw before."""


def begin(ready: Ready, target: Target) -> Look:
    """Return what looks whether ``target`` is ready by this probe."""
    return _LOOKS[ready.kind](ready, target)


# -- where it listens --------------------------------------------------------------------------------------------------


def _where(target: Target) -> list[str] | Seen:
    """Return the hosts at which to connect, the best first; what is missing if there is none."""
    if target.missing is not None:
        try:
            missing = target.missing()
        except TetherError as error:
            missing = str(error)
        return Seen(missing) if missing else [target.host]
    if target.pids is None:
        return [target.host]
    return _hosts_of_tree(target.port or 0, target.pids())


def _hosts_of_tree(port: int, pids: tuple[int, ...]) -> list[str] | Seen:
    """Return the hosts at which members of a tree answer on a port; whoever else listens there is not asked."""
    listening = sockets.listeners()
    here = [each for each in listening if each.port == port]
    held = sockets.holders(pids, {each.inode for each in here or listening})
    ours = {each.address for each in here if each.inode in held}
    if not here:
        return Seen(f"nothing listens on port {port}{_elsewhere(listening, held)}")
    if not ours:
        return Seen(f"port {port} is held by a process outside its tree", hopeless=True)
    # Of a stranger and a member, a connection goes to who listens at that very address.
    strangers = {each.address for each in here if each.inode not in held} - ours
    hosts = {host for address in ours for host in _EVERYWHERE.get(address, (address,))} - strangers
    if not hosts:
        return Seen(
            f"port {port} is held by a process outside its tree as well, which gets the connections", hopeless=True
        )
    return sorted(hosts, key=lambda host: (*_LOOPBACKS, host).index(host))


def _elsewhere(listening: Iterable[sockets.Listener], held: dict[int, int]) -> str:
    """Say where else members of a tree listen; empty if nowhere."""
    named = sorted(f"pid {held[each.inode]} on {each}" for each in listening if each.inode in held)
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    return f", but of its tree {', '.join(named[:_MOST_NAMED])}{more}" if named else ""


def _url(target: Target, scheme: str, host: str) -> str:
    """Where a tree of this machine answered; where others are reached, their drivers know."""
    if target.pids is None or not host:
        return ""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{target.port}"


# -- the probes --------------------------------------------------------------------------------------------------------


def _tcp(_: Ready, target: Target) -> Look:
    def look(limit_s: float) -> Seen:
        hosts = _where(target)
        if isinstance(hosts, Seen):
            return hosts
        port = target.port or 0
        if target.direct is not None:
            hosts, port = [target.direct[0]], target.direct[1]
        try:
            sock, host = connect(hosts, port, time.monotonic() + min(limit_s, _TCP_S))
        except OSError as error:
            return Seen(f"no connection to {hosts[0]}:{port}: {str(error) or 'not in time'}")
        sock.close()
        return Seen(url=_url(target, "http", host))

    return look


def _http(ready: Ready, target: Target) -> Look:
    # With what it needs it takes longer to import than all of the rest, and most owners probe nothing by HTTP.
    from tether.life import web

    asked = ready.target if isinstance(ready.target, Asked) else http(ready.target).target
    by_tls = asked.scheme == "https" or (asked.scheme is None and target.tls)
    made: list[SSLContext] = []

    def look(limit_s: float) -> Seen:
        hosts = _where(target)
        if isinstance(hosts, Seen):
            return hosts
        if by_tls and not made:
            try:
                made.append(web.context(asked))
            except OSError as error:
                return Seen(f"the authorities to check its certificate with can't be read: {asked.ca_file}: {error}")
        missing, host = web.ask(
            asked, hosts, target.port or 0, tls=made[0] if by_tls else None, limit_s=min(limit_s, asked.attempt_s)
        )
        return Seen(missing, url="" if missing else _url(target, "https" if by_tls else "http", host))

    return look


def _log(ready: Ready, target: Target) -> Look:
    return _Log(ready.target, target)


class _Log:
    """Searches what is new of an output, and the end of what it saw before: a match may lie across."""

    def __init__(self, pattern: re.Pattern[bytes], target: Target) -> None:
        self._pattern = pattern
        self._target = target
        self._position = 0
        self._seen = b""
        self._found = False

    def __call__(self, _: float) -> Seen:
        try:
            self._found = self._found or self._search()
        except (OSError, TetherError) as error:
            return Seen(f"its log can't be read: {error}")
        return Seen("" if self._found else f"{self._pattern.pattern.decode()!r} is not in its log")

    def _search(self) -> bool:
        if self._target.log_from is None:
            return bool(self._pattern.search(self._target.log()))
        new, self._position = self._target.log_from(self._position)
        if not new:
            return False
        text = self._seen + new
        # The first byte of what was cut off only says whether a line begins behind it.
        found = self._pattern.search(text, 1 if len(self._seen) > _OVERLAP else 0)
        self._seen = text[-_OVERLAP - 1 :]
        return bool(found)


def _health(_: Ready, target: Target) -> Look:
    return lambda _: Seen(target.health() if target.health is not None else "it has no health check")


def _call(ready: Ready, target: Target) -> Look:
    def look(_: float) -> Seen:
        try:
            answer = ready.target(target.subject)
        except Exception as error:
            said = f"{ready.target!r} raised {type(error).__name__}: {error}"
        else:
            said = "" if answer else f"{ready.target!r} returned {answer!r}"
        return Seen(redact_text(said)[:_MOST_SAID])

    return look


def _all(ready: Ready, target: Target) -> Look:
    looks = [begin(each, target) for each in ready.target]

    def look(limit_s: float) -> Seen:
        deadline = time.monotonic() + limit_s
        url = ""
        for each in looks:
            seen = each(max(_least(limit_s), deadline - time.monotonic()))
            if seen.missing:
                return seen
            url = url or seen.url
        return Seen(url=url)

    return look


def _any(ready: Ready, target: Target) -> Look:
    looks = [begin(each, target) for each in ready.target]

    def look(limit_s: float) -> Seen:
        deadline = time.monotonic() + limit_s
        missing: list[Seen] = []
        for number, each in enumerate(looks):
            # Each has its share: one that takes all the time keeps no other from passing.
            share = (deadline - time.monotonic()) / (len(looks) - number)
            seen = each(max(_least(limit_s), share))
            if not seen.missing:
                return seen
            missing.append(seen)
        return Seen("; ".join(each.missing for each in missing), hopeless=all(each.hopeless for each in missing))

    return look


def _least(limit_s: float) -> float:
    """What a probe gets when those before it took all: to give it nothing would say nothing of it."""
    return limit_s / 10


_LOOKS: dict[str, Callable[[Ready, Target], Look]] = {
    "tcp": _tcp,
    "http": _http,
    "log": _log,
    "call": _call,
    "health": _health,
    "all": _all,
    "any": _any,
}
