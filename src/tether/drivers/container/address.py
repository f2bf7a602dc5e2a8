"""Which engine is meant: given, by DOCKER_HOST, by the docker context in use, or the first socket that is there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tether.errors import DriverUnavailable

__all__ = ["Address", "find", "recorded"]

_SOCKETS = (
    "/var/run/docker.sock",
    "{runtime}/docker.sock",
    "/run/podman/podman.sock",
    "{runtime}/podman/podman.sock",
)


@dataclass(frozen=True)
class Address:
    """Where an engine is, and by which certificates it is known. No secrets: a key stays in its file.

    Attributes:
        url: ``unix:///path``, ``tcp://host:port`` or ``ssh://user@host``.
        certificates: the folder with ca.pem, cert.pem and key.pem; empty for no TLS.
        verify: whether the engine must prove who it is.
    """

    url: str
    certificates: str = ""
    verify: bool = True

    def __str__(self) -> str:
        return self.url

    @property
    def is_socket(self) -> bool:
        """Whether it is a socket of this machine; what answers there may be anywhere all the same."""
        return self.url.startswith("unix:")

    def record(self) -> dict[str, Any]:
        """Return what a handle remembers of it."""
        tls = {"certificates": self.certificates, "verify": self.verify} if self.certificates else {}
        return {"engine": self.url, **({"tls": tls} if tls else {})}


def recorded(data: Mapping[str, Any]) -> Address:
    """Return the address that a handle remembers."""
    tls = data.get("tls") or {}
    return Address(data["engine"], tls.get("certificates", ""), tls.get("verify", True))


def find(given: str | None) -> Address:
    """Return the engine that is meant.

    As docker(1) does it: ``DOCKER_HOST`` comes before ``DOCKER_CONTEXT``, and that before the context in use. Reads files only.

    Raises:
        DriverUnavailable: the docker context in use can't be read.
    """
    chosen = given or os.environ.get("DOCKER_HOST")
    if chosen:
        return _with_tls_of_environment(chosen)
    name = os.environ.get("DOCKER_CONTEXT") or _current_context()
    if name and name != "default":
        return _of_context(name)
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    sockets = [path.format(runtime=runtime) for path in _SOCKETS]
    return Address(f"unix://{next((path for path in sockets if Path(path).exists()), sockets[0])}")


def _with_tls_of_environment(url: str) -> Address:
    wants = url.startswith(("tcp://", "https://")) and bool(
        os.environ.get("DOCKER_TLS_VERIFY") or os.environ.get("DOCKER_TLS")
    )
    if not wants and not url.startswith("https://"):
        return Address(url)
    folder = os.environ.get("DOCKER_CERT_PATH") or str(_config_folder())
    return Address(
        url, str(Path(folder).absolute()), bool(os.environ.get("DOCKER_TLS_VERIFY")) or url.startswith("https")
    )


def _config_folder() -> Path:
    return Path(os.environ.get("DOCKER_CONFIG") or Path("~/.docker").expanduser())


def _current_context() -> str:
    try:
        return str(json.loads((_config_folder() / "config.json").read_bytes()).get("currentContext") or "")
    except (OSError, ValueError, AttributeError, RuntimeError):
        # Without a home, or with a file that only docker(1) could complain of: no context is in use.
        return ""


def _of_context(name: str) -> Address:
    """Source: docker(1), ``docker context``: contexts/meta and contexts/tls, in folders named by the digest of the name."""
    folder = _config_folder() / "contexts"
    digest = sha256(name.encode()).hexdigest()
    try:
        meta = json.loads((folder / "meta" / digest / "meta.json").read_bytes())
        endpoint = meta["Endpoints"]["docker"]
        url = str(endpoint["Host"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DriverUnavailable(
            f"the docker context in use, {name!r}, can't be read ({type(error).__name__}: {error}); choose another with "
            "'docker context use', or say where the engine is with DOCKER_HOST or engine="
        ) from error
    certificates = folder / "tls" / digest / "docker"
    has_tls = certificates.is_dir() and url.startswith(("tcp://", "https://"))
    return Address(url, str(certificates) if has_tls else "", not endpoint.get("SkipTLSVerify", False))
