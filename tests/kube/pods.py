"""What tests of pods share: pods of a shell script, and owners that die with all that is beside them."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import support
from kube.cluster import IMAGE, KubeCluster
from tether import Pod

_LOOK_PAUSE_S = 0.2

# A trap comes at once during wait, and only afterwards during sleep; nothing here keeps a processor busy.
LOOP = 'trap "echo bye; exit 0" TERM; echo up; while :; do sleep 600 & wait $!; done'
SERVE = f"mkdir -p /tmp/w; echo body > /tmp/w/index.html; httpd -p {{port}} -h /tmp/w; {LOOP}"

OWNER = """
import pickle, signal, sys
from tether import Owner
owner = Owner(sys.argv[1], state_dir=sys.argv[2])
resource = owner.start(pickle.loads(bytes.fromhex(sys.argv[3])))
# In one write: others may write there at the same time.
sys.stdout.write(f"{resource.details['pod']} {resource.id}\\n")
sys.stdout.flush()
"""


def pod(kube: KubeCluster, name: str, script: str = LOOP, **more: Any) -> Pod:
    """A shell script in a pod."""
    given = {"kubeconfig": kube.kubeconfig, "pull": "never", "lease": 20, **more}
    return Pod(IMAGE, ["sh", "-c", script], name=name, **given)


def eventually(condition: Callable[[], Any], within: float = 120.0, what: str = "") -> Any:
    """As `support.eventually`, for what takes several programs to look at: not so often, and on a busy machine for long."""

    def look() -> Any:
        value = condition()
        if not value:
            time.sleep(_LOOK_PAUSE_S)
        return value

    return support.eventually(look, within, what)


def seen(kube: KubeCluster, resource: Any) -> dict[str, Any]:
    """A resource's pod, as its administrator sees it; empty if there is none."""
    return kube.ask("GET", f"/api/v1/namespaces/default/pods/{resource.details['pod']}") or {}


def page() -> str:
    """The documentation of pods."""
    return (Path(__file__).parents[2] / "docs/kubernetes.md").read_text()


def documented_rules() -> list[dict[str, Any]]:
    """The rules that the documentation gives."""
    import yaml  # type: ignore[import-untyped]

    block = re.search(r"^```yaml role\n(.*?)^```", page(), re.MULTILINE | re.DOTALL)
    assert block is not None
    return list(yaml.safe_load(block.group(1))["rules"])


@contextmanager
def owner_apart(
    spec: Pod, state: Path, then: str = "signal.pause()", environ: Mapping[str, str] | None = None, name: str = "apart"
) -> Iterator[subprocess.Popen[str]]:
    """An owner in a pid namespace of its own, which says the pod's name and tag; killed, its reaper dies in the same moment."""
    command = [sys.executable, "-c", OWNER + then, name, str(state), pickle.dumps(spec).hex()]
    apart = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    apart += ["timeout", "-s", "KILL", "600"]
    with subprocess.Popen([*apart, *command], stdout=subprocess.PIPE, text=True, env=environ) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> tuple[str, str]:
    """The pod's name and tag, when it runs."""
    assert process.stdout is not None
    name, tag = process.stdout.readline().split()
    return name, tag
