"""Sees to it that an engine has an image."""

from __future__ import annotations

from typing import Any

from tether.drivers.container import limits
from tether.drivers.container.engine import Absent, Engine, reason
from tether.drivers.container.spec import Container
from tether.errors import NotCreated
from tether.model import Progress

__all__ = ["provide"]


def provide(spec: Container, engine: Engine, progress: Progress) -> dict[str, Any]:
    """Fetch the image if that is wanted, and return what the engine says of it.

    Raises:
        NotCreated: it can't be had.
        DriverUnavailable: the engine does not answer.
    """
    try:
        shown = _inspect(engine, spec.image)
        if spec.pull != "always":
            return shown
    except Absent as error:
        if spec.pull == "never":
            raise NotCreated(
                f"cannot start {spec.name or spec.image}: there is no image {spec.image} at {engine}, and pull='never'",
                resource=spec.name or "",
            ) from error
    with engine.asked(limits.PULL_S) as client:
        _pull(spec, client, progress)
    return _inspect(engine, spec.image)


def _inspect(engine: Engine, image: str) -> dict[str, Any]:
    with engine.asked() as client:
        shown: dict[str, Any] = client.inspect_image(image)  # type: ignore[no-untyped-call]
        return shown


def _pull(spec: Container, client: Any, progress: Progress) -> None:
    from docker import errors
    from docker.utils import parse_repository_tag

    repository, tag = parse_repository_tag(spec.image)
    failed = f"cannot start {spec.name or spec.image}: its image {spec.image} can't be fetched"
    done = -1
    layers: dict[str, tuple[int, int]] = {}
    try:
        for line in client.pull(repository, tag=tag or "latest", stream=True, decode=True):
            if "error" in line:
                raise NotCreated(f"{failed}: {line['error']}", resource=spec.name or "")
            detail = line.get("progressDetail") or {}
            if line.get("status") == "Downloading" and detail.get("total"):
                layers[line["id"]] = (detail["current"], detail["total"])
                size = sum(total for _, total in layers.values())
                part = 100 * sum(current for current, _ in layers.values()) // size
                if part != done:
                    progress(f"fetching {spec.image}: {part} % of {size / 1e6:.1f} MB")
                    done = part
    except errors.APIError as error:
        raise NotCreated(f"{failed}: {reason(error)}", resource=spec.name or "") from error
    progress(f"fetched {spec.image}")
