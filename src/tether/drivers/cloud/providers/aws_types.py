"""The sizes of machines that AWS has, asked for there: its own catalogue is never out of date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tether.drivers.cloud.provider import Refused
from tether.drivers.cloud.spec import Machine

__all__ = ["Size", "smallest"]

_DEFAULT = "t3.micro"
_MIB = 1 << 20


@dataclass(frozen=True)
class Size:
    """One size of machine."""

    name: str
    architecture: str
    cpus: int
    memory_mib: int
    gpu: str | None
    gpu_count: int


def smallest(ec2: Any, spec: Machine) -> Size:
    """Return the named size, or the smallest that has what was asked for. Raises Refused if there is none."""
    if spec.type is not None or not (spec.gpu_count or spec.cpus or spec.memory):
        name = spec.type or _DEFAULT
        found = ec2.describe_instance_types(InstanceTypes=[name])["InstanceTypes"]
        if not found:
            raise Refused(f"aws has no size {name}")
        return _size(found[0])
    needed = [{"Name": "processor-info.supported-architecture", "Values": ["x86_64"]}]
    pages = ec2.get_paginator("describe_instance_types").paginate(Filters=needed)
    sizes = [_size(each) for page in pages for each in page["InstanceTypes"] if not each.get("BareMetal")]
    fitting = [size for size in sizes if _fits(size, spec)]
    if not fitting:
        raise Refused(
            f"aws has no size with gpu={spec.gpu!r}, gpu_count={spec.gpu_count}, cpus={spec.cpus}, memory={spec.memory}; "
            "see 'aws ec2 describe-instance-types'"
        )
    return min(fitting, key=lambda size: (size.gpu_count, size.cpus, size.memory_mib, size.name))


def _fits(size: Size, spec: Machine) -> bool:
    memory = spec.memory if isinstance(spec.memory, int) else 0
    has_gpu = size.gpu_count >= spec.gpu_count if spec.gpu_count else size.gpu_count == 0
    is_model = spec.gpu is None or (size.gpu or "").casefold() == spec.gpu.casefold()
    return has_gpu and is_model and size.cpus >= (spec.cpus or 0) and size.memory_mib * _MIB >= memory


def _size(shown: Mapping[str, Any]) -> Size:
    gpus = shown.get("GpuInfo", {}).get("Gpus", [])
    architectures = shown.get("ProcessorInfo", {}).get("SupportedArchitectures", ["x86_64"])
    return Size(
        shown["InstanceType"],
        "x86_64" if "x86_64" in architectures else str(architectures[0]),
        shown["VCpuInfo"]["DefaultVCpus"],
        shown["MemoryInfo"]["SizeInMiB"],
        gpus[0].get("Name") if gpus else None,
        sum(gpu.get("Count", 0) for gpu in gpus),
    )
