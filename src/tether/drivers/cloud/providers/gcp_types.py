"""The sizes of machines that a zone of Google's has, asked for there, and the accelerators that are put into one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tether.drivers.cloud.provider import Refused
from tether.drivers.cloud.providers.gcp_client import Google
from tether.drivers.cloud.spec import Machine

__all__ = ["Size", "smallest"]

_DEFAULT = "e2-micro"
_MIB = 1 << 20
# The one family into which accelerators are put; others have them built in, or none. Source: Compute Engine, "GPU machine types".
_TAKES_ACCELERATORS = "n1-"


@dataclass(frozen=True)
class Size:
    """One size of machine; ``added`` is whether its accelerators are put in, where others have them built in."""

    name: str
    is_arm: bool
    cpus: int
    memory_mib: int
    gpu: str | None = None
    gpu_count: int = 0
    added: bool = False


def smallest(google: Google, zone: str, spec: Machine) -> Size:
    """Return the named size, or the smallest that has what was asked for. Raises Refused if there is none."""
    if spec.type is not None or not (spec.gpu_count or spec.cpus or spec.memory):
        name = spec.type or _DEFAULT
        shown = google.ask("GET", f"/{zone}/machineTypes/{name}")
        if shown is None:
            raise Refused(f"gcp has no size {name} in {zone}")
        size = _size(shown)
        needs_more = spec.gpu_count > size.gpu_count and name.startswith(_TAKES_ACCELERATORS)
        sizes = _with_accelerators(google, zone, spec, [size]) if needs_more else [size]
    else:
        shown = [each for each in google.every(f"/{zone}/machineTypes") if "deprecated" not in each]
        known = [size for size in map(_size, shown) if not size.is_arm]
        sizes = known + (_with_accelerators(google, zone, spec, known) if spec.gpu_count else [])
    fitting = [size for size in sizes if _fits(size, spec)]
    if not fitting:
        raise Refused(
            f"gcp has no size in {zone} with type={spec.type!r}, gpu={spec.gpu!r}, gpu_count={spec.gpu_count}, "
            f"cpus={spec.cpus}, memory={spec.memory}; see 'gcloud compute machine-types list'"
        )
    return min(fitting, key=lambda size: (size.gpu_count, size.cpus, size.memory_mib, size.name))


def _with_accelerators(google: Google, zone: str, spec: Machine, sizes: list[Size]) -> list[Size]:
    """Sizes with as many accelerators as were asked for put in."""
    shown = google.every(f"/{zone}/acceleratorTypes")
    models = [
        each["name"]
        for each in shown
        if "deprecated" not in each and each.get("maximumCardsPerInstance", 0) >= spec.gpu_count
    ]
    return [
        Size(size.name, size.is_arm, size.cpus, size.memory_mib, model, spec.gpu_count, added=True)
        for model in sorted(models)
        for size in sizes
        if size.name.startswith(_TAKES_ACCELERATORS) and not size.gpu_count
    ]


def _fits(size: Size, spec: Machine) -> bool:
    memory = spec.memory if isinstance(spec.memory, int) else 0
    has_gpu = size.gpu_count >= spec.gpu_count if spec.gpu_count else size.gpu_count == 0 or spec.type is not None
    is_enough = size.cpus >= (spec.cpus or 0) and size.memory_mib * _MIB >= memory
    return has_gpu and _is_model(size.gpu, spec.gpu) and is_enough


def _is_model(has: str | None, wanted: str | None) -> bool:
    """Whether it is the model: "nvidia-tesla-t4" by its whole name, or by what follows its maker's and family's."""
    if wanted is None:
        return True
    name = (has or "").casefold()
    return wanted.casefold() in (name, name.removeprefix("nvidia-").removeprefix("tesla-"))


def _size(shown: Mapping[str, Any]) -> Size:
    accelerators = shown.get("accelerators") or ()
    return Size(
        shown["name"],
        shown.get("architecture") == "ARM64",
        shown["guestCpus"],
        shown["memoryMb"],
        accelerators[0].get("guestAcceleratorType") if accelerators else None,
        sum(each.get("guestAcceleratorCount", 0) for each in accelerators),
    )
