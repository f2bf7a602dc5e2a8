"""Fixtures of the tests of tether.aio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

Run = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine function in each kind of loop; it has two minutes, as any test."""

    def running(main: Callable[[], Awaitable[Any]]) -> Any:
        return anyio.run(main, backend=request.param)

    return running
