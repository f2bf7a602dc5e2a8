"""Addresses as they may be shown and recorded: where something is, and nothing that lets anybody in.

A name, a password or a token may stand before the host, as ``/t/TOKEN/`` in the path of a channel, and in the query. All of it is
left out, also where only some of it is secret: which part is can't be told from outside.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

__all__ = ["bare", "find", "hide", "secrets_in"]

HIDDEN = "***"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^\s'\"<>\[\]]|\[[0-9A-Fa-f:.%]+\])+")
_TOKEN_IN_PATH = re.compile(r"/t/[^/]+")
_SHORTEST_SECRET = 4


def bare(address: str) -> str:
    """Return an address without user, password, token, query and fragment; what is no address comes back as it is."""
    scheme, separator, _ = address.partition("://")
    if not separator:
        return address
    try:
        parts = urlsplit(address)
    except ValueError:
        return f"{scheme}://{HIDDEN}"
    path = _TOKEN_IN_PATH.sub("", parts.path, count=1) if parts.scheme in ("http", "https") else parts.path
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, "", ""))


def hide(text: str, *secrets: str) -> str:
    """Return a text with every address in it bare, and with ``secrets`` replaced by ``***``."""
    shown = _ADDRESS.sub(lambda found: bare(found.group()), text)
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            shown = shown.replace(secret, HIDDEN)
    return shown


def find(text: str) -> list[str]:
    """Return the addresses in a text."""
    return [match.group() for match in _ADDRESS.finditer(text)]


def secrets_in(text: str) -> list[str]:
    """Return what `bare` leaves out of the addresses in a text, piece by piece."""
    found: list[str] = []
    for address in find(text):
        try:
            parts = urlsplit(address)
        except ValueError:
            continue
        user, _, password = parts.netloc.rpartition("@")[0].partition(":")
        # A name beside a password is no secret, and may be any word of a message; one that stands alone is a token.
        found += [password or user, *re.findall(r"=([^&]*)", parts.query)]
        if parts.scheme in ("http", "https"):
            found += [token.group()[3:] for token in [_TOKEN_IN_PATH.search(parts.path)] if token]
    return [each for each in found if each]
