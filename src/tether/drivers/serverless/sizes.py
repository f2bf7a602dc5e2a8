"""Which sizes of a container Fargate has. Source: AWS, "Task CPU and memory" of Fargate's task definitions."""

from __future__ import annotations

import math

from tether.errors import SpecError

__all__ = ["fitting"]

_STEPS = {
    256: (512, 1024, 2048),
    512: tuple(range(1024, 4096 + 1, 1024)),
    1024: tuple(range(2048, 8192 + 1, 1024)),
    2048: tuple(range(4096, 16384 + 1, 1024)),
    4096: tuple(range(8192, 30720 + 1, 1024)),
    8192: tuple(range(16384, 61440 + 1, 4096)),
    16384: tuple(range(32768, 122880 + 1, 8192)),
}
_MIB = 1 << 20


def fitting(cpus: float, memory: int | None) -> tuple[int, int]:
    """Return the smallest size that has so many processors and so much memory, in units of 1/1024 and in MiB.

    Raises:
        SpecError: there is none.
    """
    least = 0 if memory is None else math.ceil(memory / _MIB)
    for units, steps in _STEPS.items():
        if units >= cpus * 1024:
            found = next((step for step in steps if step >= least), None)
            if found is not None:
                return units, found
    raise SpecError(f"cpus={cpus:g} with memory={memory} is more than a container on Fargate can have: 16 and 120 GiB")
