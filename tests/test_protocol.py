"""The public contract between apps and plugins."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from tether import protocol
from tether.errors import PluginError
from tether.protocol import CloudProviderType, PluginExecutionMode, RemoteResourceInfo

DATA = Path(__file__).parent / "data"


def test_the_example_of_the_document_prints_what_the_document_shows() -> None:
    """The founding document's code, unchanged behind one import, prints its output but for the pids."""
    code = "from tether.protocol import *\n" + (DATA / "lifecycle_example.py").read_text()
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    without_pids = re.sub(r"(PID: |PIDs: \[|'pid': )\d+", r"\1PID", shown)
    assert without_pids == (DATA / "lifecycle_expected.txt").read_text()


def test_the_modes_have_the_values_that_other_packages_rely_on() -> None:
    """Twelve members, by value."""
    assert {mode.name: mode.value for mode in PluginExecutionMode} == {
        "IN_PROCESS": "in_process",
        "SUBPROCESS": "subprocess",
        "DOCKER": "docker",
        "CONDA_ENV": "conda_env",
        "EXTERNAL_SERVICE": "external",
        "REMOTE_SSH": "remote_ssh",
        "CLOUD_VM": "cloud_vm",
        "CLOUD_CONTAINER": "cloud_container",
        "CLOUD_SERVERLESS": "cloud_serverless",
        "CLOUD_GPU": "cloud_gpu",
        "CLOUD_CPU": "cloud_cpu",
        "KUBERNETES": "kubernetes",
    }


class Foreign(Enum):
    """Another package's modes."""

    SUBPROCESS = "subprocess"


class Plugin:
    """A plugin that never heard of tether."""

    def __init__(self, pids: Any = ()) -> None:
        self.pids = pids

    def get_execution_mode(self) -> Foreign:
        return Foreign.SUBPROCESS

    def get_child_pids(self) -> Any:
        if isinstance(self.pids, Exception):
            raise self.pids
        return self.pids

    def get_managed_resources(self) -> dict[str, Any]:
        return {}

    def force_cleanup(self) -> None:
        return None


@pytest.fixture
def family() -> Iterator[subprocess.Popen[str]]:
    """A shell with two children."""
    script = "sleep 60 & sleep 60 & echo ready; wait"
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    os.killpg(process.pid, 9)
    process.wait()
    process.stdout.close()


def test_managed_pids_are_the_plugins_own_in_its_order_then_every_descendant_once(
    family: subprocess.Popen[str],
) -> None:
    """A pid that is named twice, or is a descendant of another, appears once."""
    children = protocol.get_all_managed_pids(Plugin([family.pid]))[1:]
    assert len(children) == 2
    named = [children[1], family.pid, family.pid]
    assert protocol.get_all_managed_pids(Plugin(named)) == [children[1], family.pid, children[0]]


@pytest.mark.parametrize("odd", [None, "1", 1.5, True, -1, 0, 2**40, [1]])
def test_what_is_no_live_pid_is_left_out(family: subprocess.Popen[str], odd: Any) -> None:
    """Only an int of a live process counts; True is no pid."""
    pids = [odd] if not isinstance(odd, list) else ["x"]
    assert protocol.get_all_managed_pids(Plugin([*pids, family.pid]))[0] == family.pid


def test_a_zombie_is_not_alive() -> None:
    """A child that ended and was not waited for is left out."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert protocol.get_all_managed_pids(Plugin([process.pid])) == []
    process.wait()


@pytest.mark.parametrize("plugin", [{"not": "a plugin"}, None, object(), Plugin, 5])
def test_what_is_not_lifecycle_aware_has_no_pids(plugin: Any) -> None:
    """Neither a dict nor a class is a plugin."""
    assert not protocol.is_lifecycle_aware(plugin)
    assert protocol.get_all_managed_pids(plugin) == []


def test_a_method_that_is_an_attribute_makes_no_plugin() -> None:
    """The four names must be callable."""
    plugin: Any = Plugin()
    plugin.force_cleanup = None
    assert not protocol.is_lifecycle_aware(plugin)


@pytest.mark.parametrize("wrong", [RuntimeError("broken"), None, 5])
def test_a_plugin_that_raises_is_named_with_its_method(wrong: Any) -> None:
    """PluginError says which plugin and which method, also for what can't be iterated."""
    with pytest.raises(PluginError, match=r"Plugin: get_child_pids\(\)") as caught:
        protocol.get_all_managed_pids(Plugin(wrong))
    assert (caught.value.plugin, caught.value.method) == ("Plugin", "get_child_pids")


class Cloud:
    """A cloud plugin, as the document of the other package shows one."""

    def __init__(self, status: str | None = "running", price: float | None = 4.4) -> None:
        self.info = (
            RemoteResourceInfo(CloudProviderType.RUNPOD, status=status, estimated_cost_per_hour=price)
            if status
            else None
        )

    def get_remote_resource_info(self) -> RemoteResourceInfo | None:
        return self.info

    def provision_remote_resource(self, **config: Any) -> RemoteResourceInfo:
        raise NotImplementedError

    def check_remote_resource_status(self) -> str:
        return self.info.status if self.info else "not_provisioned"

    def terminate_remote_resource(self) -> bool:
        return False

    def estimate_cost(self, duration_hours: float) -> float:
        return duration_hours * ((self.info and self.info.estimated_cost_per_hour) or 0.0)


