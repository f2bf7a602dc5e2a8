"""Azure's virtual machines: asked for by name, so that asking again is the same machine, and so is what goes along.

Over REST with httpx, and azure-identity for who asks. Azure's own libraries for machines and networks can be pointed at another
address, but take 3 s and 90 MB to import, and would be imported by each reaper that a dead owner leaves; the tests drive their
stand-in with them.

Source: the published descriptions of Azure's interfaces, compute 2024-07-01 and network 2024-05-01.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, ClassVar

from tether.drivers.cloud.provider import Choice, Order, Part, Phase, Refused, Seen, Tested, Unclear
from tether.drivers.cloud.providers import azure_parts, azure_types
from tether.drivers.cloud.providers.azure_client import Arm, default_subscription, defaults
from tether.drivers.cloud.providers.azure_parts import RESOURCE
from tether.drivers.cloud.providers.rest import check_options
from tether.drivers.cloud.spec import Machine, MachineRef
from tether.errors import DriverUnavailable, SpecError
from tether.protocol import CloudProviderType

__all__ = ["Azure"]

_URL = "https://management.azure.com"
_MACHINES = "Microsoft.Compute/virtualMachines"
_INTERFACES = "Microsoft.Network/networkInterfaces"
# A machine that was shut down from inside is "stopped", and billed in full; a deallocated one keeps its disk and address.
_POWER: dict[str, Phase] = {
    "starting": "pending",
    "running": "running",
    "stopping": "stopping",
    "deallocating": "stopping",
    "stopped": "stopped",
    "deallocated": "stopped",
}
_STATES: dict[str, Phase] = {"Failed": "stopped", "Canceled": "stopped"}
_MADE_S = 300.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_WORD = re.compile(r"[\w.()-]{1,90}")
_NO_TAG = re.compile(r"[<>%&\\?/]")


class Azure:
    """See `tether.drivers.cloud.provider.Provider`. Who asks is found as azure-identity does: the environment, 'az login'.

    The machine and what is made for it are in a resource group that is there. ``image=`` is "publisher:offer:sku:version" or an id,
    ``network=`` is "network/subnet" in the group or a subnet's id; without it a network is made. Azure ends no machine by itself,
    and one that was shut down from inside is billed, so that the lease is the reaper's.

    Options of `Machine`: ``subscription``, an id; ``resource_group``, a name; ``request``, more fields of the request.
    """

    type: ClassVar[CloudProviderType] = CloudProviderType.AZURE
    idempotent: ClassVar[bool] = True
    lag_s: ClassVar[float] = 30.0
    tested: ClassVar[Tested] = "contract-tested against its published description"
    boots: ClassVar[bool] = True

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._location = where["region"]
        self._arm = Arm(where["endpoint"], where["subscription"], where["group"])
        self._addresses: dict[str, str] = {}

    @classmethod
    def where(cls, spec: Machine | MachineRef) -> dict[str, Any]:
        """Return location, subscription and resource group as they are in use now: a sweep may have another environment."""
        cls._check(spec)
        found = {
            "region": spec.region or defaults("location", "AZURE_DEFAULTS_LOCATION"),
            "subscription": spec.options.get("subscription") or default_subscription(),
            "group": spec.options.get("resource_group") or defaults("group", "AZURE_DEFAULTS_GROUP"),
        }
        how = {
            "region": "give region=, or set AZURE_DEFAULTS_LOCATION",
            "subscription": "set AZURE_SUBSCRIPTION_ID, or run 'az account set'",
            "group": "give options={'resource_group': ...}, or set AZURE_DEFAULTS_GROUP",
        }
        for what, value in found.items():
            if value is None:
                raise SpecError(f"no {what} of azure is known: {how[what]}")
            if not _WORD.fullmatch(value):
                raise SpecError(f"{value!r} is no {what} of azure")
        return {**found, "endpoint": spec.endpoint or _URL}

    @staticmethod
    def _check(spec: Machine | MachineRef) -> None:
        wrong = {"profile=": spec.profile is not None}
        if isinstance(spec, Machine):
            wrong |= {"machine without a key": spec.key is False}
            if spec.image is not None and not spec.image.startswith("/") and spec.image.count(":") != 3:
                raise SpecError(f"image={spec.image!r} is neither an id nor 'publisher:offer:sku:version'")
            if spec.network is not None and not spec.network.startswith("/") and spec.network.count("/") != 1:
                raise SpecError(f"network={spec.network!r} is neither the id of a subnet nor 'network/subnet'")
            for key in spec.labels:
                if _NO_TAG.search(key):
                    raise SpecError(f"azure takes no tag {key!r}: it may not have any of <>%&\\?/")
        check_options(spec, "azure", ("subscription", "resource_group", "request"), wrong)
        request = spec.options.get("request", {})
        ours = sorted(({*request} & {"location", "tags"}) | ({*request.get("properties", {})} & {*azure_parts.OURS}))
        if ours:
            raise SpecError(f"options['request'] can't have {', '.join(ours)}: tether sets them")

    # -- create --------------------------------------------------------------------------------------------------------

    def choose(self, spec: Machine) -> Choice:
        """Choose a size that has what was asked for. Azure does not say here what it costs."""
        size = azure_types.smallest(self._arm, self._location, spec)
        data: dict[str, Any] = {"arm": size.is_arm}
        if isinstance(spec.key, str):
            shown = self._arm.get("Microsoft.Compute/sshPublicKeys", spec.key)
            if shown is None:
                raise Refused(f"azure has no SSH key {spec.key} in the resource group")
            data["public_key"] = shown["properties"]["publicKey"]
        return Choice(size.name, None, size.gpu_count, spec.gpu, azure_parts.SSH_USER, data)

    def create(self, order: Order, choice: Choice) -> Seen:
        """Ask for one machine, and wait until it is made.

        Raises:
            Refused: nothing was created.
            Unclear: it may have been.
            DriverUnavailable: Azure could not make it, and shows it as that: its caller ends it.
        """
        request = azure_parts.machine(self._arm, self._location, order, choice)
        try:
            self._arm.put(_MACHINES, order.proof, request)
        except Refused as error:
            # Perhaps because it is being made, from a request whose answer was lost.
            made = self._made(order)
            if made is None:
                raise
            if made.tag != order.tag:
                raise Refused(f"azure has a machine {order.proof} that was not made by tether") from error
        deadline, pause = time.monotonic() + _MADE_S, _FIRST_PAUSE_S
        while time.monotonic() < deadline:
            made = self._made(order)
            if made is not None and made.phase != "pending":
                if made.phase == "stopped":
                    raise DriverUnavailable(f"azure could not make the machine: {made.reason or made.word}")
                return made
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        raise Unclear(f"azure has not made {order.proof} after {_MADE_S:g} s")

    def _made(self, order: Order) -> Seen | None:
        try:
            return self._one(order.proof)
        except DriverUnavailable as error:
            raise Unclear(str(error)) from error

    # -- look and end --------------------------------------------------------------------------------------------------

    def _one(self, machine: str) -> Seen | None:
        shown = self._arm.get(_MACHINES, machine, "instanceView")
        return None if shown is None else _seen(shown, self._address(shown))

    def _address(self, shown: Mapping[str, Any]) -> str | None:
        """Where a machine is reached: its first interface knows. It stays what it is as long as the machine is there."""
        machine = str(shown["properties"].get("vmId", ""))
        interfaces = (shown["properties"].get("networkProfile") or {}).get("networkInterfaces") or ()
        if machine not in self._addresses and interfaces:
            interface = self._arm.by_id(_INTERFACES, interfaces[0]["id"], "ipConfigurations/publicIPAddress")
            for each in ((interface or {}).get("properties") or {}).get("ipConfigurations") or ():
                outside = ((each["properties"].get("publicIPAddress") or {}).get("properties") or {}).get("ipAddress")
                address = outside or each["properties"].get("privateIPAddress")
                if address:
                    self._addresses[machine] = str(address)
                    break
        return self._addresses.get(machine)

    def listed(self, tag: str) -> list[Seen]:
        """Return the machines of the group with a tag. The list does not say whether they run: each is looked at."""
        names = [each["name"] for each in self._arm.every(_MACHINES) if (each.get("tags") or {}).get(RESOURCE) == tag]
        return list(self.look(names).values())

    def look(self, ids: Sequence[str]) -> dict[str, Seen]:
        """Return machines of the group by name."""
        return {machine: seen for machine in ids if (seen := self._one(machine)) is not None}

    def terminate(self, machine: str) -> None:
        """Delete a machine; with it go its disk, its interface and that one's address."""
        try:
            self._arm.delete(_MACHINES, machine)
        except Refused:
            # What is being deleted can't be deleted again.
            seen = self._one(machine)
            if seen is not None and seen.phase != "ending":
                raise

    # -- parts ---------------------------------------------------------------------------------------------------------

    def planned(self, spec: Machine, tag: str) -> list[Part]:
        """See `HasParts`: an interface with a public address, and rules and a network where none was named."""
        return azure_parts.planned(spec, tag)

    def make(self, part: Part, order: Order) -> None:
        """See `HasParts`."""
        azure_parts.make(self._arm, self._location, part, order)

    def parts(self, tag: str, planned: Sequence[Part], began: float) -> list[Part]:
        """See `HasParts`: also a disk that stayed."""
        return azure_parts.present(self._arm, tag, planned) + azure_parts.disks_left(self._arm, tag, began)

    def remove(self, part: Part) -> None:
        """See `HasParts`."""
        self._arm.remove(azure_parts.KINDS[part.what], part.name)


def _seen(shown: Mapping[str, Any], address: str | None) -> Seen:
    properties = shown["properties"]
    statuses = (properties.get("instanceView") or {}).get("statuses") or ()
    power = next((each["code"].partition("/")[2] for each in statuses if each["code"].startswith("PowerState/")), "")
    state = properties.get("provisioningState", "")
    failed = [each.get("message", "") for each in statuses if each["code"].startswith("ProvisioningState/failed")]
    phase: Phase = _POWER.get(power) or _STATES.get(state, "pending")
    if state == "Deleting":
        phase = "ending"
    return Seen(
        shown["name"],
        phase,
        state if phase == "ending" or not power else power,
        "; ".join(failed),
        (shown.get("tags") or {}).get(RESOURCE),
        # A name is one machine's at a time in a group: what was made like it with all its tags has another one.
        shown["name"],
        _time(properties.get("timeCreated")),
        address,
        (properties.get("hardwareProfile") or {}).get("vmSize"),
    )


def _time(said: Any) -> float | None:
    with suppress(ValueError, TypeError):
        return datetime.fromisoformat(str(said)).timestamp()
    return None
