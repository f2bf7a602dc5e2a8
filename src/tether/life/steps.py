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
    except BaseException:
        # Interrupted between two steps, it would end only when somebody lets go of the exception.
        steps.close()
        raise


def in_step(many: Iterable[Steps[T]]) -> list[T]:
    """Carry out many in this thread, a step of each in turn, and return what they return.

    Raises:
        Exception: what the first raised that failed, with a note for each other. The rest were carried out all the same: what was
            asked for is there, or known not to be, and can be ended.
        BaseException: what interrupted this. All that had not ended were interrupted where they waited (GeneratorExit).
    """
    results: dict[int, T] = {}
    failed: list[Exception] = []
    going = dict(enumerate(many))
    count = len(going)
    try:
        while going:
            for place, steps in list(going.items()):
                try:
                    next(steps)
                    continue
                except StopIteration as over:
                    results[place] = over.value
                except Exception as error:
                    failed.append(error)
                del going[place]
    except BaseException as error:
        for steps in going.values():
            try:
                steps.close()
            except Exception as beside:
                _note(error, beside)
        raise
    if failed:
        for each in failed[1:]:
            _note(failed[0], each)
        raise failed[0]
    return [results[place] for place in range(count)]


def _note(error: BaseException, beside: Exception) -> None:
    error.add_note(f"beside that: {type(beside).__name__}: {beside}")
