"""From a kind to its driver, imported when it is asked for: tether's own by a table, others by entry point."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module

from tether.errors import DriverUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["BUILT_IN", "driver_class", "holder_of", "kinds", "register"]

GROUP = "tether.drivers"

BUILT_IN = {
    "client": "tether.drivers.container:ClientDriver",
    "cloud_container": "tether.drivers.serverless:CloudContainerDriver",
    "cloud_function": "tether.drivers.serverless:CloudFunctionDriver",
    "conda": "tether.drivers.conda:CondaDriver",
    "container": "tether.drivers.container:ContainerDriver",
    "kubernetes": "tether.drivers.kubernetes:KubernetesDriver",
    "machine": "tether.drivers.cloud:CloudDriver",
    "network": "tether.drivers.container:NetworkDriver",
    "plugin": "tether.drivers.plugin:PluginDriver",
    "process": "tether.drivers.process:ProcessDriver",
    "service": "tether.drivers.service:ServiceDriver",
    "ssh": "tether.drivers.ssh:SshDriver",
}
"""What pyproject.toml has as entry points too, for who lists them: to read those of every installed package takes 50 ms."""


@cache
def _entry_points() -> dict[str, Any]:
    from importlib import metadata

    return {entry.name: entry for entry in metadata.entry_points(group=GROUP)}


COMMANDS = {"docker": "client", "podman": "client"}
"""Programs of which a command may make what outlives it, and the kind of driver that holds that."""


def holder_of(program: str) -> Any:
    """Return the driver class that holds what commands of a program make; None if there is none."""
    kind = COMMANDS.get(program.rpartition("/")[2])
    return None if kind is None else driver_class(kind)


_registered: dict[str, Any] = {}


def register(kind: str, driver: Any) -> None:
    """Make a driver known in this process only, for instance in a test; installed ones have an entry point."""
    _registered[kind] = driver
    driver_class.cache_clear()


def kinds() -> list[str]:
    """Return the kinds for which a driver is installed."""
    return sorted({*BUILT_IN, *_entry_points(), *_registered})


def _load(kind: str) -> Any:
    """Import the driver of a kind; None if nobody brings one."""
    if kind in BUILT_IN:
        module, _, name = BUILT_IN[kind].partition(":")
        return getattr(import_module(module), name)
    entry = _entry_points().get(kind)
    return None if entry is None else entry.load()


@cache
def driver_class(kind: str) -> Any:
    """Return the driver class of a kind; its module is imported now.

    Raises:
        DriverUnavailable: there is no such driver here, or what it needs is not installed.
    """
    if kind in _registered:
        return _registered[kind]
    try:
        found = _load(kind)
    except ImportError as error:
        raise DriverUnavailable(
            f"the driver for {kind!r} can't be imported: {error}; install it with: pip install 'tether[{kind}]'"
        ) from error
    if found is None:
        raise DriverUnavailable(
            f"there is no driver for {kind!r} here (there are: {', '.join(kinds())}); "
            f"install the package that brings it into {sys.prefix}, or reinstall tether"
        )
    return found
