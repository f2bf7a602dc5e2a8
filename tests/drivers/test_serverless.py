"""Containers and functions in a cloud, at a stand-in for ECS and Lambda in which each is a real process."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cloud.crash import POINTS
from cloud.ec2 import KEYS, REGION
from cloud.serverless import HANDLER, Serverless, packed
from support import eventually
from tether import (
    CloudContainer,
    CloudFunction,
    Owner,
    PluginExecutionMode,
    SpecError,
    StartError,
    State,
    TetherError,
    http,
)
from tether.drivers.serverless import package, sizes
from tether.ledger.store import Ledger
from tether.linux import sockets
from tether.plugins.cloud import CloudPlugin
from tether.protocol import CloudProviderType

ROLE = "arn:aws:iam::123456789012:role/mine"
SERVES = (
    "import http.server as h; h.test(h.SimpleHTTPRequestHandler, h.ThreadingHTTPServer, port={port}, bind='127.0.0.1')"
)


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tether.drivers.cloud.watch._LOOK_S", 0.5)
    monkeypatch.setattr("tether.drivers.serverless.driver._LOOK_PAUSE_S", 0.1)


@pytest.fixture
def aws(serverless: Serverless) -> Iterator[Serverless]:
    """The stand-in, which does as it is told; whatever a test leaves there fails it."""
    serverless.tell(faults=[], late=0, forget_calls=True)
    yield serverless
    serverless.tell(faults=[], late=0, down=0)
    serverless.is_down = False
    left = serverless.leftovers()
    for task in serverless.running():
        serverless.end(task)
    assert left == []


def container(aws: Serverless, *command: str, **more: Any) -> CloudContainer:
    """A small one."""
    given = {"name": "c", "region": REGION, "endpoint": aws.url, "listing_lag": 1.0, "stop_grace": 1.0, **more}
    return CloudContainer("busybox", command or ("sleep", "90"), **given)


def function(aws: Serverless, **more: Any) -> CloudFunction:
    """A small one."""
    given = {"name": "f", "region": REGION, "endpoint": aws.url, "listing_lag": 1.0, "code": packed(), **more}
    return CloudFunction(**given)


MAKES = [pytest.param(container, id="container"), pytest.param(function, id="function")]


def fetch(url: str | None) -> bytes:
    """Fetch a page."""
    with urllib.request.urlopen(f"{url}/page", timeout=10) as got:
        said: bytes = got.read()
        return said


# -- containers --------------------------------------------------------------------------------------------------------------


def test_a_container_answers_and_goes(owner: Owner, aws: Serverless) -> None:
    """At its public address; its role may do no more than pull its image and write its log."""
    port = sockets.free_port()
    started = owner.start(container(aws, sys.executable, "-uc", SERVES.format(port=port), port=port, ready=http("/")))
    assert started.url == f"http://127.0.0.1:{port}"
    assert started.spec.mode is PluginExecutionMode.CLOUD_CONTAINER
    name = f"tether-{started.id}"
    assert started.details["parts"] == [f"role {name}", f"log group /tether/{started.id}", f"task definition {name}"]
    policy = aws.iam.get_role_policy(RoleName=name, PolicyName="tether")["PolicyDocument"]
    assert "logs:CreateLogGroup" not in json.dumps(policy)
    (task,) = aws.tasks(started.id)
    assert task["taskArn"] == started.details["task"]
    assert {each["key"]: each["value"] for each in task["tags"]}["tether:resource"] == started.id
    started.stop()
    assert started.state is State.GONE
    assert [each["lastStatus"] for each in aws.tasks(started.id)] == ["STOPPED"]
    assert "Serving HTTP" in started.logs()


@pytest.mark.parametrize(("code", "state"), [(0, State.GONE), (3, State.FAILED)])
def test_a_job_ends_by_itself(code: int, state: State, owner: Owner, aws: Serverless) -> None:
    """Its exit code, the provider's own reason and its output stay; what was made for it is gone."""
    started = owner.start(container(aws, "sh", "-c", f"echo $WORD; sleep 1; exit {code}", env={"WORD": "done"}))
    started.wait(timeout=30)
    assert (started.state, started.exit_code) == (state, code)
    assert started.logs() == "done\n"
    if code:
        assert "Essential container in task exited" in started.reason


def test_a_lost_answer_runs_no_second_task(owner: Owner, aws: Serverless) -> None:
    """The same token is sent again: it is the same task."""
    aws.tell(faults=[["RunTask", "lost"]] * 3, late=0.5)
    started = owner.start(container(aws))
    assert len(aws.running()) == 1
    assert aws.tell()["calls"].count("RunTask") == 4
    started.kill()


