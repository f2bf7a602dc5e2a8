"""One real cluster for all tests of this folder: `pytest tests/kube` runs them apart, and among others they come last."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kube import cluster
from kube.cluster import KubeCluster

_BUILD_S = 3600
_TEST_S = 240


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run them last, so that no other test shares the machine with a cluster; the first may have to build it."""
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    items[:] = [item for item in items if item not in mine] + mine
    for item in mine:
        item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.timeout(_TEST_S if cluster.is_built() else _BUILD_S))


@pytest.fixture(scope="session")
def kube() -> Iterator[KubeCluster]:
    """A real cluster of the tests' own, with one node."""
    missing = cluster.why_not()
    if missing:
        pytest.skip(missing)
    with cluster.running() as started:
        yield started
