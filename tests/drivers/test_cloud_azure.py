"""What only Azure's machines have, at a stand-in; the contract is in test_cloud_rest.py."""

from __future__ import annotations

import base64
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud.microsoft import GROUP, LOCATION, ROOT, SUBSCRIPTION, Azure
from cloud.rest import KEY, running
from support import eventually
from tether import Machine, MachineRef, Owner, SpecError, StartError, State, TetherError
from tether.drivers.cloud.providers import azure


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Azure]:
    """The stand-in; whatever a test leaves there fails it."""
    made = Azure()
    with running(made):
        for name, value in made.environ(tmp_path).items():
            monkeypatch.setenv(name, value)
        yield made
        assert made.leftovers() == []


def machine(stand: Azure, **more: Any) -> Machine:
    """A small machine."""
    return Machine("azure", **{"endpoint": stand.url, "name": "m", "listing_lag": 1.0, **more})


def asked(stand: Azure) -> dict[str, Any]:
    """What the one machine was asked for with."""
    (each,) = stand.rented.values()
    return each.asked


@pytest.mark.slow
def test_azure_reads_what_it_is_asked(owner: Owner, stand: Azure) -> None:  # noqa: PLR0915 - one import of 3 s for all it reads
    """Its libraries' clients take the stand-in for Azure, and find in each thing what was meant. Slow: their import."""
    with warnings.catch_warnings():
        # Of how they were built, not of what is asked.
        warnings.simplefilter("ignore")
        from azure.core.credentials import AccessToken
        from azure.core.pipeline.policies import SansIOHTTPPolicy
        from azure.mgmt.compute import ComputeManagementClient
        from azure.mgmt.network import NetworkManagementClient

    class Known:
        def get_token(self, *scopes: str, **more: Any) -> AccessToken:
            return AccessToken(KEY, int(time.time()) + 3600)

    class Bearer(SansIOHTTPPolicy[Any, Any]):
        # Theirs sends no token where there is no TLS.
        def on_request(self, request: Any) -> None:
            request.http_request.headers["Authorization"] = f"Bearer {KEY}"

    started = owner.start(machine(stand, gpu="T4", gpu_count=4, spot=True, disk=64, open_ports=[22, 80], labels={"team": "a"}, user_data="#!/bin/sh\n# mine\n"))  # fmt: skip
    name, tag = started.details["instance_id"], started.id
    given: Any = {"credential": Known(), "subscription_id": SUBSCRIPTION, "base_url": stand.url, "authentication_policy": Bearer()}  # fmt: skip
    clients: Any = ComputeManagementClient(**given), NetworkManagementClient(**given)
    with clients[0] as compute, clients[1] as network:
        shown = compute.virtual_machines.get(GROUP, name, expand="instanceView")
        assert (shown.location, shown.tags["tether-resource"], shown.tags["team"]) == (LOCATION, tag, "a")
        assert shown.properties.hardware_profile.vm_size == "Standard_NC64as_T4_v3"
        disk = shown.properties.storage_profile.os_disk
        assert (disk.name, disk.create_option, disk.delete_option, disk.disk_size_gb) == (
            name,
            "FromImage",
            "Delete",
            64,
        )
        assert shown.properties.storage_profile.image_reference.publisher == "Canonical"
        assert (shown.properties.priority, shown.properties.eviction_policy) == ("Spot", "Delete")
        assert shown.properties.billing_profile.max_price == -1
        system = shown.properties.os_profile
        assert (system.computer_name, system.admin_username) == (name, started.details["ssh_user"])
        assert system.linux_configuration.disable_password_authentication
        assert system.linux_configuration.ssh.public_keys[0].key_data.startswith("ssh-ed25519 ")
        (interface,) = shown.properties.network_profile.network_interfaces
        assert (interface.properties.primary, interface.properties.delete_option) == (True, "Delete")
        assert [each.name for each in compute.virtual_machines.list(GROUP)] == [name]
        assert [each.managed_by for each in compute.disks.list_by_resource_group(GROUP)] == [shown.id]
        own = network.network_interfaces.get(GROUP, f"tether-{tag}")
        (one,) = own.properties.ip_configurations
        assert one.properties.subnet.id.endswith(f"/virtualNetworks/tether-{tag}/subnets/default")
        address = network.public_ip_addresses.get(GROUP, one.properties.public_ip_address.id.rpartition("/")[2])
        assert (address.sku.name, address.properties.delete_option) == ("Standard", "Delete")
        assert address.properties.public_ip_allocation_method == "Static"
        rules = network.network_security_groups.get(GROUP, own.properties.network_security_group.id.rpartition("/")[2])
        (rule,) = rules.properties.security_rules
        assert (rule.properties.access, rule.properties.destination_port_ranges) == ("Allow", ["22", "80"])
        assert network.virtual_networks.get(GROUP, f"tether-{tag}").properties.subnets[0].name == "default"
        theirs = json.loads(json.dumps(asked(stand)))
        theirs["name"] = theirs["properties"]["storageProfile"]["osDisk"]["name"] = "theirs"
        theirs["properties"]["networkProfile"] = theirs["tags"] = {}
        made = compute.virtual_machines.begin_create_or_update(GROUP, "theirs", theirs, polling_interval=1).result()
        assert (made.name, made.properties.provisioning_state) == ("theirs", "Succeeded")
        compute.virtual_machines.begin_delete(GROUP, "theirs", polling=False)
        eventually(lambda: stand.live() == [name], 10)
    said = base64.b64decode(asked(stand_only(stand, name))["properties"]["osProfile"]["customData"]).decode()
    assert "/etc/ssh/ssh_host_ed25519_key" in said
    assert "tether_lease" not in said
    started.kill()


