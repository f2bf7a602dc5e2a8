"""How a host is logged in to, as ssh(1) would: its files, what ``ssh_config`` says, which host keys are believed."""

from __future__ import annotations

import contextlib
import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tether.drivers.ssh.where import Where

__all__ = ["options"]

_CONFIGS = ("~/.ssh/config", "/etc/ssh/ssh_config")
_KNOWN = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_KNOWN_TO_ALL = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_STRICT = "StrictHostKeyChecking"
_KEEPALIVE_S = 10


def _there(paths: Any) -> list[str]:
    """Those of some files that are there, in full: ssh(1) passes over the others."""
    found = [Path(str(each)).expanduser() for each in paths or ()]
    return [str(each) for each in found if os.access(each, os.R_OK) and not each.is_dir()]


def options(where: Where) -> dict[str, Any]:
    """Return what asyncssh is to be told.

    Raises:
        OSError, ValueError, asyncssh.Error: a file that the user named can't be read, or says what can't be right.
    """
    configs = [where.config] if where.config else _there(_CONFIGS)
    config = _read(configs, where)
    keys: Any = list(where.keys) or ()
    if not keys and config.get("IdentityFile"):
        # One that is missing is no reason to fail; without any there are the usual ones, and the agent.
        keys = _there(config["IdentityFile"])
    known: Any = None
    factory: Any = None
    strict = str(config.get(_STRICT, "ask")).lower()
    if where.verify_host and (where.known_hosts or strict not in ("no", "off")):
        files = [where.known_hosts] if where.known_hosts else _known_files(config)
        known = _known_hosts(files)
        if strict == "accept-new" and not where.known_hosts:
            named = [each for each in config.get("UserKnownHostsFile") or _KNOWN if each != "none"]
            factory = _accepting(known, Path(named[0] if named else _KNOWN[0]).expanduser())
    more: dict[str, Any] = {} if factory is None else {"client_factory": factory}
    if keys and not where.keys:
        # A key with a passphrase is left to the agent.
        more["ignore_encrypted"] = True
    return {
        "port": where.port or (),
        "username": where.user or (),
        "client_keys": keys,
        "tunnel": where.jump or (),
        "known_hosts": known,
        "config": configs,
        "connect_timeout": where.connect_timeout,
        "login_timeout": where.connect_timeout,
        "keepalive_interval": _KEEPALIVE_S,
        "keepalive_count_max": 3,
        # A banner that is no UTF-8 is no reason to fail either.
        "utf8_decode_errors": "replace",
        **more,
    }


def _read(configs: list[str], where: Where) -> dict[str, Any]:
    """Read what asyncssh itself does not look at, or not as ssh(1) does."""
    from asyncssh.config import SSHClientConfig

    user = ""
    # It knows how to read one more, which asyncssh has no use for itself.
    handlers = {**SSHClientConfig._handlers, "stricthostkeychecking": (_STRICT, SSHClientConfig._set_string)}  # noqa: SLF001
    reader: Any = type("Config", (SSHClientConfig,), {"_handlers": handlers})
    with contextlib.suppress(OSError, KeyError):
        user = getpass.getuser()
    found = reader.load(None, configs, False, False, False, user, where.user or (), where.host, where.port or ())
    names = ("IdentityFile", "UserKnownHostsFile", "GlobalKnownHostsFile", _STRICT)
    return {name: value for name in names if (value := found.get(name)) is not None}


def _known_files(config: dict[str, Any]) -> list[str]:
    users = [each for each in config.get("UserKnownHostsFile") or _KNOWN if each != "none"]
    return [*_there(users), *_there(config.get("GlobalKnownHostsFile") or _KNOWN_TO_ALL)]


def _known_hosts(files: list[str]) -> Any:
    """Read files of host keys; a line that makes no sense is passed over, as ssh(1) does."""
    import asyncssh

    lines = []
    for each in files:
        for line in Path(each).read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError, asyncssh.Error):
                asyncssh.import_known_hosts(line)
                lines.append(line)
    return asyncssh.import_known_hosts("\n".join(lines) + "\n")


def _accepting(known: Any, file: Path) -> Any:
    """Return a client that believes the first key of a host that none is known of, and notes it (``accept-new``)."""
    import asyncssh

    class Accepting(asyncssh.SSHClient):
        def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
            trusted, authorities, revoked, *_ = known.match(host, addr, port)
            if trusted or authorities or revoked:
                return False
            name = host if port == 22 else f"[{host}]:{port}"
            with contextlib.suppress(OSError):
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with file.open("a") as noted:
                    noted.write(f"{name} {key.export_public_key('openssh').decode().strip()}\n")
            return True

    return Accepting
