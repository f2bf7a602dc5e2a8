"""From a kind to its driver, by entry point: nothing here names one."""

from __future__ import annotations

from functools import cache
from typing import Any

from tether.errors import DriverUnavailable

__all__ = ["driver_class", "kinds", "register"]

GROUP = "tether.drivers"


@cache
def _entry_points() -> dict[str, Any]:
    from importlib import metadata

    return {entry.name: entry for entry in metadata.entry_points(group=GROUP)}


_registered: dict[str, Any] = {}


def register(kind: str, driver: Any) -> None:
    """Make a driver known in this process only, for instance in a test; installed ones have an entry point."""
    _registered[kind] = driver
    driver_class.cache_clear()


def kinds() -> list[str]:
    """Return the kinds for which a driver is installed."""
    return sorted({*_entry_points(), *_registered})


@cache
def driver_class(kind: str) -> Any:
    """Return the driver class of a kind; its module is imported now.

    Raises:
        DriverUnavailable: there is no such driver here, or what it needs is not installed.
    """
    if kind in _registered:
        return _registered[kind]
    entry = _entry_points().get(kind)
    if entry is None:
        raise DriverUnavailable(
            f"there is no driver for {kind!r} here (there are: {', '.join(kinds()) or 'none'}); "
            f"install the package that brings it, or reinstall tether"
        )
    try:
        return entry.load()
    except ImportError as error:
        raise DriverUnavailable(
            f"the driver for {kind!r} can't be imported: {error}; install it with: pip install 'tether[{kind}]'"
        ) from error
