"""Owners and resources at a glance: in a repr, and as a table in a notebook. Nothing here asks an engine or a host."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tether.owner.resource import Resource

__all__ = ["table", "words"]

_HEADS = ("name", "kind", "state", "pid", "url", "reason")


def words(resource: Resource) -> list[str]:
    """Return what a repr says of a resource: kind and state, and pid and url where it has them."""
    main = None if resource.state.is_final else resource.main
    pid = "" if main is None else f"pid {main.pid}"
    url = "" if resource.state.is_final else resource.url or ""
    return [each for each in (resource.kind, resource.state.value, pid, url) if each]


def _escape(text: str) -> str:
    # Only a notebook comes here.
    from html import escape

    return escape(text)


def _cells(resource: Resource) -> list[str]:
    main = None if resource.state.is_final else resource.main
    url = "" if resource.state.is_final else _escape(resource.url or "")
    # A url may come from outside: only one that a browser opens, and does not execute, becomes a link.
    link = (
        f'<a href="{url}" target="_blank" rel="noopener">{url}</a>' if url.startswith(("http://", "https://")) else url
    )
    shown = (resource.name, resource.kind, resource.state.value, "" if main is None else str(main.pid))
    return [*map(_escape, shown), link, _escape(resource.reason)]


def table(resources: Iterable[Resource], caption: str = "") -> str:
    """Return resources as a table in HTML; all text from outside is escaped."""
    head = "".join(f"<th>{name}</th>" for name in _HEADS)
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in _cells(each))}</tr>" for each in resources)
    title = f"<caption>{_escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
