"""The interface of a provider that is plain JSON over HTTPS, and its errors in our words.

What creates is never sent twice by itself: most of these providers know no request again. But a refusal because of too many
requests (429) says that nothing was done; and what reads or deletes may be sent again, so that one broken connection fails no end.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from tether.drivers.cloud.provider import Refused, Seen, Unclear
from tether.drivers.cloud.spec import Machine, MachineRef
from tether.errors import DriverUnavailable, SpecError, require_extra

if TYPE_CHECKING:
    import ssl

    import httpx

__all__ = ["RESOURCE", "Api", "Interface", "Listed", "check_options", "insist"]

RESOURCE = "TETHER_RESOURCE"
"""The mark on whatever is made: the resource's id, as a tag or a variable of the environment."""

_TIMEOUT_S = 20.0
_BUSY_S = 45.0
_BUSY_PAUSE_S = 1.0
_SAID = 300
_PAUSES_S = (0.5, 1.0)
_HARMLESS = ("GET", "DELETE")


def check_options(spec: Machine | MachineRef, name: str, known: tuple[str, ...], unknown: Mapping[str, bool]) -> None:
    """Refuse what a provider has not: options that are not known, and what is said for no use."""
    wrong = sorted(set(spec.options) - set(known))
    if wrong:
        raise SpecError(f"options {', '.join(wrong)} are not known for {name}; there are {', '.join(known) or 'none'}")
    for what, is_wanted in unknown.items():
        if is_wanted:
            raise SpecError(f"{name} has no {what}")


def insist(send: Callable[[], Any]) -> Any:
    """Send what may be sent again, three times at most while its answer is unclear, and return what was answered. Raises as it."""
    for pause in _PAUSES_S:
        try:
            return send()
        except Unclear:
            time.sleep(pause)
    return send()


class Interface(ABC):
    """The interface of one account, whoever says who asks.

    Args:
        name: what the provider is called in errors.
        base: its address.

    Attributes:
        extra: what has to be installed to use it.
    """

    extra: ClassVar[str] = "cloud"

    def __init__(self, name: str, base: str) -> None:
        self.name = name
        self.base = base
        self._lock = threading.Lock()

    @abstractmethod
    def _token(self) -> str:
        """Return what says who asks; it is nowhere on record. Raises Refused."""

    def _is_busy(self, answer: httpx.Response) -> bool:
        """Whether it was refused for the number of requests, so that nothing was done."""
        return answer.status_code == 429

    @cached_property
    def _trusted(self) -> ssl.SSLContext:
        """Which certificates are believed; to read them takes longer than a request."""
        require_extra("httpx", self.extra, f"a machine at {self.name}")
        import httpx

        return httpx.create_ssl_context()

    def ask(self, method: str, path: str, sent: Any = None, *, creating: bool = False) -> Any:
        """Send one request, and return what was answered; None where there is no such thing (404), or nothing to say.

        Args:
            method: of the request.
            path: of the request.
            sent: its body.
            creating: whether no answer means that something may have been created.

        Raises:
            Refused: the provider said no, or could not be told.
            Unclear: with ``creating``: it may have been done.
            DriverUnavailable: it does not answer, or failed.
        """
        if creating or method not in _HARMLESS:
            return self._asked(method, path, sent, creating=creating)
        try:
            return self._asked(method, path, sent, creating=False)
        except Refused:
            raise
        except DriverUnavailable:
            time.sleep(_PAUSES_S[0])
            return self._asked(method, path, sent, creating=False)

    def _asked(self, method: str, path: str, sent: Any, *, creating: bool) -> Any:
        deadline = time.monotonic() + _BUSY_S
        while True:
            answer = self._send(method, path, sent, creating=creating)
            if not self._is_busy(answer):
                return self._taken(answer, creating=creating)
            if time.monotonic() > deadline:
                raise Refused(f"{self.name} is busy: it refuses so many requests")
            time.sleep(_BUSY_PAUSE_S)

    def _send(self, method: str, path: str, sent: Any, *, creating: bool) -> httpx.Response:
        with self._lock:
            token, trusted = self._token(), self._trusted
        import httpx

        headers = {"Authorization": f"Bearer {token}"}
        try:
            # A connection of its own: one that was kept may break for its age, and that would be an unclear answer.
            return httpx.request(
                method, f"{self.base}{path}", json=sent, headers=headers, timeout=_TIMEOUT_S, verify=trusted
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            # Nothing was sent, so nothing was created.
            raise (Refused if creating else DriverUnavailable)(f"{self.name} does not answer: {error}") from error
        except httpx.HTTPError as error:
            said = f"{self.name} does not answer: {error or type(error).__name__}"
            raise (Unclear if creating else DriverUnavailable)(said) from error

    def _taken(self, answer: httpx.Response, *, creating: bool) -> Any:
        if answer.is_success:
            if not answer.content:
                return None
            try:
                return answer.json()
            except ValueError as error:
                said = f"{self.name} answered what is no JSON"
                raise (Unclear if creating else DriverUnavailable)(said) from error
        if answer.status_code == 404 and not creating:
            return None
        said = f"{answer.status_code} {answer.text[:_SAID].strip()}"
        if answer.status_code >= 500 or answer.status_code == 408:
            raise (Unclear if creating else DriverUnavailable)(f"{self.name} failed: {said}")
        raise Refused(f"{self.name} refused: {said}")


class Api(Interface):
    """The interface of one account, whose key is in the environment.

    Args:
        name: what the provider is called in errors.
        base: its address.
        variable: of the environment, which has the key. It is read at each request, and is nowhere on record.
    """

    def __init__(self, name: str, base: str, variable: str) -> None:
        super().__init__(name, base)
        self._variable = variable

    def _token(self) -> str:
        key = os.environ.get(self._variable)
        if not key:
            raise Refused(f"{self.name}: there is no key here; set {self._variable}")
        return key


class Listed(ABC):
    """How the machines of a provider are found that lists all those of an account at once."""

    @abstractmethod
    def _all(self) -> Iterable[Seen]:
        """All that are listed."""

    @abstractmethod
    def _one(self, machine: str) -> Seen | None:
        """One by its id, whether it is listed or not; None if there is none."""

    def listed(self, tag: str) -> list[Seen]:
        """Return the machines with a mark. See `Lists`."""
        return [seen for seen in self._all() if seen.tag == tag]

    def look(self, ids: Sequence[str]) -> dict[str, Seen]:
        """Return machines by id: from the list, and what is not in it by itself. See `Lists`."""
        found = {seen.id: seen for seen in self._all() if seen.id in ids} if ids else {}
        for machine in set(ids) - set(found):
            seen = self._one(machine)
            if seen is not None:
                found[machine] = seen
        return found
