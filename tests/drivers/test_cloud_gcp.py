"""What only Google's machines have, at a stand-in; the contract is in test_cloud_rest.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud.google import PROJECT, ZONE, Gcp
from cloud.rest import KEY, running
from cloud.sweeps import reap
from support import eventually
from tether import Machine, MachineRef, Owner, SpecError, StartError, State
from tether.drivers.cloud.provider import Order
from tether.drivers.cloud.providers import gcp, gcp_request


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Gcp]:
    """The stand-in; whatever a test leaves there fails it."""
    made = Gcp()
    with running(made):
        for name, value in made.environ(tmp_path).items():
            monkeypatch.setenv(name, value)
        yield made
        assert made.leftovers() == []


def machine(stand: Gcp, **more: Any) -> Machine:
    """A small machine."""
    return Machine("gcp", **{"endpoint": stand.url, "name": "m", "listing_lag": 1.0, **more})


def asked(stand: Gcp) -> dict[str, Any]:
    """What the one machine was asked for with."""
    (each,) = stand.rented.values()
    return each.asked


@pytest.mark.slow
def test_google_reads_what_it_is_asked(owner: Owner, stand: Gcp) -> None:
    """By its library's classes, which refuse a field that they have not; its client takes the stand-in for Google. Slow: its import."""
    with warnings.catch_warnings():
        # Of how it was built, not of what is asked.
        warnings.simplefilter("ignore")
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import compute_v1
        from google.cloud.compute_v1.services.instances.transports import InstancesRestTransport

    started = owner.start(machine(stand, gpu="T4", gpu_count=2, cpus=2, spot=True, disk=30, open_ports=[22, 80], network="mine", labels={"team": "a"}, user_data="#!/bin/sh\n"))  # fmt: skip
    read = compute_v1.Instance.from_json(json.dumps(asked(stand)))
    assert (read.machine_type.rpartition("/")[2], started.details["gpu"]) == ("n1-standard-4", "nvidia-tesla-t4")
    assert (read.guest_accelerators[0].accelerator_count, read.scheduling.on_host_maintenance) == (2, "TERMINATE")
    assert (read.scheduling.max_run_duration.seconds, read.scheduling.instance_termination_action) == (86400, "DELETE")
    assert (read.scheduling.provisioning_model, read.scheduling.automatic_restart) == ("SPOT", False)
    (disk,) = read.disks
    assert (disk.auto_delete, disk.initialize_params.disk_size_gb) == (True, 30)
    assert dict(disk.initialize_params.labels) == dict(read.labels)
    assert read.labels["tether-resource"] == started.id
    assert read.network_interfaces[0].subnetwork == "regions/us-central1/subnetworks/mine"
    rule = compute_v1.Firewall.from_json(json.dumps(stand.rules[f"tether-{started.id}"]))
    assert (list(rule.target_tags), list(rule.allowed[0].ports)) == (list(read.tags.items), ["22", "80"])
    transport = InstancesRestTransport(
        host=stand.url.removeprefix("http://"),
        url_scheme="http",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
    )
    transport._session.headers["Authorization"] = f"Bearer {KEY}"
    with compute_v1.InstancesClient(transport=transport) as client:
        where: dict[str, Any] = {"project": PROJECT, "zone": ZONE}
        (listed,) = client.list(request={**where, "filter": f"labels.tether-resource={started.id}"})
        assert listed.name == read.name
        shown = client.get(**where, instance=started.details["instance_id"])
        assert (shown.id, shown.status) == (int(started.details["instance_id"]), "RUNNING")
        assert shown.resource_status.scheduling.termination_timestamp
        theirs = {"name": "theirs", "machine_type": f"zones/{ZONE}/machineTypes/e2-micro"}
        begun, again = (
            client.insert_unary(request={**where, "request_id": "1", "instance_resource": theirs}) for _ in range(2)
        )
        assert begun.target_id == again.target_id
        assert client.delete_unary(**where, instance="theirs").operation_type == "delete"
    started.kill()


_LEFT = """
import sys, time
from tether import Machine, Owner
owner = Owner("left")
started = owner.start(Machine("gcp", endpoint=sys.argv[1], name="m", listing_lag=1, max_lifetime=30))
print(started.details["provider_ends_at"], owner.status()["reaper"], flush=True)
time.sleep(100)
"""