def test_a_copy_with_all_its_tags_is_left_alone(owner: Owner, aws: Serverless) -> None:
    """Somebody ran its definition again, tags and all: who started it is another."""
    started = owner.start(container(aws))
    (task,) = aws.tasks(started.id)
    copy = aws.foreign_task(taskDefinition=f"tether-{started.id}", tags=task["tags"], startedBy="somebody")
    started.kill()
    assert aws.running() == [copy]
    aws.end(copy)
    eventually(lambda: aws.running() == [], 5)


def test_what_the_provider_ended_has_failed(owner: Owner, aws: Serverless) -> None:
    """An interruption of spot, for instance: with the provider's reason."""
    started = owner.start(container(aws, spot=True))
    assert aws.tasks(started.id)[0]["capacityProviderName"] == "FARGATE_SPOT"
    aws.end(started.details["task"])
    started.wait(timeout=30)
    assert started.state is State.FAILED
    assert "Spot Task was interrupted" in started.reason


def test_a_lifetime_ends(owner: Owner, aws: Serverless) -> None:
    """ECS has no limit of its own, so its owner ends it."""
    started = owner.start(container(aws, max_lifetime=1.5))
    started.wait(timeout=30)
    assert "max_lifetime" in started.reason


def test_without_a_cluster_nothing_is_made(owner: Owner, aws: Serverless) -> None:
    """It is said which, and how to make it."""
    with pytest.raises(StartError, match="no cluster elsewhere.*create-cluster"):
        owner.start(container(aws, cluster="elsewhere"))
    assert aws.leftovers() == []


# -- functions ---------------------------------------------------------------------------------------------------------------


def test_a_function_answers_and_goes(owner: Owner, aws: Serverless) -> None:
    """At an address of its own; what it wrote stays readable."""
    started = owner.start(function(aws, url="public", ready=http("/"), env={"SAID": "hello from here"}))
    assert fetch(started.url) == b"hello from here"
    assert started.spec.mode is PluginExecutionMode.CLOUD_SERVERLESS
    name = f"tether-{started.id}"
    assert started.details["parts"] == [f"role {name}", f"log group /aws/lambda/{name}", f"address {name}"]
    started.stop()
    assert started.state is State.GONE
    assert "called at /page" in started.logs()
    with pytest.raises(urllib.error.URLError):
        fetch(started.url or "http://127.0.0.1:1")


def test_by_default_an_address_is_for_signed_requests(owner: Owner, aws: Serverless) -> None:
    """Nobody calls, at your cost, what was not opened for everybody."""
    started = owner.start(function(aws))
    with pytest.raises(urllib.error.HTTPError, match="403"):
        fetch(started.url)
    started.kill()


def test_a_lost_answer_makes_no_second_function(owner: Owner, aws: Serverless) -> None:
    """The name is there, and its tags say that it is this one."""
    aws.tell(faults=[["CreateFunction", "lost"]] * 3)
    started = owner.start(function(aws))
    assert len(aws.functions.list_functions()["Functions"]) == 1
    started.kill()


def test_what_lost_its_tag_is_left_alone(owner: Owner, aws: Serverless) -> None:
    """It may be somebody's by now: that is said, and it is tried again."""
    started = owner.start(function(aws))
    arn = aws.functions.get_function(FunctionName=f"tether-{started.id}")["Configuration"]["FunctionArn"]
    aws.functions.untag_resource(Resource=arn, TagKeys=["tether:resource"])
    with pytest.raises(TetherError, match="does not carry the tag"):
        started.kill()
    assert [each["FunctionName"] for each in aws.functions.list_functions()["Functions"]] == [f"tether-{started.id}"]
    aws.functions.tag_resource(Resource=arn, Tags={"tether:resource": started.id})
    started.wait(timeout=60)


