"""Channels and packages that need a token: rattler is given bare addresses, and its client puts in what lets it in.

So a secret reaches the server only. It never stands in what rattler writes (the records in ``conda-meta``, its caches, its errors),
and an environment is the same whatever token it was fetched with.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

from tether.life.addresses import bare, find, hide, secrets_in

__all__ = ["Access"]


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
            for address in find(text):
                # What stands behind :: is the name of a package in the channel.
                channel, separator, name = address.rpartition("::")
                self._add(channel if separator and "/" not in name and "]" not in name else address)

    def _add(self, address: str) -> None:
        """Remember how an address is to be asked, if it differs from what is shown."""
        real, known = address.rstrip("/"), bare(address).rstrip("/")
        parts = urlsplit(real)
        login, separator, _ = parts.netloc.rpartition("@")
        if separator:
            user, _, password = login.partition(":")
            encoded = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
            self.secrets.append(encoded)
            self._logins.append((parts.hostname or "", parts.path, f"Basic {encoded}"))
            real = real.replace(f"{login}@", "", 1)
        if real != known:
            self._mirrors[known] = [real]

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
