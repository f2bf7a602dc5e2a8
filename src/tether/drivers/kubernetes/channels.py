"""A connection into a pod through the API server: several channels over one WebSocket, each message with its channel's number.

Source: kubernetes/kubernetes staging/src/k8s.io/apimachinery/pkg/util/httpstream/wsstream/doc.go, KEP-4006.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from tether.drivers.kubernetes.client import POD, Cluster
from tether.errors import DriverUnavailable

if TYPE_CHECKING:
    from httpx2.websockets import WebSocketSession

__all__ = ["PROTOCOL", "receive", "session"]

PROTOCOL = "v4.channel.k8s.io"
"""Every server since 1.4 has it, and all channels are bytes. That an input has ended, it can't say; later ones can."""

_LARGEST_MESSAGE = 1 << 24


@contextmanager
def session(
    cluster: Cluster, pod: str, part: str, params: Sequence[tuple[str, Any]], what: str
) -> Iterator[WebSocketSession]:
    """Open a connection to a part of a pod for the time of a block.

    Args:
        cluster: where the pod is.
        pod: its name.
        part: "portforward" or "exec".
        params: what is asked for.
        what: that in words, should it be refused.

    Raises:
        DriverUnavailable: there is no connection to be had.
    """
    from httpx2 import HTTPError
    from httpx2.websockets import HTTPXWSException, WebSocketUpgradeError

    opened = cluster.http.websocket(
        cluster.path(POD, pod, part),
        subprotocols=[PROTOCOL],
        params=list(params),
        keepalive_ping_interval_seconds=None,
        max_message_size_bytes=_LARGEST_MESSAGE,
    )
    try:
        connected = opened.__enter__()
    except (HTTPError, HTTPXWSException, OSError) as error:
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, WebSocketUpgradeError):
            said = f"answered {error.response.status_code}"
        raise DriverUnavailable(f"cluster {cluster.where} {what} of pod {pod}: {said}") from error
    try:
        yield connected
    finally:
        with suppress(HTTPError, HTTPXWSException, OSError):
            opened.__exit__(None, None, None)


def receive(connected: WebSocketSession, timeout: float | None = None) -> tuple[int, bytes] | None:
    """Return the next message as channel and data; None at the end. Raises TimeoutError when nothing came for so long."""
    from httpx2.websockets import HTTPXWSException

    try:
        message = connected.receive_bytes(timeout)
    except HTTPXWSException:
        return None
    return (message[0], message[1:]) if message else (0, b"")
