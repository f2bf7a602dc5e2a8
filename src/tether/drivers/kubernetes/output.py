"""What a pod writes: read, followed over broken connections, and kept when it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from tether.drivers.kubernetes.client import POD, Absent, Cluster
from tether.errors import DriverUnavailable
from tether.ledger import place

__all__ = ["Keeper", "follow", "read"]

_SAVED_LINES = 10_000
_SILENCE_S = 5.0
_PAUSE_S = 0.5
_ENGINE_SAYS = b"rpc error: code = "
"""How a kubelet ends a stream whose container was removed meanwhile: as if the container had written that."""


def read(cluster: Cluster, pod: str, container: str | None, lines: int | None) -> bytes:
    """Return its last lines, or all; nothing of one that has not begun. Raises DriverUnavailable, Absent."""
    try:
        said: bytes | str = cluster.ask("GET", cluster.path(POD, pod, "log"), container=container, tailLines=lines)
    except DriverUnavailable as error:
        if "waiting to start" in str(error) or "ContainerCreating" in str(error) or "is not available" in str(error):
            return b""
        raise
    return said if isinstance(said, bytes) else str(said).encode()


def _stamp(line: bytes) -> tuple[str, bytes]:
    stamp, _, text = line.partition(b" ")
    return stamp.decode(errors="replace"), text


def follow(cluster: Cluster, pod: str, container: str | None, goes_on: Callable[[], bool]) -> Iterator[bytes]:
    """Yield what it writes from now on, whole lines, until it ends; empty bytes now and then.

    Each line has the time at which it was written, so that after a broken connection none is missed and none comes twice.
    """
    last, since = "", datetime.fromtimestamp(cluster.now()).astimezone().isoformat(timespec="seconds")
    while True:
        try:
            path = cluster.path(POD, pod, "log")
            for line in cluster.lines(
                path, _SILENCE_S, container=container, follow="true", timestamps="true", sinceTime=since
            ):
                stamp, text = _stamp(line)
                if stamp > last:
                    last, since = stamp, stamp
                    yield text + b"\n"
        except Absent:
            return
        except DriverUnavailable:
            yield b""
        try:
            if not goes_on():
                return
        except DriverUnavailable:
            yield b""
        time.sleep(_PAUSE_S)


class Keeper:
    """Keeps what a pod wrote in a file of this machine, its last words too: listens while it ends.

    Args:
        cluster: where it is.
        pod: its name.
        container: of it.
        file: where it is kept.
    """

    def __init__(self, cluster: Cluster, pod: str, container: str | None, file: Path) -> None:
        self._file = file
        self._heard: list[bytes] = []
        self._listening = threading.Event()
        self._thread = threading.Thread(
            target=self._listen, args=(cluster, pod, container), name="tether-log", daemon=True
        )
        self._thread.start()
        # What it writes from now on is heard; a cluster that is slow with its logs does not hold up an end.
        self._listening.wait(_PAUSE_S)

    def _listen(self, cluster: Cluster, pod: str, container: str | None) -> None:
        path = cluster.path(POD, pod, "log")
        try:
            for line in cluster.lines(path, 60.0, container=container, follow="true", tailLines=_SAVED_LINES):
                self._heard.append(line + b"\n")
                self._listening.set()
        except (DriverUnavailable, Absent):
            # Without its output it ends all the same.
            return
        finally:
            self._listening.set()

    def keep(self, within_s: float) -> None:
        """It has ended: write what was heard, the last of which may still be on its way for so long."""
        self._thread.join(within_s)
        heard = list(self._heard)
        if heard and heard[-1].startswith(_ENGINE_SAYS):
            heard.pop()
        if heard:
            try:
                place.write_private(self._file, b"".join(heard))
            except OSError:
                # A full disk here keeps nobody from ending it there.
                return