def test_costs_count_what_is_active_only() -> None:
    """What is stopped, not provisioned or no cloud plugin costs nothing."""
    plugins = [Cloud(), Cloud(), Cloud("terminated"), Cloud(None), {"not": "a plugin"}, Plugin()]
    assert [protocol.has_active_cloud_resources(plugin) for plugin in plugins] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert protocol.get_total_estimated_cost(plugins) == pytest.approx(8.8)
    assert protocol.get_total_estimated_cost(plugins, 24.0) == pytest.approx(211.2)


def test_remote_resource_info_has_the_fields_and_defaults_of_the_contract() -> None:
    """Positional order matters to callers too."""
    info = RemoteResourceInfo(CloudProviderType.AWS)
    assert vars(info) == {
        "provider": CloudProviderType.AWS,
        "region": None,
        "instance_id": None,
        "job_id": None,
        "endpoint_url": None,
        "ssh_host": None,
        "ssh_port": 22,
        "status": "unknown",
        "resource_type": None,
        "gpu_count": 0,
        "gpu_type": None,
        "estimated_cost_per_hour": None,
        "metadata": {},
    }
    assert [provider.value for provider in CloudProviderType] == [
        "aws", "gcp", "azure", "lambda_labs", "runpod", "vast_ai", "paperspace", "together_ai", "custom",
    ]  # fmt: skip


def their(name: str, members: dict[str, str]) -> Any:
    """Another package's enum."""
    made: Any = Enum
    return made(name, members)


def test_enums_equal_the_like_named_ones_of_other_packages() -> None:
    """In both directions, as keys and in sets; another name, class or value is another thing."""
    kinds: list[Any] = [PluginExecutionMode, CloudProviderType]
    for kind in kinds:
        for ours, theirs in zip(kind, their(kind.__name__, {each.name: each.value for each in kind}), strict=True):
            assert ours == theirs
            assert theirs == ours
            assert {ours: 1}[theirs] == {theirs: 1}[ours] == 1
            assert len({ours, theirs}) == 1
    docker: Any = PluginExecutionMode.DOCKER
    others = [their("Other", {"DOCKER": "docker"}), their("PluginExecutionMode", {"DOCKER": "podman"})]
    assert docker not in [*(each.DOCKER for each in others), "docker", PluginExecutionMode.SUBPROCESS]
    assert len(set(PluginExecutionMode)) == 12


@pytest.mark.parametrize("info", [None, {}, False, "", 0, []])
def test_whatever_is_false_says_that_nothing_runs(info: Any) -> None:
    """None is not the only way to say so."""
    plugin: Any = Cloud()
    plugin.info = info
    assert not protocol.has_active_cloud_resources(plugin)


def test_a_cloud_plugin_has_methods() -> None:
    """Attributes that can't be called, and properties that raise, are none; and an estimate must be a number."""
    plugin: Any = Cloud()
    plugin.estimate_cost = 3.0
    assert not protocol.is_cloud_aware(plugin)

    class Raising(Cloud):
        @property
        def estimate_cost(self) -> Any:
            raise OSError

    assert not protocol.is_cloud_aware(Raising())
    for odd in ("much", None, float("nan")):
        plugin.estimate_cost = lambda hours, odd=odd: odd
        with pytest.raises(PluginError, match=r"estimate_cost\(\) returned .* US dollars"):
            protocol.get_total_estimated_cost([plugin])


def test_strangers_are_not_listed(family: subprocess.Popen[str]) -> None:
    """A plugin that names pid 1, the app or what is above it gets neither those nor all that is below them."""
    named = [1, os.getpid(), os.getppid(), family.pid]
    assert len(protocol.get_all_managed_pids(Plugin(named))) == 3
    assert protocol.get_all_managed_pids(Plugin(named))[0] == family.pid


@pytest.mark.parametrize("odd", [[[1]], [{}], [{1}, float("nan")], [object()]])
def test_what_can_not_be_hashed_is_no_pid(odd: Any) -> None:
    """It is left out as other nonsense is."""
    assert protocol.get_all_managed_pids(Plugin(odd)) == []


@pytest.mark.parametrize("wrong", [SystemExit(3), "12", {1: 2}])
def test_a_plugin_can_not_end_the_app_by_being_asked(wrong: Any) -> None:
    """sys.exit() in a method is that method's error."""

    class Leaving(Plugin):
        def get_child_pids(self) -> Any:
            if isinstance(wrong, BaseException):
                raise wrong
            return wrong

    with pytest.raises(PluginError, match=r"Leaving: get_child_pids\(\)"):
        protocol.get_all_managed_pids(Leaving())
