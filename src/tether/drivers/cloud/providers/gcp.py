"""Google Compute Engine: a request's UUID makes its creation idempotent, and labels go on machine and disk at once.

Over REST with httpx, and google-auth for who asks. Google's own library for it can be pointed at another address, but takes 6 s and
150 MB to import, and it would be imported by each reaper that a dead owner leaves; the tests drive their stand-in with it.

Source: the published description of the Compute Engine API, version 1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, ClassVar

from tether.drivers.cloud.provider import Choice, Order, Part, Phase, Refused, Seen, Tested, Unclear
from tether.drivers.cloud.providers import gcp_request, gcp_types
from tether.drivers.cloud.providers.gcp_client import Google, configured, project_of_key, request_id
from tether.drivers.cloud.providers.gcp_request import RESOURCE, name_of
from tether.drivers.cloud.providers.rest import Listed, check_options, insist
from tether.drivers.cloud.spec import Machine, MachineRef
from tether.errors import DriverUnavailable, SpecError
from tether.protocol import CloudProviderType

__all__ = ["Gcp"]

_URL = "https://compute.googleapis.com/compute/v1"
# TERMINATED is what Google calls a machine that was stopped: it can be started again, and its disk is billed.
_PHASES: dict[str, Phase] = {
    "PENDING": "pending",
    "PROVISIONING": "pending",
    "STAGING": "pending",
    "RUNNING": "running",
    "PENDING_STOP": "stopping",
    "STOPPING": "stopping",
    "SUSPENDING": "stopping",
    "SUSPENDED": "stopped",
    "STOPPED": "stopped",
    "TERMINATED": "stopped",
    "REPAIRING": "stopped",
    "DEPROVISIONING": "ending",
}
_ZONE = re.compile(r"[a-z]+(-[a-z]+)+\d+-[a-z0-9]+")
_PROJECT = re.compile(r"[a-z0-9.:-]+")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")


class Gcp(Listed):
    """See `tether.drivers.cloud.provider.Provider`. Credentials are found as Google's libraries do (application default ones).

    ``region=`` is a zone. The machine ends by Google's own limit at the end of ``max_lifetime=``, whoever lives then, if reading
    back shows that; the limit can't be put off, and a shutdown inside leaves a disk, so that the lease is the reaper's.

    Options of `Machine`: ``project``, its id; ``request``, more fields of the instance that is asked for.
    """

    type: ClassVar[CloudProviderType] = CloudProviderType.GCP
    idempotent: ClassVar[bool] = True
    lag_s: ClassVar[float] = 30.0
    tested: ClassVar[Tested] = "contract-tested against its published description"
    boots: ClassVar[bool] = True

    def __init__(self, where: Mapping[str, Any]) -> None:
        self._zone = f"zones/{where['region']}"
        self._google = Google(where["endpoint"], where["project"])

    @classmethod
    def where(cls, spec: Machine | MachineRef) -> dict[str, Any]:
        """Return zone, project and address as they are in use now: a sweep may have another environment."""
        cls._check(spec)
        zone = spec.region or configured("compute", "zone", "CLOUDSDK_COMPUTE_ZONE")
        if zone is None:
            raise SpecError("no zone of gcp is known: give region=, set CLOUDSDK_COMPUTE_ZONE, or run 'gcloud init'")
        if not _ZONE.fullmatch(zone):
            raise SpecError(f"region={zone!r} is no zone of gcp, where machines are; for instance 'us-central1-a'")
        project = spec.options.get("project") or configured(
            "core", "project", "GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"
        )
        project = project or project_of_key()
        if project is None:
            raise SpecError("no project of gcp is known: set GOOGLE_CLOUD_PROJECT, or give options={'project': ...}")
        if not _PROJECT.fullmatch(project):
            raise SpecError(f"{project!r} is no id of a project of gcp")
        endpoint = spec.endpoint or os.environ.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE") or _URL
        return {"region": zone, "project": project, "endpoint": endpoint}

    @staticmethod
    def _check(spec: Machine | MachineRef) -> None:
        wrong = {"profile=": spec.profile is not None}
        if isinstance(spec, Machine):
            wrong |= {"key pairs by name": isinstance(spec.key, str)}
            for key, value in spec.labels.items():
                if not (_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value)):
                    raise SpecError(f"gcp takes no label {key!r}: {value!r}: small letters, digits, '_' and '-' only")
        check_options(spec, "gcp", ("project", "request"), wrong)
        ours = sorted(set(spec.options.get("request", {})) & set(gcp_request.OURS))
        if ours:
            raise SpecError(f"options['request'] can't have {', '.join(ours)}: tether sets them")

    # -- create --------------------------------------------------------------------------------------------------------

    def choose(self, spec: Machine) -> Choice:
        """Choose a size that has what was asked for. Google does not say here what it costs."""
        size = gcp_types.smallest(self._google, self._zone, spec)
        data = {"added": size.added, "arm": size.is_arm}
        return Choice(size.name, None, size.gpu_count, size.gpu, gcp_request.SSH_USER, data)

    def create(self, order: Order, choice: Choice) -> Seen:
        """Insert one instance, and wait until that is done. The same proof again is the same request. Raises Refused or Unclear."""
        request = gcp_request.instance(order, choice, self._zone.removeprefix("zones/"))
        path = f"/{self._zone}/instances?requestId={request_id(order.proof)}"
        try:
            begun = self._google.ask("POST", path, request, creating=True)
        except Refused as error:
            # Perhaps because it is there, from a request whose answer was lost.
            made = self._made(order)
            if made is None:
                raise
            if made.proof != order.proof or made.tag != order.tag:
                raise Refused(f"gcp has a machine {order.proof} that was not made by tether") from error
            return made
        try:
            ended = self._google.done(self._zone, begun)
        except Refused as error:
            if self._made(order) is not None:
                raise Unclear(f"{error}; but the machine is shown") from error
            raise
        # It is there by the operation's word; where it is not shown yet, that is all that is known of it.
        made = self._made(order)
        return made or Seen(str(ended["targetId"]), "pending", "PROVISIONING", tag=order.tag, proof=order.proof)

    def _made(self, order: Order) -> Seen | None:
        try:
            return self._one(order.proof)
        except DriverUnavailable as error:
            raise Unclear(str(error)) from error

    # -- look and end --------------------------------------------------------------------------------------------------

    def _all(self) -> list[Seen]:
        return [_seen(each) for each in self._google.every(f"/{self._zone}/instances", f"labels.{RESOURCE}:*")]

    def _one(self, machine: str) -> Seen | None:
        shown = self._google.ask("GET", f"/{self._zone}/instances/{machine}")
        return None if shown is None else _seen(shown)

    def listed(self, tag: str) -> list[Seen]:
        """Return the instances with a label."""
        return [_seen(each) for each in self._google.every(f"/{self._zone}/instances", f"labels.{RESOURCE}={tag}")]

    def terminate(self, machine: str) -> None:
        """Delete an instance, by its number: one that came to bear its name is another one."""
        try:
            self._google.ask("DELETE", f"/{self._zone}/instances/{machine}")
        except Refused:
            # What is being deleted can't be deleted again.
            seen = self._one(machine)
            if seen is not None and seen.phase not in ("stopping", "ending"):
                raise

    # -- parts ---------------------------------------------------------------------------------------------------------

    def planned(self, spec: Machine, tag: str) -> list[Part]:
        """See `HasParts`: a firewall rule. The key that is made is in the machine's metadata, and nowhere else."""
        return [Part("firewall rule", name_of(tag))] if spec.open_ports else []

    def make(self, part: Part, order: Order) -> None:
        """See `HasParts`: a rule for what bears the network tag of this machine."""
        spec, zone = order.spec, self._zone.removeprefix("zones/")
        network = "global/networks/default"
        if spec.network is not None:
            shown = self._google.ask("GET", f"/{gcp_request.subnetwork(zone, spec.network)}")
            if shown is None:
                raise Refused(f"gcp has no subnetwork {spec.network}")
            network = shown["network"]
        rule = {
            "name": part.name,
            "description": _made_for(order.tag),
            "network": network,
            "direction": "INGRESS",
            "sourceRanges": [spec.open_to],
            "targetTags": [name_of(order.tag)],
            "allowed": [{"IPProtocol": "tcp", "ports": [str(port) for port in spec.open_ports]}],
        }
        # Of this attempt: a rule of the same name that an earlier one made is gone, and so would be the answer to its request.
        path = f"/global/firewalls?requestId={request_id(order.proof, part.name)}"

        def send() -> Any:
            return self._google.done("global", self._google.ask("POST", path, rule, creating=True))

        try:
            insist(send)
        except Refused:
            if not self._rules(part.name, order.tag):
                raise

    def _rules(self, name: str, tag: str) -> list[Part]:
        """The rule of a name. Rules have no labels: the second proof is what it says of itself."""
        shown = self._google.ask("GET", f"/global/firewalls/{name}")
        return [Part("firewall rule", name)] if shown and shown.get("description") == _made_for(tag) else []

    def parts(self, tag: str, planned: Sequence[Part], began: float) -> list[Part]:
        """See `HasParts`: also disks that stayed, by label and by the beginning of their name."""
        rules = [rule for part in planned for rule in self._rules(part.name, tag)]
        return rules + [
            Part("disk", each["name"])
            for each in self._google.every(f"/{self._zone}/disks", f"labels.{RESOURCE}={tag}")
            if each["name"].startswith(f"{name_of(tag)}-") and not each.get("users")
        ]

    def remove(self, part: Part) -> None:
        """See `HasParts`."""
        scope, folder = ("global", "firewalls") if part.what == "firewall rule" else (self._zone, "disks")
        begun = self._google.ask("DELETE", f"/{scope}/{folder}/{part.name}")
        if begun is not None:
            self._google.done(scope, begun)

    # -- output --------------------------------------------------------------------------------------------------------

    def console(self, machine: str) -> bytes:
        """See `HasConsole`: what it wrote on its first serial port."""
        shown = self._google.ask("GET", f"/{self._zone}/instances/{machine}/serialPort")
        return str((shown or {}).get("contents", "")).encode()


