"""What ``tether doctor --kubernetes`` says of a cluster: the rights of an account, and whether the fuse is proved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commandline import tether
from kube.cluster import KubeCluster
from kube.pods import documented_rules, eventually, pod
from tether import Owner
from tether.drivers.kubernetes import rights

pytestmark = pytest.mark.usefixtures("nothing_of_it_left")

Give = Callable[[list[dict[str, Any]]], Path]


def looked(*argv: str, code: int = 0) -> dict[str, dict[str, Any]]:
    """What it says, by what was looked at."""
    said = tether("doctor", "--json", "--kubernetes", *argv, code=code)
    return {each["what"]: each for each in json.loads(said)}


def test_the_documented_role_is_what_is_checked() -> None:
    """Rule by rule, verb by verb; and a node may be asked for, by another role."""

    def pairs(rules: list[tuple[list[str], list[str], list[str]]]) -> set[tuple[str, str, str]]:
        return {
            (group, kind, verb)
            for groups, kinds, verbs in rules
            for group in groups
            for kind in kinds
            for verb in verbs
        }

    documented = pairs([(each["apiGroups"], each["resources"], each["verbs"]) for each in documented_rules()])
    assert documented == pairs([([each.group], [*each.resources], [*each.verbs]) for each in rights.RULES])


def test_rights_and_fuse(kube: KubeCluster, as_account: Give, owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the documented role all is well, but for the fuse, until an owner has proved it; looking makes nothing."""
    monkeypatch.setenv("KUBECONFIG", str(as_account(documented_rules())))
    found = looked()
    assert {what for what, each in found.items() if not each["good"]} == {"nodes", "fuse"}
    assert found["pods"]["found"] == "create, get, list, delete, watch"
    assert "not tried yet" in found["fuse"]["found"]
    assert kube.objects() == []
    started = owner.start(pod(kube, "proving"))
    eventually(lambda: started.details["lease"] == "fuse", 120.0)
    assert looked("x")["fuse"]["found"] == "proved"


def test_what_an_account_lacks(kube: KubeCluster, as_account: Give, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each right by its name, and what follows; without pods the exit code says that nothing can be started."""
    rules = [{**each, "verbs": [verb for verb in each["verbs"] if verb != "delete"]} for each in documented_rules()]
    monkeypatch.setenv("KUBECONFIG", str(as_account(rules)))
    found = looked(code=1)
    assert found["pods"]["found"] == "this account may not delete pods"
    assert found["jobs"]["found"] == "this account may not delete jobs"
    assert "no fuse" in found["jobs"]["follows"]
    assert found["pods/log"]["good"]


def test_a_cluster_that_is_not_there(kube: KubeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said, with the way to say another; and one at a time."""
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))
    assert "no cluster can be found" in looked("nobody", code=1)["connection"]["found"]
    assert "one at a time" in tether("doctor", "host", "--kubernetes", code=2)
