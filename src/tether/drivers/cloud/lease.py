"""What ends a machine where nobody is left to: a timer in the machine, and one at the provider.

A lease counts only if it was proved: the one in the machine when the machine has said on its console that it reads the owner's
word, the one at the provider when reading it back showed it. Until then, and without either, it is the owner's reaper that ends it.
"""

from __future__ import annotations

import logging
import time
from typing import Literal

from tether.drivers.cloud.provider import CanLease, CanRenew, HasConsole, Provider, Refused
from tether.errors import DriverUnavailable
from tether.model import Handle

__all__ = ["ARMED", "Lease", "Tier"]

Tier = Literal["provider", "machine", "reaper"]

_log = logging.getLogger("tether")

ARMED = "tether-lease {tag}: armed"
_PROOF_PAUSE_S = 5.0
_FIRST_PAUSE_S = 0.2


class Lease:
    """The lease of one machine while its owner lives.

    Attributes:
        tier: the strongest that was proved so far: "provider", "machine" or "reaper".
        error: why the last renewal failed; empty if it did not.
    """

    def __init__(self, provider: Provider, handle: Handle) -> None:
        self.tier: Tier = "reaper"
        self.error = ""
        self._provider = provider
        self._handle = handle
        self._next = 0.0
        self._next_proof = 0.0
        self._is_machine_armed = False

    @property
    def seconds(self) -> float | None:
        """How long it is; None for none."""
        lease = self._handle.data.get("lease")
        return None if lease is None else float(lease)

    def begin(self, lag_s: float) -> None:
        """Renew it for the first time, once the machine is shown.

        Raises:
            Refused: its owner may not renew it, so that the machine would end later for want of word: better to say so now.
        """
        deadline = time.monotonic() + lag_s
        while True:
            try:
                self.renew()
                return
            except Refused:
                raise
            except DriverUnavailable:
                if time.monotonic() > deadline:
                    return
            time.sleep(_FIRST_PAUSE_S)

    def renew(self) -> None:
        """Renew it with whoever keeps it. Raises DriverUnavailable if one of them refused or did not answer."""
        data, now = self._handle.data, time.time()
        if self.seconds is None:
            return
        self._next = time.monotonic() + self.seconds / 3
        if isinstance(self._provider, CanRenew):
            self._provider.renew(data["id"], f"{int(now * 1000)}")
        by_provider = False
        if data.get("leased_by_provider") and isinstance(self._provider, CanLease):
            until = min(now + self.seconds + data.get("kept", 0.0), data["made"] + data["max_lifetime"])
            by_provider = self._provider.lease(self._handle.tag, data["id"], until)
        self.error = ""
        self.tier = "provider" if by_provider else "machine" if self._is_machine_armed else "reaper"

    def tick(self) -> None:
        """Renew it if it is time, and look for its proof. What fails is said in ``error``; there is time for two more tries."""
        if self.seconds is None:
            return
        try:
            if time.monotonic() >= self._next:
                self.renew()
            self._prove()
        except DriverUnavailable as error:
            self._next = time.monotonic() + self.seconds / 10
            if not self.error:
                _log.warning("resource %s: its lease could not be renewed: %s", self._handle.tag, error)
            self.error = str(error)

    def _prove(self) -> None:
        if self._is_machine_armed or time.monotonic() < self._next_proof or not isinstance(self._provider, HasConsole):
            return
        self._next_proof = time.monotonic() + min(_PROOF_PAUSE_S, (self.seconds or 0.0) / 3)
        if not isinstance(self._provider, CanRenew):
            return
        if ARMED.format(tag=self._handle.tag).encode() in self._provider.console(self._handle.data["id"]):
            self._is_machine_armed = True
            if self.tier == "reaper":
                self.tier = "machine"
