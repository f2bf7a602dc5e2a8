"""Hears from a cluster what becomes of pods: one thread a namespace, which waits in the kernel.

What a watch says is a hint. Its connection may be cut, half open, or answered by a server that is behind; so it is bounded on
both sides, and after each a list of all says how things are.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from tether.drivers.kubernetes.client import POD, Cluster
from tether.drivers.kubernetes.manifest import RESOURCE
from tether.errors import DriverUnavailable, TetherError

__all__ = ["Watch"]

_log = logging.getLogger("tether")

Object = dict[str, Any]

_WATCH_S = 20
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_SUBSCRIBE_S = 30.0


class Watch:
    """Calls functions with all pods, with each that changes, and when the cluster is lost.

    Args:
        cluster: where.
        listed: called with all pods that carry a tag, or with all there are.
        changed: called with what happened, and the pod.
        lost: called with the reason when the cluster does not answer any more.
    """

    def __init__(
        self,
        cluster: Cluster,
        listed: Callable[[list[Object]], None],
        changed: Callable[[str, Object], None],
        lost: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._listed = listed
        self._changed = changed
        self._lost = lost
        self._condition = threading.Condition()
        self._listening = False
        self._failures = 0
        self._said = ""
        self._all = False
        self._closed = False
        threading.Thread(target=self._run, name="tether-pods", daemon=True).start()

    def see_all(self) -> None:
        """Look at pods that carry no tag, too: from the next list on."""
        self._all = True

    def close(self) -> None:
        """Hear nothing any more; the thread ends with its connection."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def await_listening(self) -> None:
        """Return when changes are heard.

        Raises:
            DriverUnavailable: the cluster does not answer, tried just now.
        """
        with self._condition:
            failures = self._failures
            self._condition.notify_all()
            if not self._condition.wait_for(lambda: self._listening or self._failures > failures, _SUBSCRIBE_S):
                raise DriverUnavailable(f"cluster {self._cluster.where} takes over {_SUBSCRIBE_S:g} s to answer")
            if not self._listening:
                raise DriverUnavailable(self._said)

    def _run(self) -> None:
        pause = _FIRST_PAUSE_S
        while not self._closed:
            try:
                version = self._list()
                pause = _FIRST_PAUSE_S
            except DriverUnavailable as error:
                self._say_lost(str(error))
                with self._condition:
                    # Whoever starts something does not wait for the end of the pause.
                    self._condition.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            try:
                for what, pod in self._cluster.watch(POD, version, _WATCH_S, **self._selectors()):
                    if self._closed:
                        return
                    if pod["metadata"].get("name"):
                        self._tell(self._changed, what, pod)
            except DriverUnavailable as error:
                # The list that follows says whether that means anything.
                _log.debug("the watch of cluster %s broke: %s", self._cluster.where, error)
                with self._condition:
                    self._condition.wait(_FIRST_PAUSE_S)

    def _selectors(self) -> dict[str, str]:
        return {} if self._all else {"labelSelector": RESOURCE}

    def _list(self) -> str:
        found, version = self._cluster.list(POD, **self._selectors())
        self._tell(self._listed, found)
        with self._condition:
            self._listening = True
            self._condition.notify_all()
        return version

    def _say_lost(self, why: str) -> None:
        with self._condition:
            was_listening, self._listening, self._said = self._listening, False, why
            self._failures += 1
            self._condition.notify_all()
        if was_listening:
            self._tell(self._lost, why)

    @staticmethod
    def _tell(action: Callable[..., None], *what: Any) -> None:
        try:
            action(*what)
        except DriverUnavailable:
            # Lost in the same moment; the next list says so.
            return
        except TetherError as error:
            _log.warning("what a cluster said could not be handled: %s", error)
        except Exception:
            # This thread must go on for the other pods.
            _log.exception("tether could not handle what a cluster said")