def test_code_is_packed_the_same_each_time(tmp_path: Path) -> None:
    """A folder, one file, a zip file and its bytes; anything else is refused."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "main.py").write_text(HANDLER)
    (tmp_path / "inner/data.txt").write_text("x")
    whole = package.packed(tmp_path)
    assert package.packed(tmp_path) == whole
    (tmp_path.parent / "code.zip").write_bytes(whole)
    assert zipfile.ZipFile(tmp_path.parent / "code.zip").namelist() == ["inner/data.txt", "main.py"]
    assert package.packed(tmp_path.parent / "code.zip") == package.packed(whole) == whole
    for wrong in (b"no zip", tmp_path / "nowhere", tmp_path / "inner/data.txt"):
        with pytest.raises(SpecError):
            package.packed(wrong)


# -- both --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "refused"),
    [
        pytest.param(container, ["RunTask", "unable"], id="container"),
        pytest.param(function, ["CreateFunction", "unassumable"], id="function"),
    ],
)
def test_a_new_role_that_is_not_known_yet_is_waited_for(
    make: Callable[..., Any], refused: list[str], owner: Owner, aws: Serverless
) -> None:
    """IAM tells the others some seconds later."""
    aws.tell(faults=[refused] * 2)
    owner.start(make(aws)).kill()


@pytest.mark.parametrize("make", MAKES)
def test_a_refusal_leaves_nothing(make: Callable[..., Any], owner: Owner, aws: Serverless) -> None:
    """With the provider's words, and without waiting for late lists: nothing was created but its parts, which go."""
    for action in ("CreateRole", "CreateLogGroup", "RunTask" if make is container else "CreateFunction"):
        aws.tell(faults=[[action, "denied"]])
        with pytest.raises(StartError, match="not authorized"):
            owner.start(make(aws, listing_lag=60))
        assert aws.leftovers() == []
    assert owner.resources == []


@pytest.mark.parametrize("make", MAKES)
def test_a_kept_one_is_adopted(make: Callable[..., Any], make_owner: Any, aws: Serverless) -> None:
    """By the next owner of the same name, who ends it."""
    first = make_owner("keeper")
    one = first.start(make(aws, name="kept", on_death="keep", keep_for=60)).details["instance_id"]
    first.shutdown()
    again = make_owner("keeper").adopt("kept")
    assert (again.details["instance_id"], again.state) == (one, State.READY)
    again.kill()


@pytest.mark.parametrize("make", MAKES)
def test_a_plugin_of_it_is_cloud_aware(make: Callable[..., Any], owner: Owner, aws: Serverless) -> None:
    """From nothing to something that runs, and back, by the protocol's own methods."""
    plugin = CloudPlugin(make(aws, cost_per_hour=0.02))
    owner.register(plugin)
    assert plugin.get_execution_mode() is make(aws).mode
    assert plugin.check_remote_resource_status() == "not_provisioned"
    info = plugin.provision_remote_resource()
    assert (info.provider, info.region, info.status) == (CloudProviderType.AWS, REGION, "running")
    assert plugin.estimate_cost(10) == 0.2
    assert plugin.terminate_remote_resource()
    assert plugin.check_remote_resource_status() == "terminated"


@pytest.mark.parametrize("make", MAKES)
def test_no_secret_is_on_record(make: Callable[..., Any], owner: Owner, aws: Serverless, private_state: Path) -> None:
    """Values of the environment are in no file of the state directory, in no definition, and not in `info`."""
    started = owner.start(make(aws, env={"TOKEN": "hunter2-of-the-user"}))
    said = repr(started.info()) + repr(started.spec)
    for definition in aws.ecs.list_task_definitions()["taskDefinitionArns"]:
        said += repr(aws.ecs.describe_task_definition(taskDefinition=definition))
    started.kill()
    files = b"".join(path.read_bytes() for path in private_state.rglob("*") if path.is_file())
    assert "hunter2" not in said
    assert b"hunter2" not in files
    assert KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in files


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (CloudContainer, {"image": ""}),
        (CloudContainer, {"image": "x", "provider": "gcp"}),
        (CloudContainer, {"image": "x", "cpus": 64}),
        (CloudContainer, {"image": "x", "cpus": 16, "memory": "500g"}),
        (CloudContainer, {"image": "x", "command": "sleep 1"}),
        (CloudContainer, {"image": "x", "ready": http("/")}),
        (CloudContainer, {"image": "x", "stop_grace": 500}),
        (CloudContainer, {"image": "x", "role": "mine"}),
        (CloudContainer, {"image": "x", "labels": {"tether:resource": "x"}}),
        (CloudFunction, {}),
        (CloudFunction, {"code": b"", "image": "x"}),
        (CloudFunction, {"code": b"", "timeout": 1000}),
        (CloudFunction, {"code": b"", "url": "open"}),
        (CloudFunction, {"code": b"", "url": None, "ready": http("/")}),
    ],
    ids=str,
)
def test_what_cannot_be_right_is_refused(kind: Any, wrong: dict[str, Any], owner: Owner) -> None:
    """Before anything is asked for or on record."""
    with pytest.raises(SpecError):
        owner.start(kind(**wrong))
    assert owner.resources == []


