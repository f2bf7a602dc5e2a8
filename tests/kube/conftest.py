"""One real cluster for all tests of this folder: `pytest tests/kube` runs them apart, and among others they come last."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kube import cluster
from kube.cluster import KubeCluster
from kube.pods import eventually

_BUILD_S = 7200
_TEST_S = 600


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


@pytest.fixture
def nothing_of_it_left(kube: KubeCluster) -> Iterator[None]:
    """In the end nothing carries a mark of tether, fuses included."""
    yield
    eventually(lambda: not kube.objects(), 150.0, f"left in the cluster: {kube.objects()}")


@pytest.fixture
def as_account(kube: KubeCluster) -> Iterator[Callable[[list[dict[str, Any]]], Path]]:
    """Give the account `tether` some rules, and return its kubeconfig."""
    base = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"

    def give(rules: list[dict[str, Any]]) -> Path:
        role = {"metadata": {"name": "tether"}, "rules": rules}
        assert kube.ask("POST", f"{base}/roles", json.dumps(role)) is not None
        binding = {
            "metadata": {"name": "tether"},
            "subjects": [{"kind": "User", "name": "tether", "apiGroup": "rbac.authorization.k8s.io"}],
            "roleRef": {"kind": "Role", "name": "tether", "apiGroup": "rbac.authorization.k8s.io"},
        }
        assert kube.ask("POST", f"{base}/rolebindings", json.dumps(binding)) is not None
        time.sleep(1.0)  # the authorizer reads it from a cache, and nothing says when
        return kube.kubeconfig.with_name("tether.conf")

    yield give
    kube.ask("DELETE", f"{base}/rolebindings/tether")
    kube.ask("DELETE", f"{base}/roles/tether")
