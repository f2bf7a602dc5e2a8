"""Channels and packages that need a token: rattler is given bare addresses, and its client puts in what lets it in.

So a secret reaches the server only. It never stands in what rattler writes (the records in ``conda-meta``, its caches, its errors),
and an environment is the same whatever token it was fetched with.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

from tether.life.addresses import bare, find, hide, secrets_in

__all__ = ["Access", "without_secrets"]

_IN_CHANNEL = re.compile(r"(?P<channel>[^\s\[]*://\S*?)::(?P<name>[A-Za-z0-9_.-]+)(?P<rest>.*)", re.DOTALL)
_PACKAGE_FILE = re.compile(r"/[^/]+\.(conda|tar\.bz2|whl)$")


def without_secrets(spec: str) -> str:
    """Return the spec of a package, such as ``CHANNEL::NAME``, a URL, or ``NAME[url=...]``, with bare addresses."""
    found = _IN_CHANNEL.fullmatch(spec)
    return hide(spec) if found is None else f"{hide(found['channel'])}::{found['name']}{hide(found['rest'])}"


class Access:
    """What lets this process in at the addresses in some texts.

    Attributes:
        secrets: every secret piece of them.

    Args:
        texts: channels, package specs or URLs.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.secrets: list[str] = []
        self._mirrors: dict[str, list[str]] = {}
        self._logins: list[tuple[str, str, str]] = []
        for text in texts:
            self.secrets += secrets_in(text)
            found = _IN_CHANNEL.fullmatch(text)
            for address in find(text if found is None else f"{found['channel']} {found['rest']}"):
                self._add(address)

    def _add(self, address: str) -> None:
        """Remember how an address is to be asked, if it differs from what is shown."""
        parts = urlsplit(address)
        # A mirror is one of a folder, so of a package it is that of the folder that the package lies in.
        parts = parts._replace(path=_PACKAGE_FILE.sub("", parts.path).rstrip("/"), fragment="")
        known = bare(parts.geturl())
        login, separator, _ = parts.netloc.rpartition("@")
        if separator:
            user, _, password = login.partition(":")
            encoded = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
            self.secrets.append(encoded)
            self._logins.append((parts.hostname or "", parts.path, f"Basic {encoded}"))
            parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        if parts.geturl() != known:
            self._mirrors[known] = [parts.geturl()]

    def client(self) -> Any:
        """Return the client for rattler; None for its own, where nothing is secret."""
        if not self._mirrors and not self._logins:
            return None
        from rattler import Client
        from rattler.networking import (
            AddHeadersMiddleware,
            AuthenticationMiddleware,
            MirrorMiddleware,
            OciMiddleware,
            RetryMiddleware,
        )

        return Client(
            [
                MirrorMiddleware(self._mirrors),
                AddHeadersMiddleware(self._headers),
                RetryMiddleware(),
                AuthenticationMiddleware(),
                OciMiddleware(),
            ]
        )

    def _headers(self, host: str, path: str) -> dict[str, str] | None:
        """Log in where the address with the login begins, and nowhere else."""
        for known, begins, login in self._logins:
            if host == known and (path == begins or path.startswith(f"{begins}/")):
                return {"Authorization": login}
        return None

    def hide(self, text: str) -> str:
        """Return a text without these secrets."""
        return hide(text, *self.secrets)
