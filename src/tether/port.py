"""``{port}`` in the words of a spec: where the port is put that a resource gets."""

from __future__ import annotations

import re

__all__ = ["has_port", "put_port"]

_PORT = re.compile(r"\{\{port\}\}|\{port\}")


def has_port(text: str) -> bool:
    """Whether ``text`` has a ``{port}`` to be replaced."""
    return "{port}" in text and any(match.group() == "{port}" for match in _PORT.finditer(text))


def put_port(text: str, port: int | None) -> str:
    """Replace ``{port}`` by the port, and ``{{port}}`` by a literal ``{port}``."""
    if "{port}" not in text:
        return text
    return _PORT.sub(lambda match: "{port}" if match.group() == "{{port}}" or port is None else str(port), text)
