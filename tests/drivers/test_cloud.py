"""Machines of a cloud, at a stand-in for EC2 in which each is a real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloud.crash import crashes
from cloud.ec2 import KEYS, REGION, Ec2
from cloud.sweeps import reap
from support import eventually
from tether import (
    Machine,
    MachineRef,
    Owner,
    PluginExecutionMode,
    RemoteProcess,
    SpecError,
    StartError,
    State,
    TetherError,
    http,
)
from tether.drivers.cloud import boot, creation
from tether.drivers.cloud.provider import Choice, Order, Refused, Seen, Unclear
from tether.drivers.cloud.providers.aws import Aws
from tether.drivers.ssh import machine as far_machine
from tether.protocol import CloudProviderType

ROLE = "arn:aws:iam::123456789012:role/terminate"
SLEEPS = "#!/bin/sh\nexec sleep 100\n"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def quiet(ec2: Ec2) -> Iterator[Ec2]:
    """The stand-in, which does as it is told; whatever a test leaves there fails it."""
    ec2.tell(faults=[], late=0, forget_calls=True)
    yield ec2
    ec2.tell(faults=[], late=0, down=0)
    ec2.is_down = False
    left = ec2.leftovers()
    for machine in ec2.machines():
        ec2.tell(end=machine)
    assert left == []


def machine(ec2: Ec2, **more: Any) -> Machine:
    """A small machine with nothing beside it."""
    given = {"name": "m", "key": False, "user_data": SLEEPS, "lease": 60, "listing_lag": 1.0, **more}
    return Machine(region=REGION, endpoint=ec2.url, image=given.pop("image", ec2.image), **given)


# -- creation --------------------------------------------------------------------------------------------------------------


def test_a_lost_answer_makes_no_second_machine(owner: Owner, quiet: Ec2) -> None:
    """The same token is sent again: it is the same machine."""
    quiet.tell(faults=[["RunInstances", "lost"]] * 3)
    started = owner.start(machine(quiet))
    assert len(quiet.every(started.id)) == 1
    assert quiet.tell()["calls"].count("RunInstances") == 4
    started.kill()


def test_every_attempt_has_a_token_of_its_own(owner: Owner, quiet: Ec2) -> None:
    """A restart is another machine: the token of the first life is spent."""
    started = owner.start(machine(quiet))
    first = started.details["instance_id"]
    started.restart()
    assert started.details["instance_id"] != first
    assert sorted(word for _, word in quiet.every(started.id)) == ["running", "terminated"]
    started.kill()


def test_no_capacity_is_said_and_leaves_nothing(owner: Owner, quiet: Ec2) -> None:
    """The provider's own word that nothing was created: no waiting for late lists, and the key pair goes."""
    quiet.tell(faults=[["RunInstances", "capacity"]])
    began = time.monotonic()
    with pytest.raises(StartError, match="InsufficientInstanceCapacity"):
        owner.start(machine(quiet, key=True, listing_lag=30))
    assert time.monotonic() - began < 15
    assert quiet.leftovers() == []
    assert owner.resources == []


def test_an_owner_that_may_not_renew_the_lease_is_told_at_once(owner: Owner, quiet: Ec2) -> None:
    """Else the machine would end in the middle of its work, for want of word."""
    quiet.tell(faults=[["CreateTags", "denied"]])
    with pytest.raises(StartError, match="CreateTags"):
        owner.start(machine(quiet))


def test_parts_are_on_record_by_name_before_they_are_made(owner: Owner, quiet: Ec2, private_state: Path) -> None:
    """Key pair, firewall rule and schedule each have a name in the row; the private key is a file that goes with the machine."""
    started = owner.start(machine(quiet, key=True, open_ports=[22, 8000], disk=30, options={"scheduler_role": ROLE}))
    name = f"tether-{started.id}"
    assert started.details["parts"] == [f"key pair {name}", f"security group {name}", f"schedule {name}"]
    key = Path(started.details["ssh_key"])
    assert key.stat().st_mode & 0o777 == 0o600
    assert subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, check=False).returncode == 0
    (disk,) = quiet.client.describe_volumes(Filters=[{"Name": "tag:tether:resource", "Values": [started.id]}])[
        "Volumes"
    ]
    assert disk["Size"] == 30
    started.stop()
    assert not key.exists()
    assert quiet.leftovers() == []


