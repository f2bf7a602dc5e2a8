"""CloudPlugin: the five methods of the cloud-aware protocol in every state, with real machines."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator

import pytest

from cloud.ec2 import KEYS, REGION, Ec2
from support import eventually
from tether import Machine, Owner, PluginExecutionMode, SpecError, StartError, is_lifecycle_aware
from tether.errors import Busy
from tether.plugins import CloudPlugin
from tether.protocol import CloudProviderType, get_total_estimated_cost, has_active_cloud_resources, is_cloud_aware


@pytest.fixture
def plugin(ec2: Ec2, owner: Owner, monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudPlugin]:
    """A plugin that has rented nothing yet."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    ec2.tell(faults=[], late=0)
    made = CloudPlugin(
        Machine(
            region=REGION,
            endpoint=ec2.url,
            image=ec2.image,
            key=False,
            lease=3,
            listing_lag=3,
            port=8000,
            cost_per_hour=1.5,
            user_data="#!/bin/sh\npkill -P $$; exec sleep 100\n",
        )
    )
    owner.register(made)
    yield made
    ec2.tell(down=0, late=0)
    ec2.is_down = False
    made.force_cleanup()
    assert ec2.leftovers() == []


def test_before_anything_is_rented(plugin: CloudPlugin) -> None:
    """Nothing is there and nothing costs anything."""
    assert is_lifecycle_aware(plugin)
    assert is_cloud_aware(plugin)
    assert plugin.get_remote_resource_info() is None
    assert plugin.check_remote_resource_status() == "not_provisioned"
    assert plugin.terminate_remote_resource() is True
    assert plugin.estimate_cost(2) == 3.0
    assert not has_active_cloud_resources(plugin)
    assert plugin.get_execution_mode() is PluginExecutionMode.CLOUD_VM


def test_while_it_runs_and_after(plugin: CloudPlugin, ec2: Ec2) -> None:
    """All that is known is told; afterwards it is terminated, and a second end is success too."""
    info = plugin.provision_remote_resource(gpu="T4")
    assert (info.provider, info.region, info.status) == (CloudProviderType.AWS, REGION, "running")
    assert info.instance_id in ec2.machines()
    assert (info.gpu_count, info.gpu_type, info.resource_type) == (1, "T4", "g4dn.xlarge")
    assert info.endpoint_url == f"http://{info.ssh_host}:8000"
    assert info.estimated_cost_per_hour == 1.5
    assert plugin.get_execution_mode() is PluginExecutionMode.CLOUD_GPU
    assert plugin.check_remote_resource_status() == "running"
    assert get_total_estimated_cost([plugin], 2) == 3.0
    assert json.loads(json.dumps(plugin.get_managed_resources()))["instance_id"] == info.instance_id
    assert plugin.provision_remote_resource().instance_id == info.instance_id
    with pytest.raises(Busy):
        plugin.provision_remote_resource(spot=True)
    assert plugin.terminate_remote_resource() is True
    assert plugin.check_remote_resource_status() == "terminated"
    assert plugin.get_remote_resource_info() is None
    assert plugin.terminate_remote_resource() is True
    assert not has_active_cloud_resources(plugin)


def test_while_it_is_being_rented(plugin: CloudPlugin, ec2: Ec2) -> None:
    """It is "provisioning", and an end asked for then leaves nothing."""
    ec2.tell(late=2)
    errors: list[BaseException] = []

    def provision() -> None:
        try:
            plugin.provision_remote_resource()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=provision)
    thread.start()
    info = eventually(plugin.get_remote_resource_info, 10)
    assert info.status == "provisioning"
    assert plugin.check_remote_resource_status() == "provisioning"
    assert not has_active_cloud_resources(plugin)
    plugin.terminate_remote_resource()
    thread.join(60)
    assert not thread.is_alive()
    assert errors
    assert ec2.machines() == []
    assert plugin.check_remote_resource_status() in ("terminated", "not_provisioned")


def test_while_it_is_lost_or_stopped(plugin: CloudPlugin, ec2: Ec2) -> None:
    """Unknown is said as unknown; an end that could not be done is False, and is done when it can be."""
    info = plugin.provision_remote_resource()
    ec2.go_down()
    assert plugin.check_remote_resource_status() == "unknown"
    assert plugin.terminate_remote_resource() is False
    assert plugin.get_remote_resource_info() is not None
    ec2.come_back()
    eventually(lambda: ec2.machines() == [], 60)
    eventually(lambda: plugin.check_remote_resource_status() == "terminated", 60)
    again = plugin.provision_remote_resource()
    assert again.instance_id != info.instance_id
    ec2.client.stop_instances(InstanceIds=[again.instance_id])
    assert plugin.check_remote_resource_status() == "stopped"
    assert plugin.terminate_remote_resource() is True


def test_what_the_provider_ended_is_terminated(plugin: CloudPlugin, ec2: Ec2) -> None:
    """At once for who asks, and without an owner's doing."""
    info = plugin.provision_remote_resource()
    ec2.tell(end=info.instance_id)
    assert plugin.check_remote_resource_status() == "terminated"
    eventually(lambda: plugin.get_remote_resource_info() is None, 30)


def test_what_goes_wrong_is_said(plugin: CloudPlugin, ec2: Ec2) -> None:
    """A field that is not there, no capacity, an unknown price."""
    with pytest.raises(SpecError, match="no such field"):
        plugin.provision_remote_resource(colour="red")
    ec2.tell(faults=[["RunInstances", "capacity"]])
    with pytest.raises(StartError, match="InsufficientInstanceCapacity"):
        plugin.provision_remote_resource()
    assert plugin.check_remote_resource_status() == "not_provisioned"
    assert math.isnan(CloudPlugin(Machine(region=REGION)).estimate_cost(1))
    with pytest.raises(SpecError):
        plugin.estimate_cost(-1)
