"""Work in steps: many wait together; one that fails leaves the others alone, and an interruption reaches each where it waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tether.life.steps import Steps, alone, in_step


@pytest.fixture
def said() -> list[str]:
    """What happened, in its order."""
    return []


def work(said: list[str], name: str, steps: int, *, fails: Exception | None = None) -> Steps[str]:
    """Something that waits so often, and cleans up when it is interrupted."""
    try:
        for number in range(steps):
            said.append(f"{name}{number}")
            yield
        if fails is not None:
            raise fails
    except GeneratorExit:
        said.append(f"{name} interrupted")
        raise
    return name.upper()


def test_one_alone(said: list[str]) -> None:
    """All its steps, and what it returns."""
    assert alone(work(said, "a", 3)) == "A"
    assert said == ["a0", "a1", "a2"]


def test_many_take_a_step_each_in_turn(said: list[str]) -> None:
    """Whatever their number of steps; results come in the order of the work, and work begins as it is asked for."""
    assert in_step(work(said, name, steps) for name, steps in (("a", 1), ("b", 3), ("c", 2))) == ["A", "B", "C"]
    assert said == ["a0", "b0", "c0", "b1", "c1", "b2"]
    nothing: Iterator[Steps[str]] = iter(())
    assert in_step(nothing) == []


def test_a_failure_waits_for_the_others(said: list[str]) -> None:
    """They come to their end, and what else fails is a note of the first."""
    with pytest.raises(OSError, match="no") as caught:
        in_step(
            [
                work(said, "a", 0),
                work(said, "b", 1, fails=OSError("no")),
                work(said, "c", 3),
                work(said, "d", 2, fails=ValueError("nor that")),
            ]
        )
    assert said == ["b0", "c0", "d0", "c1", "d1", "c2"]
    assert caught.value.__notes__ == ["beside that: ValueError: nor that"]


def test_an_interruption_interrupts_the_others(said: list[str]) -> None:
    """Where they wait; what fails while it cleans up is a note."""

    def interrupted() -> Steps[str]:
        yield
        raise KeyboardInterrupt

    def stubborn() -> Steps[str]:
        try:
            yield
            yield
        except GeneratorExit:
            raise RuntimeError("can't let go") from None
        return ""

    with pytest.raises(KeyboardInterrupt) as caught:
        in_step([work(said, "a", 0), interrupted(), work(said, "c", 5), stubborn()])
    assert said == ["c0", "c interrupted"]
    assert caught.value.__notes__ == ["beside that: RuntimeError: can't let go"]
