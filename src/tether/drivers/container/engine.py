"""The connection to a container engine, and its errors in our words."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.drivers.container import limits
from tether.drivers.container.address import Address, find, recorded
from tether.errors import DriverUnavailable, Gone, TetherError, require_extra

if TYPE_CHECKING:
    from docker import APIClient

__all__ = ["Absent", "Engine", "Engines", "Refused", "reason"]

_VERSION_IF_NOT_SAID = "1.41"


class Absent(Gone):
    """The engine has no such container, network, volume or image."""


class Refused(DriverUnavailable):
    """The engine answers, and does not do what it was asked for."""


def reason(error: Any) -> str:
    """Return what the engine said, without the client's words around it."""
    return str(error.explanation or error).strip()


class Engine:
    """One engine, with a client for each time limit; may be used by several threads.

    Args:
        address: where it is.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._clients: dict[float, APIClient] = {}
        self._version: str | None = None
        self._rootless: bool | None = None
        self._closed = False

    def __str__(self) -> str:
        return self.address.url

    @contextmanager
    def asked(self, limit_s: float = limits.LOOK_S) -> Iterator[APIClient]:
        """Lend a client, whose errors are turned into ours.

        Args:
            limit_s: the time limit for an answer, one of `limits`.

        Raises:
            DriverUnavailable: the engine does not answer.
            Refused: it answers with a refusal.
            Absent: it has no such thing.
        """
        require_extra("docker", "docker", "a container")
        from docker import errors
        from requests import exceptions

        try:
            yield self._client(limit_s)
        except TetherError:
            # Ours already; one of them is a TimeoutError as well.
            raise
        except errors.NotFound as error:
            raise Absent(f"container engine {self}: {reason(error)}") from error
        except errors.APIError as error:
            raise Refused(f"container engine {self} refused: {reason(error)}") from error
        except exceptions.Timeout as error:
            raise DriverUnavailable(
                f"container engine {self} does not answer within {limit_s:g} s; look at its log, or restart it"
            ) from error
        except (exceptions.RequestException, errors.DockerException, OSError) as error:
            raise DriverUnavailable(
                f"container engine {self} does not answer: {_root_of(error)}; "
                "start it, or say where it is with DOCKER_HOST or engine="
            ) from error

    @contextmanager
    def asked_for_lists(self, limit_s: float = limits.LOOK_S) -> Iterator[APIClient]:
        """The same for lists, which are empty rather than absent: an engine that has no list says nothing of what is there."""
        try:
            with self.asked(limit_s) as client:
                yield client
        except Absent as error:
            raise Refused(str(error)) from error

    def _client(self, limit_s: float) -> APIClient:
        with self._lock:
            made = self._clients.get(limit_s)
            version = self._version
            if self._closed:
                raise DriverUnavailable(f"container engine {self}: its connections were closed with their owner")
        if made is not None:
            return made
        # Not under the lock: a frozen engine would hold up who has a client already.
        made = self._connect(limit_s, version)
        with self._lock:
            self._version = made.api_version
            kept = self._clients.setdefault(limit_s, made)
        if kept is not made:
            made.close()
        return kept

    def _connect(self, limit_s: float, version: str | None) -> APIClient:
        """Make a client. Asks for the version of the engine's API, unless that is known."""
        from docker.errors import APIError

        client = self._make_client(limit_s, version or _VERSION_IF_NOT_SAID)
        if version is None:
            # What stands in front of it may let that question not pass.
            with suppress(APIError):
                said = client.version(api_version=False)["ApiVersion"]
                client._version = said  # type: ignore[attr-defined]  # noqa: SLF001 - what is asked from now on is asked in that
        return client

    def _make_client(self, limit_s: float, version: str) -> APIClient:
        if self.address.url.startswith("ssh://"):
            from tether.drivers.container.tunnel import client_by_ssh

            return client_by_ssh(self.address.url, limit_s, version)
        from docker import APIClient

        url = self.address.url
        tls = self._tls()
        if tls and url.startswith("tcp://"):
            url = "https://" + url.removeprefix("tcp://")
        client = APIClient(base_url=url, version=version, timeout=limit_s, tls=tls)  # type: ignore[arg-type]
        if tls:
            # Else authorities that the environment names for other purposes would count instead of the engine's.
            client.trust_env = False
        return client

    def _tls(self) -> Any:
        folder = Path(self.address.certificates)
        if not self.address.certificates:
            return False
        from docker.tls import TLSConfig

        pair, authority = (str(folder / "cert.pem"), str(folder / "key.pem")), folder / "ca.pem"
        return TLSConfig(
            client_cert=pair if Path(pair[0]).exists() else None,
            # Without one of its own, the engine is known to the authorities of this machine.
            ca_cert=str(authority) if self.address.verify and authority.exists() else None,
            verify=self.address.verify,
        )

    def is_rootless(self) -> bool:
        """Whether its containers are in networks that this machine can't reach; asked for once. Raises DriverUnavailable."""
        if self._rootless is None:
            with self.asked() as client:
                options = client.info().get("SecurityOptions") or []
            self._rootless = any("rootless" in option for option in options)
        return self._rootless

    def close(self) -> None:
        """Close all connections; whoever asks from now on is told so."""
        with self._lock:
            self._closed = True
            clients = list(self._clients.values())
            self._clients.clear()
        for client in clients:
            with suppress(Exception):
                client.close()


def _root_of(error: BaseException) -> str:
    """The innermost cause in words: clients wrap it several times."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}"


class Engines:
    """The engines that one driver talks to: each connected to once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: dict[Address, Engine] = {}

    def at(self, address: Address) -> Engine:
        """Return an engine; no connection is made yet."""
        with self._lock:
            return self._engines.setdefault(address, Engine(address))

    def of(self, data: Mapping[str, Any]) -> Engine:
        """Return the engine of a handle."""
        return self.at(recorded(data))

    def in_use(self, given: str | None = None) -> Engine:
        """Return the engine that is given, or in use here. Raises DriverUnavailable."""
        return self.at(find(given))

    def close(self) -> None:
        """Close the connections to all of them."""
        with self._lock:
            engines = list(self._engines.values())
        for engine in engines:
            engine.close()