def test_no_secret_is_on_record(
    owner: Owner, quiet: Ec2, private_state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither user data nor the account's keys are in any file of the state directory, in `info`, in a log line or in an error."""
    caplog.set_level("DEBUG", "tether")
    started = owner.start(machine(quiet, user_data="#!/bin/sh\n# hunter2-of-the-user\nsleep 60\n"))
    shown = repr(started.info()) + repr(started.spec) + caplog.text
    quiet.tell(faults=[["RunInstances", "denied"]])
    with pytest.raises(StartError) as caught:
        owner.start(machine(quiet, name="other", user_data="#!/bin/sh\n# hunter2-of-the-user\n"))
    started.kill()
    files = b"".join(path.read_bytes() for path in private_state.rglob("*") if path.is_file())
    for secret in ("hunter2-of-the-user", KEYS["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in shown + str(caught.value)
        assert secret.encode() not in files


def test_the_smallest_size_that_fits_is_chosen(owner: Owner, quiet: Ec2) -> None:
    """By what is asked for, from the provider's own catalogue; the mode follows."""
    started = owner.start(machine(quiet, gpu="T4", memory="10g"))
    assert started.details["instance_type"] == "g4dn.xlarge"
    assert (started.details["gpu"], started.details["gpu_count"]) == ("T4", 1)
    assert started.spec.mode is PluginExecutionMode.CLOUD_GPU
    started.kill()
    with pytest.raises(StartError, match="no size with gpu='H9000'"):
        owner.start(machine(quiet, gpu="H9000"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"provider": "No Cloud"},
        {"memory": "much"},
        {"lease": 1},
        {"open_ports": [0]},
        {"labels": {"tether:resource": "x"}},
        {"key": ""},
        {"options": {"unheard": 1}},
        {"options": {"request": {"ClientToken": "mine"}}},
        {"cost_per_hour": -1},
    ],
    ids=lambda wrong: str(next(iter(wrong))),
)
def test_what_cannot_be_right_is_refused(wrong: dict[str, Any], owner: Owner) -> None:
    """Before anything is asked for or on record."""
    with pytest.raises(SpecError):
        owner.start(Machine(**{"region": REGION, **wrong}))
    assert owner.resources == []


# -- whose it is, and when it is gone ----------------------------------------------------------------------------------------


def test_a_copy_with_all_its_tags_is_left_alone(owner: Owner, quiet: Ec2, private_state: Path) -> None:
    """A console's "launch more like this" copies every tag and not the token: the copy is somebody's."""
    started = owner.start(machine(quiet))
    tags = [tag for tag in quiet.instances()[0]["Tags"] if not tag["Key"].startswith("aws:")]
    copy = quiet.foreign(TagSpecifications=[{"ResourceType": "instance", "Tags": tags}], UserData=SLEEPS)
    started.kill()
    assert started.state is State.GONE
    reap(private_state)
    assert [instance["InstanceId"] for instance in quiet.instances()] == [copy]
    assert copy in quiet.machines()
    quiet.tell(end=copy)


def test_a_machine_without_its_tag_is_left_alone_and_said(owner: Owner, quiet: Ec2) -> None:
    """Somebody may have taken it over. It stays on record, and ends when it is tagged again."""
    started = owner.start(machine(quiet))
    (instance,) = quiet.instances()
    mark = [{"Key": "tether:resource", "Value": started.id}]
    quiet.client.delete_tags(Resources=[instance["InstanceId"]], Tags=mark)
    with pytest.raises(TetherError, match="does not carry the tag"):
        started.stop()
    assert quiet.machines() == [instance["InstanceId"]]
    assert not started.state.is_final
    quiet.client.create_tags(Resources=[instance["InstanceId"]], Tags=mark)
    started.wait(timeout=60)
    assert quiet.machines() == []


def test_a_late_listing_does_not_hide_a_machine_from_a_sweep(quiet: Ec2, private_state: Path) -> None:
    """The owner dies with the answer in hand, and the lists do not show the machine yet: one sweep ends it all the same."""
    quiet.tell(late=3)
    code = (
        "import sys; from tether import Machine, Owner\n"
        f"Owner('late').start(Machine(region='{REGION}', endpoint=sys.argv[1], image=sys.argv[2], key=False, lease=None, listing_lag=5))"
    )
    died = subprocess.run(
        [sys.executable, "-c", code, quiet.url, quiet.image],
        env={**os.environ, "TETHER_FAULTS": "start.spawned=kill"},
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    # Where there is nothing on record of it but its plan.
    subprocess.run([sys.executable, "-m", "tether", "reap"], check=True, stdout=subprocess.DEVNULL, timeout=90)
    assert quiet.machines() == []


def test_what_the_provider_ended_has_failed(owner: Owner, quiet: Ec2) -> None:
    """An interruption of spot, for instance: the reason is the provider's, and what was made beside it goes."""
    started = owner.start(machine(quiet, key=True, spot=True, lease=3))
    assert started.details["spot"]
    quiet.tell(end=started.details["instance_id"])
    started.wait(timeout=30)
    assert started.state is State.FAILED
    assert "ended at the provider" in started.reason
    assert quiet.leftovers() == []


def test_stopped_is_not_gone(owner: Owner, quiet: Ec2) -> None:
    """Its disks are billed: it is LOST, with that said, until it runs again."""
    started = owner.start(machine(quiet, lease=3, user_data="#!/bin/sh\npkill -P $$; exec sleep 100\n"))
    quiet.client.stop_instances(InstanceIds=[started.details["instance_id"]])
    eventually(lambda: started.state is State.LOST, 20)
    assert "billed" in started.reason
    started.kill()
    assert started.state is State.GONE


def test_unknown_is_lost_and_says_what_it_costs(owner: Owner, quiet: Ec2) -> None:
    """While the provider does not answer, with its last error; found again when it does."""
    started = owner.start(machine(quiet, cost_per_hour=2.5, lease=6))
    quiet.go_down()
    eventually(lambda: started.state is State.LOST, 30)
    assert "2.5 US dollars an hour" in started.reason
    assert "does not answer" in started.reason
    quiet.come_back()
    eventually(lambda: started.state is State.READY, 30)
    started.kill()


def test_a_machine_of_somebody_else_is_watched_and_never_ended(owner: Owner, quiet: Ec2) -> None:
    """A MachineRef is let go of."""
    theirs = quiet.foreign(UserData=SLEEPS)
    seen = owner.start(MachineRef(theirs, region=REGION, endpoint=quiet.url))
    assert seen.state is State.READY
    seen.kill()
    assert quiet.machines() == [theirs]
    quiet.tell(end=theirs)
    with pytest.raises(StartError, match="cannot attach"):
        owner.start(MachineRef(theirs, region=REGION, endpoint=quiet.url))


def test_a_kept_machine_is_adopted(make_owner: Any, quiet: Ec2) -> None:
    """By the next owner of the same name, who renews its lease and ends it."""
    spec = machine(quiet, on_death="keep", keep_for=60)
    first = make_owner("keeper")
    one = first.start(spec).details["instance_id"]
    first.shutdown()
    second = make_owner("keeper")
    again = second.adopt("m")
    assert again.details["instance_id"] == one
    assert again.state is State.READY
    again.kill()


# -- leases ------------------------------------------------------------------------------------------------------------------

_LEASED = """
import json, sys, time
from tether import Machine, Owner
owner = Owner("leased")
started = owner.start(Machine(region=sys.argv[1], endpoint=sys.argv[2], image=sys.argv[3], name="m", key=False, lease=float(sys.argv[4]),
    listing_lag=1, user_data=sys.argv[5], options=json.loads(sys.argv[6])))
deadline = time.monotonic() + 30
while started.details["lease"] != sys.argv[7] and time.monotonic() < deadline:
    time.sleep(0.1)
time.sleep(float(sys.argv[4]) * 1.5)
print(started.details["lease"], started.state.value, owner.status()["reaper"], flush=True)
time.sleep(100)
"""


@pytest.mark.slow
@pytest.mark.parametrize("_round", range(int(os.environ.get("TETHER_TEST_ROUNDS", "1"))))
@pytest.mark.parametrize("tier", ["machine", "provider"])
def test_a_machine_ends_where_nobody_is_left(tier: str, _round: int, quiet: Ec2, private_state: Path) -> None:
    """Owner and reaper are gone at once: it ends with its lease, and not before. Slow: a lease of 4 seconds, one and a half times."""
    # TETHER_TEST_ROUNDS=10 proves each tier ten times.
    lease_s = 4.0
    options = f'{{"scheduler_role": "{ROLE}"}}' if tier == "provider" else "{}"
    # With the schedule alone: the timer in the machine is ended first.
    data = "#!/bin/sh\npkill -P $$; exec sleep 100\n" if tier == "provider" else SLEEPS
    arguments = [REGION, quiet.url, quiet.image, str(lease_s), data, options, tier]
    owner = subprocess.Popen([sys.executable, "-c", _LEASED, *arguments], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    proved, state, reaper = owner.stdout.readline().split()
    owner.stdout.close()
    assert (proved, state) == (tier, "ready"), "the lease was renewed for one and a half of its time"
    owner.send_signal(signal.SIGSTOP)
    os.kill(int(reaper), signal.SIGKILL)
    owner.kill()
    owner.wait()
    (running,) = quiet.machines()
    eventually(lambda: quiet.machines() == [], lease_s + 10)
    eventually(lambda: quiet.instances() == [], 5)
    assert {each["State"]["Name"] for r in quiet.client.describe_instances(InstanceIds=[running])["Reservations"] for each in r["Instances"]} == {"terminated"}  # fmt: skip
    assert [outcome.what for outcome in reap(private_state)] in (["ended"], ["already gone"])


def test_a_limit_that_was_not_proved_counts_for_nothing(owner: Owner, quiet: Ec2) -> None:
    """A machine whose timer never speaks is ended by the reaper, and that is what is said."""
    started = owner.start(machine(quiet, user_data="#cloud-config\n{}\n", lease=3))
    time.sleep(2)
    assert started.details["lease"] == "reaper"
    started.kill()


def test_user_data_run_after_the_timer(tmp_path: Path) -> None:
    """A script is run as it is, with its own interpreter; for cloud-init there are two pieces, the timer's first."""
    made = Aws({"region": REGION})
    script = boot.data(Machine(user_data="#!/bin/sh\necho mine\n", lease=None), "abc", made, 0, None)
    path = tmp_path / "data"
    path.write_bytes(script)
    path.chmod(0o755)
    assert subprocess.run(["sh", "-n", path], check=False).returncode == 0
    import email

    both = email.message_from_bytes(
        boot.data(Machine(user_data="#cloud-config\npackages: [jq]\n"), "abc", made, 0, None)
    )
    assert [piece.get_content_type() for piece in both.get_payload()] == ["text/cloud-boothook", "text/cloud-config"]  # type: ignore[union-attr]
    assert both.get_payload()[1].get_payload(decode=True) == b"#cloud-config\npackages: [jq]\n"  # type: ignore[index,union-attr]


# -- the other discipline ----------------------------------------------------------------------------------------------------


class Blind:
    """A provider that knows no request again: what it creates, and what it says of that, is told by the test."""

    type = CloudProviderType.CUSTOM
    idempotent = False
    lag_s = 0.3
    boots = False
    tested = "contract-tested against its published description"

    def __init__(self, shows: list[list[Seen]], fails: Exception | None = None) -> None:
        self.shows, self.fails, self.created, self.ended = shows, fails, 0, []  # type: ignore[var-annotated]

    def listed(self, tag: str) -> list[Seen]:
        return self.shows.pop(0) if len(self.shows) > 1 else self.shows[0]

    def create(self, order: Order, choice: Choice) -> Seen:
        self.created += 1
        if self.fails is not None:
            raise self.fails
        return Seen("new", "running", tag=order.tag, proof=order.proof, made=200.0)

    def terminate(self, machine: str) -> None:
        self.ended.append(machine)


def _created(blind: Blind) -> Seen:
    return creation.create(blind, Order(Machine(region=REGION), "t", "o", "p"), Choice(None), time.time(), 0.3)  # type: ignore[arg-type]


def _ours(name: str, made: float) -> Seen:
    return Seen(name, "running", tag="t", proof="p", made=made)


def test_without_tokens_an_unclear_answer_is_listed_and_never_asked_again() -> None:
    """What the lists show late is the machine."""
    blind = Blind([[], [], [_ours("late", 1.0)]], Unclear("timed out"))
    assert _created(blind).id == "late"
    assert blind.created == 1


def test_without_tokens_absent_twice_is_an_error() -> None:
    """With the lists' lag between the looks; nothing is created blindly."""
    blind = Blind([[]], Unclear("timed out"))
    began = time.monotonic()
    with pytest.raises(Unclear, match="not asked for again"):
        _created(blind)
    assert blind.created == 1
    assert time.monotonic() - began >= 0.3


def test_without_tokens_the_oldest_of_duplicates_stays() -> None:
    """And a machine with the tag that is not of tether's making is not counted."""
    copy = Seen("copy", "running", tag="t", proof="other", made=0.5)
    blind = Blind([[], [_ours("old", 100.0), copy, _ours("new", 200.0)]])
    assert _created(blind).id == "old"
    assert blind.ended == ["new"]


def test_without_tokens_nothing_is_created_beside_what_has_the_tag() -> None:
    """Intent, list, create: the list must be empty."""
    blind = Blind([[_ours("there", 1.0)]])
    with pytest.raises(Refused, match="there is already"):
        _created(blind)
    assert blind.created == 0


def test_a_refusal_after_an_unclear_answer_is_unclear(owner: Owner, quiet: Ec2) -> None:
    """The first request was carried out, and is not shown yet: that a later one was denied says nothing of it."""
    quiet.tell(faults=[*[["RunInstances", "lost"]] * 3, ["RunInstances", "denied"]], late=1.5)
    with pytest.raises(StartError, match="UnauthorizedOperation"):
        owner.start(machine(quiet, listing_lag=2.5))
    quiet.tell(late=0)
    assert quiet.machines() == []
    assert owner.resources == []


# -- crashes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_crashes_leave_nothing(ec2: Ec2, tmp_path: Path) -> None:
    """Some seeds of cloud/crash.py, which runs any number of them. Slow: real machines, and lists that are late."""
    assert crashes(range(1000, 1009), ec2, tmp_path) == []


# -- what runs on a machine --------------------------------------------------------------------------------------------------

SERVES = ["busybox", "httpd", "-f", "-p", "127.0.0.1:{port}", "-h", "/root"]


def rented(ec2: Ec2, **more: Any) -> Machine:
    """A machine that can be logged in to."""
    return machine(ec2, **{"key": True, "open_ports": [22], "user_data": "", **more})


def answer(url: str | None) -> bytes:
    """Fetch a page."""
    with urllib.request.urlopen(f"{url}/said", timeout=10) as got:
        said: bytes = got.read()
        return said


def test_a_machine_is_rented_for_a_process_and_ends_with_it(owner: Owner, quiet: Ec2) -> None:
    """From nothing to an answered request and back to nothing: the process, the machine, its key pair and rule."""
    wanted = rented(quiet, user_data="#!/bin/sh\necho from the machine >/root/said\n")
    served = owner.start(RemoteProcess(on=wanted, argv=SERVES, user="root", name="web", ready=http("/said")))
    assert answer(served.url) == b"from the machine\n"
    (box,) = [each for each in owner.resources if each.kind == "machine"]
    assert served.details["ssh_host"] == box.details["ssh_host"]
    served.stop()
    assert (served.state, box.state) == (State.GONE, State.GONE)
    assert quiet.leftovers() == []


def test_a_process_on_a_machine_that_goes_has_failed(owner: Owner, quiet: Ec2) -> None:
    """The machine is a resource of its own here. With it the process is known to have ended, and says so."""
    box = owner.start(rented(quiet, lease=3))
    job = owner.start(RemoteProcess(on=box, argv=["sleep", "60"], user="root", lease=3))
    assert job.state is State.READY
    quiet.tell(end=box.details["instance_id"])
    job.wait(timeout=60)
    assert box.state is State.FAILED
    assert "its machine is gone" in job.reason


def test_a_restart_stays_on_the_machine(owner: Owner, quiet: Ec2) -> None:
    """What was rented for a process ends with the process, not with one of its lives."""
    job = owner.start(RemoteProcess(on=rented(quiet), argv=["sleep", "60"], user="root", name="job"))
    (box,) = [each for each in owner.resources if each.kind == "machine"]
    job.restart()
    assert (job.state, box.state) == (State.READY, State.READY)
    job.kill()
    assert box.state is State.GONE


def test_a_machine_for_what_does_not_start_is_ended(owner: Owner, quiet: Ec2) -> None:
    """An error says what is wrong with the program, and nothing is left that costs money."""
    with pytest.raises(FileNotFoundError):
        owner.start(RemoteProcess(on=rented(quiet), argv=["no-such-program"], user="root"))
    assert quiet.leftovers() == []
    assert owner.resources == []


def test_another_host_key_is_not_believed(owner: Owner, quiet: Ec2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the one that was made here and installed there: whoever answers in the machine's place learns nothing."""
    monkeypatch.setattr(far_machine, "_BOOT_S", 0.0)
    box = owner.start(rented(quiet))
    known = Path(box.details["ssh_known_hosts"])
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", known.with_suffix(".other")], check=True)
    known.write_text(f"* {known.with_suffix('.other.pub').read_text()}")
    with pytest.raises(StartError, match="its host key is not the known one|can't be reached"):
        owner.start(RemoteProcess(on=box, argv=["true"], user="root"))
    box.kill()


@pytest.mark.parametrize(
    "wrong",
    [{"host": "there"}, {"on": Machine(region=REGION, key=False)}, {"on": "a name"}, {"on_death": "keep"}],
    ids=lambda wrong: str(next(iter(wrong))),
)
def test_what_cannot_run_on_a_machine_is_refused(wrong: dict[str, Any], owner: Owner) -> None:
    """Two hosts, no key, no machine; or what was to be kept, on a machine that would be ended. Nothing was rented."""
    with pytest.raises(SpecError):
        owner.start(RemoteProcess(**{"on": Machine(region=REGION), "argv": ["true"], **wrong}))
    assert owner.resources == []


_SERVING = """
import sys, time
from tether import Machine, Owner, RemoteProcess, http
box = Machine(region=sys.argv[1], endpoint=sys.argv[2], image=sys.argv[3], name="m", listing_lag=1, open_ports=[22],
    user_data="#!/bin/sh\\necho from the machine >/root/said\\n")
served = Owner("serving").start(RemoteProcess(on=box, argv=sys.argv[4:], user="root", ready=http("/said")))
print(served.url, flush=True)
time.sleep(100)
"""


@pytest.mark.slow
def test_with_its_owner_all_of_it_goes(quiet: Ec2, private_state: Path) -> None:
    """An answered request, then kill -9: the reaper ends process, machine, key pair and rule. Slow: a machine boots and ends."""
    arguments = [REGION, quiet.url, quiet.image, *SERVES]
    owner = subprocess.Popen([sys.executable, "-c", _SERVING, *arguments], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    url = owner.stdout.readline().strip()
    owner.stdout.close()
    assert answer(url) == b"from the machine\n"
    owner.kill()
    owner.wait()
    eventually(lambda: quiet.leftovers() == [], 60)
    assert {outcome.what for outcome in reap(private_state)} <= {"ended", "already gone"}
    assert list((private_state / "run").glob("*.key")) == []
    assert reap(private_state) == []
