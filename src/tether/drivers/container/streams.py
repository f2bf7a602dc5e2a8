"""Answers of an engine that go on for long, with the socket beneath: so that they can be ended from another thread."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["events", "socket_of"]


def socket_of(client: Any, response: Any) -> socket.socket:
    """Return the socket of an answer that is still coming."""
    # The client's library has no public way to it, and its own stream can't be ended while it waits for the first byte.
    stream = client._get_raw_response_socket(response)  # noqa: SLF001
    found: socket.socket = getattr(stream, "_sock", stream)
    return found


@contextmanager
def events(client: Any, limit_s: float) -> Iterator[tuple[Iterator[bytes], socket.socket]]:
    """Ask for the events about containers: their lines, and the socket. Raises what the client's library does."""
    from docker.errors import create_api_error_from_http_exception
    from requests.exceptions import HTTPError

    # No filter by event: podman 4.3 knows them by other names, and passes nothing on then.
    url = f"{client.base_url}/v{client.api_version}/events"
    wanted = {"filters": json.dumps({"type": ["container"]})}
    with client.get(url, params=wanted, stream=True, timeout=limit_s) as response:
        try:
            response.raise_for_status()
        except HTTPError as error:
            create_api_error_from_http_exception(error)
        yield response.iter_lines(), socket_of(client, response)
