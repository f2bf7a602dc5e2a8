"""Work that is cut into steps where it waits for somebody else: many are carried out in step, so that they wait together."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TypeVar

__all__ = ["Steps", "alone", "in_step"]

T = TypeVar("T")

Steps = Generator[None, None, T]
"""It yields when it has asked for something; what it does next is to wait for that."""


def alone(steps: Steps[T]) -> T:
    """Carry out one, and return what it returns. Raises what it raises."""
    try:
        while True:
            next(steps)
    except StopIteration as over:
        result: T = over.value
        return result


def in_step(many: Iterable[Steps[T]]) -> list[T]:
    """Carry out many in this thread, a step of each in turn, and return what they return.

    Raises:
        BaseException: what the first raised that failed, or what interrupted this. The others were interrupted where they waited
            (GeneratorExit), and have cleaned up; what failed in that is a note of the error.
    """
    results: dict[int, T] = {}
    going = dict(enumerate(many))
    count = len(going)
    try:
        while going:
            for place, steps in list(going.items()):
                try:
                    next(steps)
                except StopIteration as over:
                    results[place] = over.value
                    del going[place]
    except BaseException as error:
        for steps in going.values():
            try:
                steps.close()
            except Exception as beside:
                error.add_note(f"beside that: {type(beside).__name__}: {beside}")
        raise
    return [results[place] for place in range(count)]
