"""A port of this machine that leads to a port of a pod, through the API server: it ends with this process, and needs no kubectl.

Source: kubernetes/kubernetes pkg/kubelet/cri/streaming/portforward/websocket.go: channel 0 has data, channel 1 an error in words,
and the first message of each is the port's number.
"""

from __future__ import annotations

import socket
import threading
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any

from tether.drivers.kubernetes import channels
from tether.drivers.kubernetes.client import Cluster
from tether.errors import DriverUnavailable

if TYPE_CHECKING:
    from httpx2.websockets import WebSocketSession

__all__ = ["Forward", "refusal"]

_DATA = b"\0"
_PIECE = 1 << 16
_REFUSED_WITHIN_S = 0.3
_BACKLOG = 64


def _open(cluster: Cluster, pod: str, port: int) -> AbstractContextManager[WebSocketSession]:
    return channels.session(cluster, pod, "portforward", [("ports", port)], "forwards no port")


def refusal(cluster: Cluster, pod: str, port: int) -> str:
    """Say why nobody answers at a port of a pod; empty if somebody seems to, who may also just be slow to say no.

    A forwarded port accepts every connection; whether anybody is behind it is said afterwards.
    """
    with _open(cluster, pod, port) as session:
        greeted = 0
        with suppress(TimeoutError):
            while True:
                message = channels.receive(session, _REFUSED_WITHIN_S)
                if message is None:
                    return f"port {port} of pod {pod} closed the connection"
                greeted += 1
                if message[0] == 1 and greeted > 2:
                    return f"nothing listens on port {port} of pod {pod}"
    return ""


class Forward:
    """One forwarded port, until it is closed.

    Args:
        cluster: where the pod is.
        pod: its name.
        port: of the pod.

    Attributes:
        port: of this machine's loopback address.
    """

    def __init__(self, cluster: Cluster, pod: str, port: int) -> None:
        self._cluster = cluster
        self._pod = pod
        self._far = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name=f"tether-forward-{pod}", daemon=True).start()

    def close(self) -> None:
        """Accept nothing any more; what is open ends by itself."""
        with suppress(OSError):
            # Wakes the thread that accepts, which close() alone does not.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near,), name="tether-forward", daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        """Carry one connection: this thread what comes from the pod, another what goes there."""
        with near, suppress(DriverUnavailable), _open(self._cluster, self._pod, self._far) as session:
            threading.Thread(target=self._send, args=(near, session), name="tether-forward-out", daemon=True).start()
            self._bring(near, session)

    @staticmethod
    def _bring(near: socket.socket, session: Any) -> None:
        greeted: set[int] = set()
        while (message := channels.receive(session)) is not None:
            channel, data = message
            if channel not in greeted:
                # The number of the port, in two bytes; more may follow at once.
                greeted.add(channel)
                data = data[2:]
            if channel == 1 and data:
                break
            try:
                near.sendall(data)
            except OSError:
                break
        with suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _send(near: socket.socket, session: Any) -> None:
        from httpx2.websockets import HTTPXWSException

        with suppress(OSError, HTTPXWSException):
            while data := near.recv(_PIECE):
                session.send_bytes(_DATA + data)
        # This protocol can't say that one direction has ended: the other goes on until the pod closes it.
