"""The connection to Azure's Resource Manager: whose subscription, who asks, and things that take their time."""

from __future__ import annotations

import configparser
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from tether.drivers.cloud.provider import Refused, Unclear
from tether.drivers.cloud.providers.rest import Interface, insist
from tether.errors import DriverUnavailable, require_extra

__all__ = ["Arm", "default_subscription", "defaults"]

_PUBLIC = "https://management.azure.com"
_SAID = 300
_READY_S = 120.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_VERSIONS = {
    "Microsoft.Compute/virtualMachines": "2024-07-01",
    "Microsoft.Compute/disks": "2024-03-02",
    "Microsoft.Compute/skus": "2021-07-01",
    "Microsoft.Compute/sshPublicKeys": "2024-07-01",
    "Microsoft.Network": "2024-05-01",
}


def _folder() -> Path:
    return Path(os.environ.get("AZURE_CONFIG_DIR") or Path.home() / ".azure")


def defaults(key: str, variable: str) -> str | None:
    """Return what the environment says, else the defaults of Azure's command line; None if neither does."""
    said = os.environ.get(variable)
    if said:
        return said
    parser = configparser.ConfigParser(interpolation=None)
    # What can't be read says nothing; whoever needs it is told what is missing.
    with suppress(configparser.Error, OSError, ValueError):
        parser.read_string((_folder() / "config").read_text())
    return parser.get("defaults", key, fallback=None)


def default_subscription() -> str | None:
    """Return the subscription of the environment, else the one that 'az account set' chose."""
    said = os.environ.get("AZURE_SUBSCRIPTION_ID")
    if said:
        return said
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads((_folder() / "azureProfile.json").read_text("utf-8-sig"))["subscriptions"]
        return next((str(each["id"]) for each in known if each.get("isDefault")), None)
    return None


class Arm(Interface):
    """One resource group. Who asks is found as azure-identity does: the environment, a managed identity, 'az login'.

    Args:
        base: the address of the interface.
        subscription: its id.
        group: the name of the resource group.
    """

    extra: ClassVar[str] = "azure"

    def __init__(self, base: str, subscription: str, group: str) -> None:
        super().__init__("azure", base.rstrip("/"))
        self._subscription = f"/subscriptions/{subscription}"
        self._group = f"{self._subscription}/resourceGroups/{group}"
        # Other clouds of Azure's have addresses of the same form, each with tokens of its own.
        self._scope = f"{self.base if self.base.startswith('https://management.') else _PUBLIC}/.default"
        self._credential: Any = None

    def _token(self) -> str:
        for module in ("azure", "azure.identity"):
            require_extra(module, "azure", "a machine at azure")
        from azure.core.exceptions import AzureError
        from azure.identity import DefaultAzureCredential

        try:
            if self._credential is None:
                self._credential = DefaultAzureCredential()
            return str(self._credential.get_token(self._scope).token)
        except AzureError as error:
            said = " ".join(str(error).split())[:_SAID]
            raise Refused(
                f"azure: nobody is known here who may ask; run 'az login', or set AZURE_CLIENT_ID: {said}"
            ) from error

    def id_of(self, kind: str, name: str) -> str:
        """Return the id of something in the group."""
        return f"{self._group}/providers/{kind}/{name}"

    @staticmethod
    def _version(kind: str) -> str:
        return f"api-version={_VERSIONS.get(kind) or _VERSIONS[kind.partition('/')[0]]}"

    def get(self, kind: str, name: str, expand: str = "") -> Any:
        """Return something in the group; None if it is not there. Raises DriverUnavailable."""
        more = f"&$expand={expand}" if expand else ""
        return self.ask("GET", f"{self.id_of(kind, name)}?{self._version(kind)}{more}")

    def by_id(self, kind: str, whole: str, expand: str) -> Any:
        """Return something by its id, wherever it is. Raises DriverUnavailable."""
        return self.ask("GET", f"{whole}?{self._version(kind)}&$expand={expand}")

    def put(self, kind: str, name: str, body: Any) -> Any:
        """Ask for something by its name. Raises Refused, or Unclear; the same may be asked for again."""
        return self.ask("PUT", f"{self.id_of(kind, name)}?{self._version(kind)}", body, creating=True)

    def make(self, kind: str, name: str, body: Any) -> None:
        """Ask for something by its name, until it is there. Raises DriverUnavailable."""
        shown = insist(lambda: self.put(kind, name, body))
        deadline, pause = time.monotonic() + _READY_S, _FIRST_PAUSE_S
        while True:
            state = ((shown or {}).get("properties") or {}).get("provisioningState")
            if state == "Succeeded":
                return
            if state in ("Failed", "Canceled"):
                raise DriverUnavailable(f"azure could not make {kind} {name}: it is {state}")
            if time.monotonic() > deadline:
                raise Unclear(f"azure has not made {kind} {name} after {_READY_S:g} s")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            shown = self.get(kind, name)

    def delete(self, kind: str, name: str) -> None:
        """Have something removed. What is gone already is success."""
        self.ask("DELETE", f"{self.id_of(kind, name)}?{self._version(kind)}")

    def remove(self, kind: str, name: str) -> None:
        """Have something removed, until it is gone. Raises Refused for what is in use, DriverUnavailable for what takes long."""
        self.delete(kind, name)
        deadline, pause = time.monotonic() + _READY_S, _FIRST_PAUSE_S
        while self.get(kind, name) is not None:
            if time.monotonic() > deadline:
                raise DriverUnavailable(f"azure has not removed {kind} {name} after {_READY_S:g} s")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def every(self, kind: str) -> Iterator[dict[str, Any]]:
        """Yield what the group has of a kind, page by page."""
        return self._pages(f"{self._group}/providers/{kind}?{self._version(kind)}")

    def sizes(self, location: str) -> Iterator[dict[str, Any]]:
        """Yield what can be had in a location, page by page."""
        kind = "Microsoft.Compute/skus"
        return self._pages(
            f"{self._subscription}/providers/{kind}?{self._version(kind)}&$filter=location eq '{location}'"
        )

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        while True:
            shown = self.ask("GET", path)
            if shown is None:
                raise Refused(f"azure has no {self._group}")
            yield from shown.get("value", ())
            following = shown.get("nextLink") or ""
            if not following:
                return
            if not following.startswith(self.base):
                # What says who asks is not sent to another place.
                raise DriverUnavailable(f"azure's list goes on at another address: {following}")
            path = following.removeprefix(self.base)