def _made_for(tag: str) -> str:
    return f"made by tether for resource {tag}"


def _seen(shown: Mapping[str, Any]) -> Seen:
    accelerators = shown.get("guestAccelerators") or [{}]
    return Seen(
        str(shown["id"]),
        _PHASES.get(shown["status"], "pending"),
        shown["status"],
        shown.get("statusMessage") or "",
        (shown.get("labels") or {}).get(RESOURCE),
        # A name is one machine's at a time in a zone: what was made like it with all its labels has another one.
        shown["name"],
        _time(shown.get("creationTimestamp")),
        _address(shown),
        shown["machineType"].rpartition("/")[2],
        accelerators[0].get("acceleratorCount", 0),
        accelerators[0].get("acceleratorType", "").rpartition("/")[2] or None,
        ends=_ends(shown),
    )


def _address(shown: Mapping[str, Any]) -> str | None:
    interface = (shown.get("networkInterfaces") or [{}])[0]
    outside: str | None = (interface.get("accessConfigs") or [{}])[0].get("natIP")
    inside: str | None = interface.get("networkIP")
    return outside or inside


def _ends(shown: Mapping[str, Any]) -> float | None:
    """When Google deletes it: by its word for that, or since when it runs and how long it may, both read back."""
    scheduling = shown.get("scheduling") or {}
    if scheduling.get("instanceTerminationAction") != "DELETE":
        return None
    said = ((shown.get("resourceStatus") or {}).get("scheduling") or {}).get("terminationTimestamp")
    if said or scheduling.get("terminationTime"):
        return _time(said or scheduling["terminationTime"])
    seconds, started = (scheduling.get("maxRunDuration") or {}).get("seconds"), _time(shown.get("lastStartTimestamp"))
    return None if seconds is None or started is None else started + float(seconds)


def _time(said: Any) -> float | None:
    with suppress(ValueError, TypeError):
        return datetime.fromisoformat(str(said)).timestamp()
    return None
