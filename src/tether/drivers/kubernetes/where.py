"""Which cluster: from a kubeconfig, or from the pod that this process runs in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.errors import DriverUnavailable, require_extra

if TYPE_CHECKING:
    from lightkube.config.kubeconfig import SingleConfig

__all__ = ["Where", "config_of", "find"]

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Where:
    """Where a pod is: enough to find its cluster again, and no secrets.

    Attributes:
        kubeconfig: the file; None for the account of the pod that this process runs in.
        context: of that file.
        namespace: the namespace.
        server: the address that the context led to when this was recorded.
    """

    kubeconfig: str | None
    context: str
    namespace: str
    server: str

    def __str__(self) -> str:
        return f"{self.context} ({self.server})"

    def record(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)

    @classmethod
    def recorded(cls, data: Mapping[str, Any]) -> Where:
        """Return what was recorded."""
        return cls(data["kubeconfig"], data["context"], data["namespace"], data["server"])


def find(kubeconfig: str | None, context: str | None, namespace: str | None) -> Where:
    """Say where a spec's cluster is; talks to nobody.

    Raises:
        DriverUnavailable: there is no such file or context, or none at all.
    """
    path = _file(kubeconfig)
    config = _load(path, context)
    chosen = namespace or config.namespace or "default"
    return Where(path, config.context_name, chosen, _server(config))


def _file(kubeconfig: str | None) -> str | None:
    """The kubeconfig in use; None for the account of the pod that this process runs in."""
    given = kubeconfig or next((each for each in os.environ.get("KUBECONFIG", "").split(os.pathsep) if each), None)
    if given is not None:
        return str(Path(given).expanduser().absolute())
    usual = Path("~/.kube/config").expanduser()
    inside = (_ACCOUNT / "token").exists() and "KUBERNETES_SERVICE_HOST" in os.environ
    return None if inside and not usual.exists() else str(usual)


def _load(path: str | None, context: str | None) -> SingleConfig:
    require_extra("lightkube", "kubernetes", "a pod")
    from lightkube.config.kubeconfig import KubeConfig
    from lightkube.core.exceptions import ConfigError

    called = path or "the account of this pod"
    try:
        loaded = KubeConfig.from_service_account() if path is None else KubeConfig.from_file(path)
        config = loaded.get(None if path is None else context)
    except (ConfigError, OSError, KeyError) as error:
        raise DriverUnavailable(
            f"no cluster can be found through {called}: {error}; say it with kubeconfig= and context="
        ) from error
    except Exception as error:
        # A file that is no YAML, or no kubeconfig: its text may hold tokens, so only the kind of error is said.
        raise DriverUnavailable(f"{called} is no kubeconfig that can be read ({type(error).__name__})") from error
    if config is None:
        raise DriverUnavailable(f"{called} has no current context; say one with context=")
    return config


def _server(config: SingleConfig) -> str:
    return config.cluster.server.rstrip("/")


def config_of(where: Where) -> SingleConfig:
    """Return how the cluster is talked to now.

    Raises:
        DriverUnavailable: the context is gone, or leads to another server by now: what is not there is then no proof of anything.
    """
    config = _load(where.kubeconfig, where.context)
    if _server(config) != where.server:
        raise DriverUnavailable(
            f"context {where.context} of {where.kubeconfig} leads to {_server(config)} by now, not to {where.server}; "
            f"what was started there can't be judged from here"
        )
    return config
