"""When a resource counts as ready, as a spec says it. What can't be right is refused here; `looks` finds out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tether.errors import SpecError
from tether.model import Ready
from tether.redaction import redact_text

__all__ = ["Asked", "Target", "all_of", "any_of", "call", "healthy", "http", "log", "tcp"]

_ATTEMPT_S = 5.0
_LONGEST_ATTEMPT_S = 86_400.0
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""A method, or the name of a header. Source: RFC 9110, 5.6.2."""


@dataclass(frozen=True)
class Target:
    """What is probed.

    Attributes:
        host, port: where it listens; port None for what has none.
        tls: whether it speaks TLS there, where the probe does not say so itself.
        missing: says what is missing before a connection is tried, where that is not to be seen in this machine's socket tables.
        direct: where a connection is tried instead, if what listens at the port may be somebody's proxy.
        pids: lists the live members of its tree; None if it is no process tree of this machine.
        log: returns its output.
        log_from: returns its output from a position on, and where that ends; None where it is not a file of this machine.
        health: says what is missing by its own health check, empty for nothing; None if it has no such check.
        subject: what a `call` probe is called with.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    tls: bool = False
    missing: Callable[[], str] | None = None
    direct: tuple[str, int] | None = None
    pids: Callable[[], tuple[int, ...]] | None = None
    log: Callable[[], bytes] = bytes
    log_from: Callable[[int], tuple[bytes, int]] | None = None
    health: Callable[[], str] | None = None
    subject: Any = None


@dataclass(frozen=True, repr=False)
class Asked:
    """What an `http` probe asks, and what answer it takes; see there."""

    path: str
    method: str
    status: frozenset[int] | Callable[[int], Any] | None
    headers: tuple[tuple[str, str], ...]
    body: bytes | None
    expects: re.Pattern[bytes] | Callable[[bytes], Any] | None
    scheme: Literal["http", "https"] | None
    ca_file: str | None
    verify: bool
    attempt_s: float

    def __repr__(self) -> str:
        """Show the path, without what may be a secret."""
        return repr(self.shown_path)

    @property
    def shown_path(self) -> str:
        """The path as it may be shown and recorded: without its query, any of which may be a secret."""
        path, question, _ = self.path.partition("?")
        return redact_text(path) + ("?***" if question else "")

    @property
    def sends_more(self) -> bool:
        """Whether it sends what is on no record, so that nobody else can ask the same."""
        return bool("?" in self.path or self.headers or self.body)

    def takes(self, status: int) -> bool:
        """Whether this status is a yes."""
        if self.status is None:
            return status < 400
        return status in self.status if isinstance(self.status, frozenset) else bool(self.status(status))


def http(
    path: str = "/",
    *,
    timeout: float = 60.0,
    method: str = "GET",
    status: int | Collection[int] | Callable[[int], Any] | None = None,
    headers: Mapping[str, str] | None = None,
    body: str | bytes | None = None,
    expects: str | Callable[[bytes], Any] | None = None,
    scheme: Literal["http", "https"] | None = None,
    ca_file: str | os.PathLike[str] | None = None,
    verify: bool = True,
    attempt: float = _ATTEMPT_S,
) -> Ready:
    """Ready when a request to the resource's port is answered as it should be, within ``timeout`` seconds.

    Args:
        path: what is asked for, with a query if need be.
        timeout: how long a start waits.
        method: of the request.
        status: which status is a yes: one, several, or a function of it; by default any below 400. Redirects are not followed.
        headers: sent with it. They are never shown or recorded; nor are the query and the body.
        body: sent with it.
        expects: what the body of the answer must have in it, as a regular expression, or a function of it (its first megabyte).
        scheme: "https" for a server that speaks TLS; by default as in its address, and "https" with ``ca_file``.
        ca_file: the certificates of the authorities that its certificate is checked with; by default those of this machine.
        verify: False takes any certificate.
        attempt: seconds for one request and its whole answer, however it trickles in.

    Raises:
        SpecError: something of it can't be right.
    """
    if not isinstance(path, str) or not path.startswith("/"):
        raise SpecError(f"http() takes a path that begins with '/', not {redact_text(repr(path))}")
    _check_path(path)
    if not isinstance(method, str) or not _TOKEN.fullmatch(method):
        raise SpecError(f"http(): method={method!r} is no method of HTTP")
    if scheme not in ("http", "https", None):
        raise SpecError(f"http(): scheme={scheme!r} is not known; use 'http' or 'https'")
    by_tls = ca_file is not None or not verify
    if scheme == "http" and by_tls:
        raise SpecError("http(): ca_file= and verify= are for https")
    if ca_file is not None and not verify:
        raise SpecError("http(): ca_file= says what is checked, and verify=False that nothing is")
    if isinstance(attempt, bool) or not isinstance(attempt, int | float) or not 0 < attempt <= _LONGEST_ATTEMPT_S:
        raise SpecError(f"http(): attempt={attempt!r} must be more than 0 seconds, and at most a day")
    if ca_file is not None and (not isinstance(ca_file, str | os.PathLike) or "\0" in str(ca_file)):
        raise SpecError(f"http(): ca_file={ca_file!r} must be a path")
    asked = Asked(
        path,
        method.upper(),
        _status(status),
        _headers(headers or {}),
        _body(body),
        _expected(expects),
        scheme or ("https" if by_tls else None),
        None if ca_file is None else os.fsdecode(ca_file),
        bool(verify),
        float(attempt),
    )
    return Ready("http", asked, timeout)


def _check_path(path: str) -> None:
    try:
        path.encode()
    except UnicodeError:
        raise SpecError("http(): its path has characters that no request can have") from None
    if any(character <= " " or character == "\x7f" for character in path):
        raise SpecError("http(): a path can't have spaces or control characters; write them as %20")


def _status(status: Any) -> frozenset[int] | Callable[[int], Any] | None:
    if status is None:
        return None
    if callable(status):
        function: Callable[[int], Any] = status
        return function
    wanted = [status] if isinstance(status, int) else status
    if not isinstance(wanted, Collection) or isinstance(wanted, str | bytes) or not wanted:
        raise SpecError(f"http(): status={status!r} must be a status, several, or a function of one")
    for each in wanted:
        if isinstance(each, bool) or not isinstance(each, int) or not 100 <= each <= 599:
            raise SpecError(f"http(): {each!r} is no status of HTTP")
    return frozenset(map(int, wanted))


def _headers(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Refuse what can't be sent; values are never shown, for they may be secrets."""
    if not isinstance(headers, Mapping):
        raise SpecError(f"http(): headers must be a mapping of names to values, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise SpecError(f"http(): {redact_text(repr(name))} can't be the name of a header")
        if not isinstance(value, str):
            raise SpecError(f"http(): the value of header {name} must be text, not {type(value).__name__}")
        try:
            value.encode("latin-1")
        except UnicodeError:
            raise SpecError(f"http(): the value of header {name} has characters that no header can have") from None
        if any(character in value for character in "\r\n\0"):
            raise SpecError(f"http(): the value of header {name} has a line break in it")
    return tuple(headers.items())


def _body(body: Any) -> bytes | None:
    if isinstance(body, str):
        try:
            return body.encode()
        except UnicodeError:
            raise SpecError("http(): body has characters that can't be sent; give bytes") from None
    if body is not None and not isinstance(body, bytes):
        raise SpecError(f"http(): body must be text or bytes, not {type(body).__name__}")
    return body


def _expected(expects: Any) -> re.Pattern[bytes] | Callable[[bytes], Any] | None:
    return expects if expects is None or callable(expects) else _pattern(expects, "http(): expects=")


def _pattern(pattern: Any, what: str) -> re.Pattern[bytes]:
    try:
        return re.compile(pattern.encode(), re.MULTILINE)
    except (re.error, AttributeError, UnicodeError) as error:
        raise SpecError(f"{what} takes a regular expression, and {pattern!r} is none: {error}") from error


def tcp(*, timeout: float = 60.0) -> Ready:
    """Ready when the resource's port accepts a connection, within ``timeout`` seconds."""
    return Ready("tcp", None, timeout)


def log(pattern: str, *, timeout: float = 60.0) -> Ready:
    """Ready when the regular expression ``pattern`` is found in the resource's log, within ``timeout`` seconds.

    Of a log in a file of this machine only what is new is read at each look; a match may begin up to 64 kB before that.
    """
    return Ready("log", _pattern(pattern, "log()"), timeout)


def healthy(*, timeout: float = 60.0) -> Ready:
    """Ready when the health check of a container's image says "healthy", within ``timeout`` seconds."""
    return Ready("health", None, timeout)


def call(function: Callable[[Any], Any], *, timeout: float = 60.0) -> Ready:
    """Ready when ``function(resource)`` returns something true, within ``timeout`` seconds; an exception is a "not yet".

    Nothing interrupts the function: it should return soon.
    """
    if not callable(function):
        raise SpecError(f"call() takes a function, not {function!r}")
    return Ready("call", function, timeout)


def all_of(*probes: Ready, timeout: float | None = None) -> Ready:
    """Ready when every one of some probes passes, within ``timeout`` seconds; by default the longest of their own."""
    return _combined("all", probes, timeout)


def any_of(*probes: Ready, timeout: float | None = None) -> Ready:
    """Ready as soon as one of some probes passes, within ``timeout`` seconds; by default the longest of their own."""
    return _combined("any", probes, timeout)


def _combined(kind: Literal["all", "any"], probes: tuple[Ready, ...], timeout: float | None) -> Ready:
    longest = max((each.timeout for each in probes if isinstance(each, Ready)), default=60.0)
    return Ready(kind, probes, longest if timeout is None else timeout)
