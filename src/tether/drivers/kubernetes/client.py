"""The connection to a cluster, and its errors in our words. Objects are what they are on the wire: mappings.

lightkube brings kubeconfig, credentials, TLS and transport. Its typed calls are not used: none of them can say by which uid
something is to be deleted, and its watch would wait for ever on a connection that is half open.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.drivers.kubernetes.where import Where, config_of
from tether.errors import DriverUnavailable, Gone

if TYPE_CHECKING:
    import httpx2

__all__ = ["CLAIM", "JOB", "POD", "SECRET", "SERVICE", "Absent", "Cluster", "Conflict", "Forbidden", "connect"]

Object = dict[str, Any]

POD = "pods"
SERVICE = "services"
SECRET = "secrets"  # noqa: S105
CLAIM = "persistentvolumeclaims"
JOB = "jobs"

_GROUPS = {JOB: "apis/batch/v1"}
_CONNECT_S = 5.0
_ANSWER_S = 15.0
_BUSY_TRIES = 6
_BUSY_PAUSE_S = 0.25
_LONGEST_BUSY_PAUSE_S = 5.0
_LATE_S = 5.0
"""How much later than it promised to end a watch may be heard nothing of, before its connection counts as broken."""


class Absent(Gone):
    """There is no such object."""


class Conflict(DriverUnavailable):
    """It exists already, or is not the one, or not the version, that was meant."""


class Forbidden(DriverUnavailable):
    """The account may not do that."""


class Cluster:
    """One namespace of a cluster, as one account sees it. May be used by several threads.

    Args:
        where: which.
    """

    def __init__(self, where: Where) -> None:
        from httpx2 import HTTPTransport, Limits, Timeout
        from lightkube.config import client_adapter

        self.where = where
        config = config_of(where)
        user = config.user
        with _saying(where):
            context = client_adapter.verify_cluster(config.cluster, user, config.abs_file)  # type: ignore[arg-type]
            transport = HTTPTransport(verify=context, limits=Limits(max_connections=None, max_keepalive_connections=8))
            timeout = Timeout(_ANSWER_S, connect=_CONNECT_S)
            parameters = client_adapter.ConnectionParams(timeout=timeout, transport=transport)
            self.http: httpx2.Client = client_adapter.Client(config, parameters)
        self._told = (0.0, 0.0)

    # -- time ----------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """What the server's clock shows, by its last answer; CLOCK_BOOTTIME goes on while this machine sleeps."""
        said, at = self._told
        return said + time.clock_gettime(time.CLOCK_BOOTTIME) - at if said else time.time()

    def _hear_time(self, response: httpx2.Response) -> None:
        date = response.headers.get("Date")
        if date:
            self._told = (parsedate_to_datetime(date).timestamp(), time.clock_gettime(time.CLOCK_BOOTTIME))

    # -- requests ------------------------------------------------------------------------------------------------------

    def path(self, kind: str, name: str = "", part: str = "", *, everywhere: bool = False) -> str:
        """Return where objects of a kind are, or one of them, or a part of it; or where those of all namespaces are."""
        within = () if everywhere else ("namespaces", self.where.namespace)
        pieces = (_GROUPS.get(kind, "api/v1"), *within, kind, name, part)
        return "/" + "/".join(piece for piece in pieces if piece)

    def ask(self, method: str, path: str, *, body: Any = None, kind: str = "application/json", **params: Any) -> Any:
        """Make one request and return the answer.

        A server that is busy (429) is asked again; one that gave no answer is not, since nobody knows what it did.

        Raises:
            Absent, Conflict, Forbidden: it said so.
            DriverUnavailable: it does not answer, or refuses.
        """
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": kind}
        for attempt in range(_BUSY_TRIES):
            with _saying(self.where):
                response = self.http.request(method, path, content=content, headers=headers, params=_given(params))
            self._hear_time(response)
            if response.status_code != 429 or attempt == _BUSY_TRIES - 1:
                break
            time.sleep(min(_pause(response, attempt), _LONGEST_BUSY_PAUSE_S))
        _check(self.where, response.status_code, response.content)
        return (
            response.json()
            if response.headers.get("Content-Type", "").startswith("application/json")
            else response.content
        )

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object; None if there is none."""
        try:
            found: Object = self.ask("GET", self.path(kind, name))
        except Absent:
            return None
        return found

    def list(self, kind: str, **selectors: str) -> tuple[list[Object], str]:
        """Return the objects that are selected, and the version of the whole. What is read is what is stored, not a cache."""
        answer = self.ask("GET", self.path(kind), **selectors)
        return answer.get("items") or [], answer["metadata"]["resourceVersion"]

    def create(self, kind: str, manifest: Object) -> Object:
        """Create an object. Of one with a name of our own making that is there already, this is the answer that was lost."""
        meta = manifest["metadata"]
        try:
            made: Object = self.ask("POST", self.path(kind), body=manifest)
        except Conflict:
            there = self.get(kind, meta["name"])
            labels = {} if there is None else there["metadata"].get("labels") or {}
            mine = there is not None and all(labels.get(key) == value for key, value in meta["labels"].items())
            if there is None or not mine or "deletionTimestamp" in there["metadata"]:
                raise
            return there
        return made

    def patch(self, kind: str, name: str, changes: Object) -> Object:
        """Merge changes into an object."""
        changed: Object = self.ask("PATCH", self.path(kind, name), body=changes, kind="application/merge-patch+json")
        return changed

    def delete(self, kind: str, name: str, uid: str, grace: int | None = None) -> bool:
        """Ask for the end of the very object with this uid; what depends on it goes too. False if it is gone already."""
        body: Object = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        try:
            self.ask("DELETE", self.path(kind, name), body=body)
        except Absent:
            return False
        except Conflict:
            there = self.get(kind, name)
            if there is not None and there["metadata"]["uid"] == uid:
                raise
            return False
        return True

    # -- streams -------------------------------------------------------------------------------------------------------

    def watch(self, kind: str, version: str, within_s: int, **selectors: str) -> Iterator[tuple[str, Object]]:
        """Yield changes since a version, until the server ends that after ``within_s`` seconds.

        They are hints: a connection that was cut, or is half open, loses some, so a list decides.

        Raises:
            DriverUnavailable: the connection broke, or the version is too old.
        """
        params = {"watch": "true", "resourceVersion": version, "timeoutSeconds": within_s, **selectors}
        for line in self.lines(self.path(kind), within_s + _LATE_S, **params):
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise DriverUnavailable(f"cluster {self.where}: {event['object'].get('message', 'the watch ended')}")
            yield event["type"], event["object"]

    def lines(self, path: str, silence_s: float | None, **params: Any) -> Iterator[bytes]:
        """Yield the lines of an answer as they come. Raises DriverUnavailable when nothing comes for so long."""
        from httpx2 import Timeout

        timeout = Timeout(_ANSWER_S, connect=_CONNECT_S, read=silence_s)
        with _saying(self.where), self.http.stream("GET", path, params=_given(params), timeout=timeout) as response:
            if response.status_code >= 400:
                _check(self.where, response.status_code, response.read())
            self._hear_time(response)
            rest = b""
            for piece in response.iter_bytes():
                *whole, rest = (rest + piece).split(b"\n")
                yield from whole
            if rest:
                yield rest


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if value is not None}


def _pause(response: httpx2.Response, attempt: int) -> float:
    try:
        return float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return _BUSY_PAUSE_S * 2.0**attempt


def _check(where: Where, status: int, content: bytes) -> None:
    """Raise what an answer means, if it is no success."""
    if status < 400:
        return
    try:
        said = str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        said = content[:200].decode(errors="replace")
    kinds: dict[int, Callable[[str], Exception]] = {404: Absent, 409: Conflict, 403: Forbidden, 401: Forbidden}
    raise kinds.get(status, DriverUnavailable)(f"cluster {where} refused ({status}): {said}")


@contextmanager
def _saying(where: Where) -> Iterator[None]:
    """Turn what the transport raises into our error."""
    from httpx2 import HTTPError, InvalidURL, StreamError
    from lightkube.core.exceptions import ConfigError

    try:
        yield
    except (HTTPError, StreamError, InvalidURL, ConfigError, OSError) as error:
        # Not the text of ConfigError: the output of a credential helper is in it.
        said = "its credential helper failed" if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        raise DriverUnavailable(
            f"cluster {where} does not answer: {said}; look at it with 'kubectl --context {where.context} get pods'"
        ) from error


@cache
def _connection(where: Where, _changed: int) -> Cluster:
    return Cluster(where)


def connect(where: Where) -> Cluster:
    """Return the connection to a cluster; nothing is asked yet. A kubeconfig that was written anew is read anew.

    Raises:
        DriverUnavailable: there is no such file or context by now.
    """
    try:
        changed = 0 if where.kubeconfig is None else Path(where.kubeconfig).stat().st_mtime_ns
    except OSError as error:
        raise DriverUnavailable(f"kubeconfig {where.kubeconfig} can't be read: {error}") from error
    return _connection(where, changed)
