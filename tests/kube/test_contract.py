"""Pods pass the contract, with a real cluster."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import ClassVar

import pytest

from kube.cluster import IMAGE, KubeCluster
from tether import Pod, log
from tether.testing import OutageContract


class TestPod(OutageContract):
    """A pod with a Secret and a Service; an outage is an API server that refuses connections, and resets those that are open."""

    says = "serving"
    # Far below the lease, so that it is the reaper's doing; a busy machine's kubelet takes its time.
    within_s = 45.0
    cluster: ClassVar[KubeCluster]

    @pytest.fixture(autouse=True)
    def _with_cluster(self, kube: KubeCluster) -> None:
        type(self).cluster = kube

    def make_spec(self, name: str) -> Pod:
        """A web server that says so."""
        return Pod(
            IMAGE,
            [
                "sh",
                "-c",
                'echo serving; trap "exit 0" TERM; httpd -p {port} -h /bin; while :; do sleep 600 & wait $!; done',
            ],
            name=name,
            kubeconfig=self.cluster.kubeconfig,
            pull="never",
            env={"TOKEN": "a secret"},
            service=True,
            mounts={"/data": None},
            lease=90,
            ready=log("serving"),
        )

    def leftovers(self) -> list[str]:
        """What carries a resource's label, as its administrator sees it."""
        return self.cluster.objects("tether.dev/resource")

    def outage(self) -> AbstractContextManager[None]:
        """See above."""
        return self.cluster.refusing()
