"""The sizes of machines that can be had in a location of Azure's, asked for there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tether.drivers.cloud.provider import Refused
from tether.drivers.cloud.providers.azure_client import Arm
from tether.drivers.cloud.spec import Machine

__all__ = ["Size", "smallest"]

_DEFAULT = "Standard_B2ats_v2"
_GIB = 1 << 30


@dataclass(frozen=True)
class Size:
    """One size of machine. Which GPU it has, only its name says."""

    name: str
    is_arm: bool
    cpus: float
    memory_gib: float
    gpu_count: int


def smallest(arm: Arm, location: str, spec: Machine) -> Size:
    """Return the named size, or the smallest that has what was asked for. Raises Refused if there is none."""
    shown = [each for each in arm.sizes(location) if each.get("resourceType") == "virtualMachines"]
    there = [_size(each) for each in shown if not _is_withheld(each)]
    name = spec.type or (None if spec.gpu_count or spec.cpus or spec.memory else _DEFAULT)
    fitting = [size for size in there if _fits(size, spec, name)]
    if not fitting:
        raise Refused(
            f"azure has no size in {location} for this subscription with type={name!r}, gpu={spec.gpu!r}, "
            f"gpu_count={spec.gpu_count}, cpus={spec.cpus}, memory={spec.memory}; see 'az vm list-skus -l {location}'"
        )
    return min(fitting, key=lambda size: (size.gpu_count, size.cpus, size.memory_gib, size.name))


def _is_withheld(shown: Mapping[str, Any]) -> bool:
    return any(each.get("type") == "Location" for each in shown.get("restrictions") or ())


def _fits(size: Size, spec: Machine, name: str | None) -> bool:
    memory = spec.memory if isinstance(spec.memory, int) else 0
    if name is not None and size.name.casefold() != name.casefold():
        return False
    if name is None and (size.is_arm or (size.gpu_count and not spec.gpu_count)):
        return False
    # Standard_NC4as_T4_v3 has a T4.
    is_model = spec.gpu is None or spec.gpu.casefold() in size.name.casefold().split("_")
    is_enough = size.cpus >= (spec.cpus or 0) and size.memory_gib * _GIB >= memory
    return is_model and is_enough and size.gpu_count >= spec.gpu_count


def _size(shown: Mapping[str, Any]) -> Size:
    has = {each["name"]: each["value"] for each in shown.get("capabilities") or ()}
    return Size(
        shown["name"],
        has.get("CpuArchitectureType") == "Arm64",
        float(has.get("vCPUs", 0)),
        float(has.get("MemoryGB", 0)),
        int(has.get("GPUs", 0)),
    )