def test_google_ends_it_where_nobody_is_left(stand: Gcp, private_state: Path) -> None:
    """Owner and reaper are gone at once: the machine goes with its limit, by a clock that is fifteen times as fast, and its disk too."""
    stand.pace = 15.0
    owner = subprocess.Popen([sys.executable, "-c", _LEFT, stand.url], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    ends, reaper = owner.stdout.readline().split()
    owner.stdout.close()
    assert float(ends) - time.time() < 2.5
    owner.send_signal(signal.SIGSTOP)
    os.kill(int(reaper), signal.SIGKILL)
    owner.kill()
    owner.wait()
    assert len(stand.live()) == 1
    eventually(lambda: stand.leftovers() == [], 10)
    assert "terminate" not in stand.calls
    assert [outcome.what for outcome in reap(private_state)] in (["ended"], ["already gone"])


def test_a_limit_that_is_not_read_back_is_not_believed(owner: Owner, stand: Gcp) -> None:
    """It was asked for, and nothing says that it was taken."""
    stand.ignores_caps = True
    started = owner.start(machine(stand))
    assert asked(stand)["scheduling"]["maxRunDuration"] == {"seconds": "86400"}
    assert started.details["provider_ends_at"] is None
    assert started.details["lease"] == "reaper"
    started.kill()


def test_a_lifetime_beyond_googles_limit_has_none(owner: Owner, stand: Gcp) -> None:
    """Google would refuse the machine; its owner ends it then."""
    started = owner.start(machine(stand, max_lifetime=200 * 24 * 3600.0))
    assert "maxRunDuration" not in asked(stand)["scheduling"]
    started.kill()


def test_a_disk_that_stayed_is_removed(owner: Owner, stand: Gcp) -> None:
    """By its label and its name; one that bears the label only is somebody's."""
    stand.disks_stay = True
    started = owner.start(machine(stand))
    (name,) = stand.disks
    stand.disks["mine"] = {**stand.disks[name], "name": "mine", "users": []}
    started.kill()
    assert list(stand.disks) == ["mine"]


def test_a_name_of_somebody_elses_rule_is_said(owner: Owner, stand: Gcp, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not opened, nor removed."""
    monkeypatch.setattr(gcp, "name_of", lambda tag: "theirs")
    stand.rules["theirs"] = {"name": "theirs", "description": "ours, keep"}
    with pytest.raises(StartError, match="alreadyExists"):
        owner.start(machine(stand, open_ports=[22]))
    assert list(stand.rules) == ["theirs"]


def test_an_operation_that_fails_after_all_leaves_nothing(owner: Owner, stand: Gcp) -> None:
    """It was accepted, and said no a moment later, in the provider's words."""
    stand.faults = [("create", "capacity")]
    began = time.monotonic()
    with pytest.raises(StartError, match="ZONE_RESOURCE_POOL_EXHAUSTED"):
        owner.start(machine(stand, open_ports=[22], listing_lag=30))
    assert time.monotonic() - began < 25
    assert owner.resources == []


def test_a_machine_is_attached_to_by_its_name(owner: Owner, stand: Gcp) -> None:
    """As people know it; on record is its number, which no other will have."""
    theirs = stand.make(stand.foreign)
    seen = owner.start(MachineRef("theirs", "gcp", endpoint=stand.url))
    assert (seen.state, seen.details["instance_id"]) == (State.READY, theirs.id)
    seen.kill()
    assert stand.live() == [theirs.id]


def test_user_data_is_run_once(tmp_path: Path) -> None:
    """Google runs a start-up script at every boot. What is for cloud-init goes where that looks for it."""
    script = b"#!/bin/sh\necho ran >>out\n"
    order = Order(Machine("gcp", key=False), "0123456789abcdef", "o", "p", script)
    ((said),) = gcp_request._metadata(order)
    assert said["key"] == "startup-script"
    text = said["value"].replace("/var/lib/tether-booted", str(tmp_path / "mark"))
    for _ in range(2):
        subprocess.run(["sh", "-c", text], cwd=tmp_path, check=True, timeout=20)
    assert (tmp_path / "out").read_text() == "ran\n"
    order = Order(Machine("gcp"), "0123456789abcdef", "o", "p", b"#cloud-config\n{}\n", "ssh-ed25519 AAAA me")
    keys = {each["key"]: each["value"] for each in gcp_request._metadata(order)}
    assert keys["user-data-encoding"] == "base64"
    assert keys["ssh-keys"] == "tether:ssh-ed25519 AAAA me"


def test_who_asks_must_be_known(owner: Owner, stand: Gcp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a key nothing is asked for, and the error says how one is got; nor while no token is given."""
    stand.is_down = True
    with pytest.raises(StartError, match="does not say who asks"):
        owner.start(machine(stand))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none"))
    with pytest.raises(StartError, match="gcloud auth application-default login"):
        owner.start(machine(stand, options={"project": "another"}))
    assert stand.calls == []


def test_gcloud_says_which_project_and_zone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its active configuration, where neither the spec nor the environment does."""
    for name in ("CLOUDSDK_COMPUTE_ZONE", "GOOGLE_CLOUD_PROJECT", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with pytest.raises(SpecError, match="no zone of gcp is known"):
        gcp.Gcp.where(Machine("gcp"))
    (tmp_path / "active_config").write_text("work\n")
    (tmp_path / "configurations").mkdir()
    (tmp_path / "configurations/config_work").write_text(
        "[core]\nproject = of-gcloud\n[compute]\nzone = asia-east1-b\n"
    )
    where = gcp.Gcp.where(Machine("gcp"))
    assert (where["project"], where["region"]) == ("of-gcloud", "asia-east1-b")


@pytest.mark.parametrize(
    "wrong",
    [
        {"region": "us-central1"},
        {"key": "mine"},
        {"profile": "mine"},
        {"labels": {"Team": "a"}},
        {"options": {"unheard": 1}},
        {"options": {"request": {"disks": []}}},
        {"options": {"project": "../other"}},
    ],
    ids=str,
)
def test_what_google_has_not_is_refused(wrong: dict[str, Any], owner: Owner, stand: Gcp) -> None:
    """Before anything is asked for or on record."""
    with pytest.raises(SpecError):
        owner.start(machine(stand, **wrong))
    assert owner.resources == []
    assert stand.calls == []
