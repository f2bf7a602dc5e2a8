"""What ends a machine where nobody is left to: a timer in the machine, and one at the provider.

A lease counts only if it was proved: the one in the machine when the machine has said on its console that it reads the owner's
word, the one at the provider when reading it back showed it. Until then, and without either, it is the owner's reaper that ends it.
"""

from __future__ import annotations

import base64
import logging
import time
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from typing import Literal

from tether.drivers.cloud.provider import CanLease, CanRenew, HasConsole, Provider, Refused
from tether.drivers.cloud.spec import Machine
from tether.errors import DriverUnavailable
from tether.model import Handle

__all__ = ["Lease", "Tier", "boot_data"]

Tier = Literal["provider", "machine", "reaper"]

_log = logging.getLogger("tether")

_ARMED = "tether-lease {tag}: armed"
_PROOF_PAUSE_S = 5.0
_FIRST_PAUSE_S = 0.2

# Plain POSIX sh. Times are counted by the machine's own uptime, and a lease begins anew whenever the word changes: no two
# clocks are compared. Without ever having read a word it ends the machine at the end of its lifetime only. It goes on saying
# shutdown, which may be refused while the machine is still booting.
_TIMER = """\
tether_lease() {{
  PATH=$PATH:/usr/sbin:/sbin; out=/dev/console; {{ : >$out; }} 2>/dev/null || out=/dev/stdout
  up() {{ cut -d. -f1 /proc/uptime; }}
  word() {{ {read}; }}
  born=$(up); last=$born; old=
  while :; do
    new=$(word 2>/dev/null) || new=
    now=$(up)
    if [ -n "$new" ] && [ "$new" != "$old" ]; then
      [ -n "$old" ] || echo "{armed}" >>$out
      old=$new; last=$now
    fi
    if [ $((now - born)) -ge {lifetime} ]; then why=lifetime
    elif [ -n "$old" ] && [ {lease} -gt 0 ] && [ $((now - last)) -ge {lease} ]; then why=lease
    else why=; fi
    if [ -n "$why" ]; then echo "tether-lease {tag}: the $why is over" >>$out; shutdown -h now; fi
    sleep {pause}
  done
}}
"""

_SCRIPT = """\
#!/bin/sh
{timer}tether_lease </dev/null &
"""

_WITH_USER_SCRIPT = """\
tether_user=$(mktemp -d) && printf %s '{script}' | base64 -d >"$tether_user/user-data" && chmod 700 "$tether_user/user-data"
exec "$tether_user/user-data"
"""


def boot_data(spec: Machine, tag: str, provider: Provider, kept_s: float) -> bytes:
    """Return what the machine runs at boot: its timer before anything else, then the user's data.

    Args:
        spec: what was asked for.
        tag: the machine's.
        provider: who has it; where it can't pass on a word, the user's data stay as they are.
        kept_s: for how long after its lease it waits for the next owner.
    """
    users = spec.user_data.encode() if isinstance(spec.user_data, str) else spec.user_data
    if not isinstance(provider, CanRenew):
        return users
    lease_s = 0 if spec.lease is None else max(1, int(spec.lease + kept_s))
    timer = _TIMER.format(
        read=provider.watch_script() if lease_s else "false",
        armed=_ARMED.format(tag=tag),
        tag=tag,
        lifetime=max(1, int(spec.max_lifetime)),
        lease=lease_s,
        pause=max(1, min(15, lease_s // 6)) if lease_s else 15,
    )
    script = _SCRIPT.format(timer=timer).encode()
    if not users:
        return script
    if users.startswith(b"#!"):
        return script + _WITH_USER_SCRIPT.format(script=base64.b64encode(users).decode()).encode()
    return _multipart(script, users)


def _multipart(script: bytes, users: bytes) -> bytes:
    """Both for cloud-init: the timer as a boothook, which runs before all else. Source: cloud-init, user data formats."""
    whole = MIMEMultipart()
    is_multipart = users.lstrip().lower().startswith((b"content-type: multipart", b"mime-version"))
    kind = ("multipart", "mixed") if is_multipart else ("text", "cloud-config")
    for (main, sub), data in ((("text", "cloud-boothook"), script), (kind, users)):
        if main == "multipart":
            from email import message_from_bytes

            whole.attach(message_from_bytes(data))
            continue
        piece = MIMEBase(main, sub)
        piece.set_payload(base64.b64encode(data).decode())
        piece["Content-Transfer-Encoding"] = "base64"
        whole.attach(piece)
    return whole.as_bytes()


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
        if _ARMED.format(tag=self._handle.tag).encode() in self._provider.console(self._handle.data["id"]):
            self._is_machine_armed = True
            if self.tier == "reaper":
                self.tier = "machine"