def test_the_smallest_size_is_taken() -> None:
    """Of those that Fargate has."""
    assert sizes.fitting(0.25, None) == (256, 512)
    assert sizes.fitting(1, 3 << 30) == (1024, 3072)
    assert sizes.fitting(0.25, 20 << 30) == (4096, 20480)


# -- crashes -----------------------------------------------------------------------------------------------------------------

_OWNER = """
import sys
from tether import CloudContainer, CloudFunction, Owner
owner = Owner("crash")
where = {"region": sys.argv[1], "endpoint": sys.argv[2], "listing_lag": 2.0, "name": "m"}
if sys.argv[4] == "container":
    spec = CloudContainer("busybox", ["sleep", "90"], stop_grace=1.0, **where)
else:
    spec = CloudFunction(bytes.fromhex(sys.argv[5]), url="public", **where)
made = owner.start(spec)
(made.kill if sys.argv[3] == "kill" else made.stop)()
owner.shutdown()
"""
_ACTIONS = {
    "container": ("RunTask", "RunTask", "StopTask", "DescribeTasks", "RegisterTaskDefinition", "CreateRole", "*"),
    "function": (
        "CreateFunction",
        "CreateFunction",
        "DeleteFunction",
        "CreateFunctionUrlConfig",
        "CreateLogGroup",
        "*",
    ),
}
_PLACES = (*POINTS, "")


def _crash(seed: int, kind: str, aws: Serverless, folder: Path) -> str:
    """Run one owner that is killed somewhere, and one sweep; return what is wrong."""
    chance = random.Random(seed)
    point = _PLACES[seed % len(_PLACES)]
    faults = [[chance.choice(_ACTIONS[kind]), chance.choice(["lost", "lost", "throttle", "reset"])] for _ in range(chance.randrange(4))]  # fmt: skip
    aws.tell(faults=faults, late=chance.choice([0, 0.5, 1.2]))
    environ = {**os.environ, "TETHER_STATE_DIR": str(folder / f"{kind}-{seed}")}
    how = "kill" if point == "destroy.asked" else "stop"
    fault = {"TETHER_FAULTS": f"{point}=kill"} if point else {}
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, REGION, aws.url, how, kind, packed().hex()],
        env={**environ, **fault},
        stderr=subprocess.PIPE,
    )
    try:
        owner.wait(60 if point else chance.uniform(0.5, 4.0))
    except subprocess.TimeoutExpired:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert owner.stderr is not None
    said = owner.stderr.read().decode()[-500:]
    owner.stderr.close()
    swept = subprocess.run([sys.executable, "-m", "tether", "reap"], env=environ, capture_output=True, text=True, check=False, timeout=100)  # fmt: skip
    ledger = Ledger(folder / f"{kind}-{seed}")
    tags = {row.id for row in ledger.resources(ended=True)}
    wrong = [f"on record as live: {row.id}" for row in ledger.resources()]
    ledger.close()
    for tag in tags:
        wrong += [f"left: {left}" for left in aws.leftovers() if tag in left]
        wrong += [f"run twice: {tag}"] if len(aws.tasks(tag)) > 1 else []
    return f"seed {seed}, {kind}, {point}, {faults}: {wrong}\n{swept.stdout}{swept.stderr}{said}" if wrong else ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["container", "function"])
def test_crashes_leave_nothing(kind: str, aws: Serverless, tmp_path: Path) -> None:
    """At each fault point, with requests that fail and lists that are late, and one sweep. Slow: it waits for late lists."""
    theirs = aws.foreign_task(tags=[{"key": "tether:resource", "value": "0123456789abcdef"}])
    aws.iam.create_role(RoleName="theirs", AssumeRolePolicyDocument="{}")
    # The two of them together pass each point; with TETHER_TEST_SEEDS=8 each of them does.
    first = 0 if kind == "container" else 4
    seeds = (
        range(int(os.environ["TETHER_TEST_SEEDS"])) if "TETHER_TEST_SEEDS" in os.environ else range(first, first + 4)
    )
    with ThreadPoolExecutor(3) as pool:
        assert [wrong for wrong in pool.map(lambda seed: _crash(seed, kind, aws, tmp_path), seeds) if wrong] == []
    aws.tell(faults=[], late=0)
    assert aws.running() == [theirs], "one of somebody else's was ended, or one is left"
    assert "theirs" in [each["RoleName"] for each in aws.iam.list_roles()["Roles"]]
    aws.iam.delete_role(RoleName="theirs")
    aws.end(theirs)
    eventually(lambda: aws.running() == [], 5)