def stand_only(stand: Azure, name: str) -> Azure:
    """Forget all machines but one."""
    for each in [each for each in stand.rented if each != name]:
        del stand.rented[each]
    return stand


def test_parts_are_on_record_by_name(owner: Owner, stand: Azure) -> None:
    """In the order in which one needs the other; all of them carry the tag, and go."""
    started = owner.start(machine(stand, open_ports=[22]))
    name = f"tether-{started.id}"
    kinds = ("network", "security group", "public address", "interface")
    assert started.details["parts"] == [f"{kind} {name}" for kind in kinds]
    tagged = [each for each in stand.things.values() if each.get("tags", {}).get("tether-resource") == started.id]
    assert len(tagged) == 4
    started.kill()
    assert stand.things == {}


def test_what_should_have_gone_along_is_removed(owner: Owner, stand: Azure) -> None:
    """Interface, address and rules by name and tag; the disk, which has no tag, by its name and its birth."""
    stand.all_stays = True
    started = owner.start(machine(stand, open_ports=[22]))
    (disk,) = [each for each in stand.things if "/disks/" in each]
    old = f"{disk}-old"
    stand.things[old] = {**stand.things[disk], "managedBy": None, "name": old.rpartition("/")[2], "properties": {"timeCreated": "2020-01-01T00:00:00+00:00"}}  # fmt: skip
    started.kill()
    assert list(stand.things) == [old]
    del stand.things[old]


def test_a_part_that_is_somebody_elses_is_left(owner: Owner, stand: Azure) -> None:
    """Of the same name, without the tag: the tag was taken away, so it may be somebody's by now."""
    started = owner.start(machine(stand))
    whole = f"{ROOT}Microsoft.Network/virtualNetworks/tether-{started.id}"
    stand.things[whole]["tags"] = {}
    started.kill()
    assert list(stand.things) == [whole]
    del stand.things[whole]


