"""What a machine runs at its first boot: its timer before anything else, then its host key, then the user's data."""

from __future__ import annotations

import base64
from email import message_from_bytes
from email.message import Message
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart

from tether.drivers.cloud.lease import ARMED
from tether.drivers.cloud.provider import CanRenew, Provider
from tether.drivers.cloud.spec import Machine

__all__ = ["data"]

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

_START_TIMER = "tether_lease </dev/null &\n"

# In place: the file that is there has the mode, and the label of SELinux, that sshd wants. Until it is read anew the machine
# answers with a key that nobody believes.
_HOST_KEY = """\
tether_key=/etc/ssh/ssh_host_ed25519_key
(umask 077; printf %s '{private}' | base64 -d >$tether_key; printf '%s\\n' '{public}' >$tether_key.pub)
systemctl restart ssh || systemctl restart sshd || service ssh restart || service sshd restart
"""

_USERS = """\
tether_user=$(mktemp -d) && printf %s '{script}' | base64 -d >"$tether_user/user-data" && chmod 700 "$tether_user/user-data"
exec "$tether_user/user-data"
"""


def data(spec: Machine, tag: str, provider: Provider, kept_s: float, host_key: tuple[bytes, str] | None) -> bytes:
    """Return what the machine runs at boot.

    Args:
        spec: what was asked for.
        tag: the machine's.
        provider: who has it; where it can't pass on a word, there is no timer.
        kept_s: for how long after its lease it waits for the next owner.
        host_key: both halves of the key by which it is to be known; None to leave it its own.
    """
    users = spec.user_data.encode() if isinstance(spec.user_data, str) else spec.user_data
    timer = _timer(spec, tag, provider, kept_s) + _START_TIMER if isinstance(provider, CanRenew) else ""
    key = "" if host_key is None else _install(*host_key)
    if not (timer or key):
        return users
    if users and not users.startswith(b"#!"):
        return _multipart(timer, key, users)
    rest = _USERS.format(script=_text(users)) if users else ""
    return f"#!/bin/sh\n{timer}{key}{rest}".encode()


def _timer(spec: Machine, tag: str, provider: CanRenew, kept_s: float) -> str:
    lease_s = 0 if spec.lease is None else max(1, int(spec.lease + kept_s))
    return _TIMER.format(
        read=provider.watch_script() if lease_s else "false",
        armed=ARMED.format(tag=tag),
        tag=tag,
        lifetime=max(1, int(spec.max_lifetime)),
        lease=lease_s,
        pause=max(1, min(15, lease_s // 6)) if lease_s else 15,
    )


def _install(private: bytes, public: str) -> str:
    return _HOST_KEY.format(private=_text(private), public=public)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _multipart(timer: str, key: str, users: bytes) -> bytes:
    """All for cloud-init. The timer as a boothook, which runs before all else; the key when cloud-init has made its own host keys.

    Source: cloud-init, user data formats.
    """
    whole = MIMEMultipart()
    if timer:
        whole.attach(_piece("cloud-boothook", f"#!/bin/sh\n{timer}".encode()))
    if key:
        whole.attach(_piece("x-shellscript", f"#!/bin/sh\n{key}".encode()))
    is_multipart = users.lstrip().lower().startswith((b"content-type: multipart", b"mime-version"))
    whole.attach(message_from_bytes(users) if is_multipart else _piece("cloud-config", users))
    return whole.as_bytes()


def _piece(kind: str, content: bytes) -> Message:
    piece = MIMEBase("text", kind)
    piece.set_payload(_text(content))
    piece["Content-Transfer-Encoding"] = "base64"
    return piece
