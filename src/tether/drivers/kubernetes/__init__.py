"""Pods of a Kubernetes cluster that end with their owner: no controller, no image and no agent of tether's is in the cluster.

spec.py      what may be said of one
where.py     which cluster: from a kubeconfig, or from the pod that this process runs in
client.py    the connection, and its errors in our words
manifest.py  what a cluster is asked for, made from a spec
fuse.py      the dead man's switch: a Job that is never placed, its deadline renewed
proof.py     whether a cluster's fuses blow, tried once
fuses.py     the fuses of one process
pods.py      what a pod's object says of it
parts.py     what carries a tag: seen, and removed
doubt.py     when a pod's object has gone, and nobody knows whether it has ended
watch.py     hears from a cluster what becomes of pods
track.py     what is heard, made into events
forward.py   a port of this machine that leads to one of a pod
reach.py     how a pod is reached
output.py    what it writes
driver.py    starts, finds, inspects, stops and destroys
"""

from __future__ import annotations

from tether.drivers.kubernetes.driver import KubernetesDriver
from tether.drivers.kubernetes.spec import Claim, FromKey, Pod, PodRef

__all__ = ["Claim", "FromKey", "KubernetesDriver", "Pod", "PodRef"]
