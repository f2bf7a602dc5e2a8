"""Plugins are called in one place, and what they return is checked there."""

from __future__ import annotations

import asyncio
import json
from enum import Enum, StrEnum
from typing import Any

import pytest

from tether import calls
from tether.errors import PluginError
from tether.protocol import PluginExecutionMode, RemoteResourceInfo


class Saying:
    """A plugin whose methods return what it was given."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def say(self) -> Any:
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value

    get_execution_mode = get_child_pids = get_managed_resources = say


class TextMode(StrEnum):
    """Modes that are text, as some packages have."""

    DOCKER = "docker"


class OtherMode(Enum):
    """Modes of something else."""

    X = "x"


@pytest.mark.parametrize("mode", [PluginExecutionMode.DOCKER, TextMode.DOCKER, "docker"])
def test_a_mode_counts_by_its_value(mode: Any) -> None:
    """Whose enum it is does not matter, nor that it is text."""
    assert calls.mode_value(Saying(mode)) == "docker"


@pytest.mark.parametrize("mode", [None, "podman", 3, [], PluginExecutionMode, OtherMode.X])
def test_what_is_no_mode_is_named(mode: Any) -> None:
    """The error says which plugin, which method, what came and what may come."""
    with pytest.raises(
        PluginError, match=r"plugin Saying: get_execution_mode\(\) returned .*; it must be a mode: in_process, "
    ):
        calls.mode_value(Saying(mode))


@pytest.mark.parametrize("error", [SystemExit(1), asyncio.CancelledError(), GeneratorExit(), ValueError("x")])
def test_whatever_is_raised_is_the_plugins_error(error: BaseException) -> None:
    """Also what is no Exception."""
    with pytest.raises(PluginError, match=rf"say\(\) raised {type(error).__name__}") as caught:
        calls.run(Saying(error), "say")
    assert caught.value.__cause__ is error


def test_ctrl_c_is_the_users() -> None:
    """It is passed on."""
    with pytest.raises(KeyboardInterrupt):
        calls.run(Saying(KeyboardInterrupt()), "say")


def test_a_coroutine_function_is_refused() -> None:
    """It would have done nothing; no warning of one that was never awaited is left either."""

    async def say() -> int:
        return 1

    plugin = Saying(None)
    plugin.say = say  # type: ignore[method-assign]
    with pytest.raises(PluginError, match="returned a coroutine"):
        calls.run(plugin, "say")


def test_resources_are_ready_for_json() -> None:
    """Odd keys, no-numbers, circles, objects that can't be shown, depth and size."""

    class Hidden:
        def __str__(self) -> str:
            raise SystemExit

    circle: dict[Any, Any] = {"name": "x"}
    circle["self"] = [circle]
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    value = {
        ("a", 1): {1},
        None: float("nan"),
        PluginExecutionMode.DOCKER: float("-inf"),
        "circle": circle,
        "hidden": Hidden(),
        "deep": deep,
        "bytes": b"x",
        "huge": 10**9999,
        "info": RemoteResourceInfo(provider="aws"),  # type: ignore[arg-type]
    }
    shown = calls.resources(Saying(value))
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert shown["('a', 1)"] == [1]
    assert (shown["None"], shown["docker"], shown["bytes"]) == ("nan", "-inf", "b'x'")
    assert shown["circle"] == {"name": "x", "self": ["(itself)"]}
    assert shown["hidden"] == "(can't be shown: SystemExit)"
    assert shown["info"]["provider"] == "aws"
    many = calls.resources(Saying({"many": list(range(10**6))}))
    assert len(many["many"]) < 30_000


@pytest.mark.parametrize("wrong", [None, [], "x", 1])
def test_resources_are_a_dict(wrong: Any) -> None:
    """Anything else is said."""
    with pytest.raises(PluginError, match=r"get_managed_resources\(\) returned .*; it must be a dict"):
        calls.resources(Saying(wrong))


def test_pids_and_what_is_none() -> None:
    """Each once, in its order; what can't be a pid apart, so that it can be said."""
    assert calls.own_pids(Saying([3, [1], 3, True, "4", 5, {}])) == ([3, 5], [[1], True, "4", {}])


class Unspeakable(Exception):
    """An error that can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("method", ["get_execution_mode", "get_child_pids", "get_managed_resources"])
def test_an_error_that_cannot_be_shown_is_the_plugins_error_too(method: str) -> None:
    """Its own __str__ raises: that is said instead of its text."""
    with pytest.raises(PluginError, match=rf"{method}\(\) raised Unspeakable: \(its text can't be had"):
        calls.run(Saying(Unspeakable()), method)