def test_a_machine_that_fails_late_is_said_and_removed(owner: Owner, stand: Azure) -> None:
    """Azure accepts it, and keeps it as failed, with what was made for it."""
    stand.fails_late = True
    began = time.monotonic()
    with pytest.raises(StartError, match="Allocation failed"):
        owner.start(machine(stand, open_ports=[22], listing_lag=20))
    assert len(stand.rented) == 1
    assert stand.leftovers() == []
    assert owner.resources == []
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("word", ["stopped", "deallocated"])
def test_what_is_shut_down_is_billed(word: str, owner: Owner, stand: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    """From inside it is stopped, which is not deallocated; neither is gone."""
    monkeypatch.setattr("tether.drivers.cloud.watch._LOOK_S", 0.3)
    started = owner.start(machine(stand))
    assert (started.details["lease"], started.details["provider_ends_at"]) == ("reaper", None)
    stand.rented[started.details["instance_id"]].status = f"PowerState/{word}"
    eventually(lambda: started.state is State.LOST and word in started.reason, 20)
    started.kill()


def test_a_machine_without_its_tag_is_left_alone(owner: Owner, stand: Azure) -> None:
    """It may be somebody's by now; with its tag again it is ended."""
    started = owner.start(machine(stand))
    each = stand.rented[started.details["instance_id"]]
    tags, each.asked["tags"] = each.asked["tags"], {}
    with pytest.raises(TetherError, match="does not carry the tag"):
        started.stop()
    assert stand.live() == [each.id]
    each.asked["tags"] = tags
    started.wait(timeout=60)


def test_a_network_of_yours_is_used(owner: Owner, stand: Azure) -> None:
    """And stays."""
    subnet = {"name": "front", "properties": {"addressPrefix": "10.1.0.0/24"}}
    theirs = f"{ROOT}Microsoft.Network/virtualNetworks/office"
    stand._put(theirs, {"properties": {"subnets": [subnet]}})
    started = owner.start(machine(stand, network="office/front"))
    own = stand.things[f"{ROOT}Microsoft.Network/networkInterfaces/tether-{started.id}"]
    assert own["properties"]["ipConfigurations"][0]["properties"]["subnet"]["id"] == f"{theirs}/subnets/front"
    started.kill()
    assert list(stand.things) == [theirs]


def test_a_machine_is_attached_to(owner: Owner, stand: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, and let go of."""
    monkeypatch.setattr(stand, "boot_s", 0.0)
    stand.make(stand.foreign)
    seen = owner.start(MachineRef("theirs", "azure", endpoint=stand.url))
    assert seen.state is State.READY
    seen.kill()
    assert stand.live() == ["theirs"]


def test_who_asks_must_be_known(owner: Owner, stand: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without anybody nothing is asked for, and the error says how to be known."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    with pytest.raises(StartError, match="az login"):
        owner.start(machine(stand))
    assert stand.calls == []


def test_the_command_line_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its defaults and its subscription, where neither the spec nor the environment says them."""
    for name in ("AZURE_SUBSCRIPTION_ID", "AZURE_DEFAULTS_GROUP", "AZURE_DEFAULTS_LOCATION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_CONFIG_DIR", str(tmp_path))
    with pytest.raises(SpecError, match="no region of azure is known"):
        azure.Azure.where(Machine("azure"))
    (tmp_path / "config").write_text("[defaults]\ngroup = mine\nlocation = eastus\n")
    known = [{"id": "other", "isDefault": False}, {"id": "chosen", "isDefault": True}]
    (tmp_path / "azureProfile.json").write_text(json.dumps({"subscriptions": known}), "utf-8-sig")
    where = azure.Azure.where(Machine("azure"))
    assert (where["subscription"], where["group"], where["region"]) == ("chosen", "mine", "eastus")


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": False},
        {"profile": "mine"},
        {"image": "ubuntu"},
        {"network": "office"},
        {"labels": {"a/b": "c"}},
        {"options": {"unheard": 1}},
        {"options": {"request": {"properties": {"osProfile": {}}}}},
        {"options": {"resource_group": "../other"}},
    ],
    ids=str,
)
def test_what_azure_has_not_is_refused(wrong: dict[str, Any], owner: Owner, stand: Azure) -> None:
    """Before anything is asked for or on record."""
    with pytest.raises(SpecError):
        owner.start(machine(stand, **wrong))
    assert owner.resources == []
    assert stand.calls == []
