"""The connection to a container engine, and its errors in our words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.errors import DriverUnavailable, Gone, require_extra

if TYPE_CHECKING:
    from docker import APIClient

__all__ = ["OWNER", "RESOURCE", "Absent", "address", "asking", "connect", "reason"]

RESOURCE = "tether.resource"
"""The label with the tag, on containers, networks and volumes."""

OWNER = "tether.owner"
"""The label with the owner's id."""

_TIMEOUT_S = 60
_SOCKETS = (
    "/var/run/docker.sock",
    "{runtime}/docker.sock",
    "/run/podman/podman.sock",
    "{runtime}/podman/podman.sock",
)


def address(given: str | None) -> str:
    """Return the address of the engine in use: the given one, ``DOCKER_HOST``, or the first socket that is there."""
    chosen = given or os.environ.get("DOCKER_HOST")
    if chosen:
        return chosen
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    sockets = [path.format(runtime=runtime) for path in _SOCKETS]
    return f"unix://{next((path for path in sockets if Path(path).exists()), sockets[0])}"


class Absent(Gone):
    """The engine has no such container, network, volume or image."""


@contextmanager
def asking(where: str) -> Iterator[None]:
    """Turn what the client raises into our errors.

    Raises:
        DriverUnavailable: the engine does not answer, or refuses.
        Absent: it has no such thing.
    """
    require_extra("docker", "docker", "a container")
    from docker import errors
    from requests import exceptions

    try:
        yield
    except errors.NotFound as error:
        raise Absent(f"container engine {where}: {reason(error)}") from error
    except errors.APIError as error:
        raise DriverUnavailable(f"container engine {where} refused: {reason(error)}") from error
    except (exceptions.RequestException, errors.DockerException, OSError) as error:
        raise DriverUnavailable(
            f"container engine {where} does not answer: {_root_of(error)}; start it, or say where it is with DOCKER_HOST or engine="
        ) from error


def _root_of(error: BaseException) -> str:
    """The innermost cause in words: clients wrap it several times."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}"


def reason(error: Any) -> str:
    """Return what the engine said, without the client's words around it."""
    return str(error.explanation or error)


@cache
def connect(where: str) -> APIClient:
    """Return a client for an engine, which may be used by several threads. Raises DriverUnavailable if it does not answer."""
    if os.environ.get("DOCKER_TLS_VERIFY") and where.startswith("tcp://"):
        raise DriverUnavailable(
            f"container engine {where}: TLS is not supported; use a unix socket, for instance through ssh -L"
        )
    with asking(where):
        from docker import APIClient

        return APIClient(base_url=where, version="auto", timeout=_TIMEOUT_S)
