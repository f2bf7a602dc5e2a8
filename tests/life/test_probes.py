"""What can't be right of a probe is refused before anything is created, and no secret is repeated then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tether
from tether import Process, Ready, Service, SpecError


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: tether.http("/a b"), "can't have spaces"),
        (lambda: tether.http("/\udc80\ud800"), "characters that no request can have"),
        (lambda: tether.http(None), "begins with '/'"),  # type: ignore[arg-type]
        (lambda: tether.http("up?token=hunter2"), "begins with '/'"),
        (lambda: tether.http(method="G ET"), "no method"),
        (lambda: tether.http(method=5), "no method"),  # type: ignore[arg-type]
        (lambda: tether.http(status=99), "99 is no status"),
        (lambda: tether.http(status=True), "True is no status"),
        (lambda: tether.http(status="200"), "must be a status"),  # type: ignore[arg-type]
        (lambda: tether.http(status=[]), "must be a status"),
        (lambda: tether.http(status=[200, "x"]), "'x' is no status"),  # type: ignore[list-item]
        (lambda: tether.http(headers=["a"]), "must be a mapping"),  # type: ignore[arg-type]
        (lambda: tether.http(headers={"a b": "hunter2"}), "can't be the name of a header"),
        (lambda: tether.http(headers={"a": 5}), "must be text, not int"),  # type: ignore[dict-item]
        (lambda: tether.http(headers={"a": "hunter2\r\nX: y"}), "has a line break"),
        (lambda: tether.http(headers={"a": "hunter2€"}), "no header can have"),
        (lambda: tether.http(body=5), "must be text or bytes"),  # type: ignore[arg-type]
        (lambda: tether.http(body="hunter2\ud800"), "can't be sent"),
        (lambda: tether.http(expects="("), "regular expression"),
        (lambda: tether.http(expects=5), "regular expression"),  # type: ignore[arg-type]
        (lambda: tether.http(scheme="ftp"), "scheme='ftp' is not known"),  # type: ignore[arg-type]
        (lambda: tether.http(scheme="http", verify=False), "are for https"),
        (lambda: tether.http(ca_file="x", verify=False), "nothing is"),
        (lambda: tether.http(attempt=0), "attempt=0"),
        (lambda: tether.http(attempt=float("inf")), "attempt=inf"),
        (lambda: tether.http(ca_file=5), "must be a path"),  # type: ignore[arg-type]
        (lambda: tether.http(ca_file="a\0b"), "must be a path"),
        (lambda: tether.http(timeout="1"), "time limit above 0"),  # type: ignore[arg-type]
        (lambda: tether.tcp(timeout=float("nan")), "time limit above 0"),
        (lambda: tether.log("\ud800"), "regular expression"),
        (lambda: tether.all_of(), "takes readiness probes"),
        (lambda: tether.any_of(tether.tcp(), "/up"), "takes readiness probes"),  # type: ignore[arg-type]
        (lambda: tether.all_of(tether.tcp(), timeout=0), "time limit above 0"),
        (lambda: Ready("nonsense"), "no kind of readiness probe"),  # type: ignore[arg-type]
        (lambda: Ready("all", [tether.tcp()]), "takes readiness probes"),
        (lambda: Process(["x"], ready=tether.all_of(tether.log("x"), tether.tcp())), r"tcp\(\) needs a port"),
        (lambda: Process(["x"], ready=tether.any_of(tether.log("x"), tether.healthy())), "is for containers"),
        (lambda: Process(["x"], stdout="null", stderr="null", ready=tether.any_of(tether.log("x"))), "to be 'log'"),
        (lambda: Service("http://h", ready=tether.any_of(tether.log("x"))), "not to be seen from here"),
        (lambda: Service("http://h", ready=tether.all_of(tether.http(verify=False))), "asks by https"),
    ],
)
def test_what_cant_be_right_is_refused(make: Callable[[], Any], match: str) -> None:
    """With what is wrong, and without what was to be sent."""
    with pytest.raises(SpecError, match=match) as caught:
        make()
    assert "hunter2" not in str(caught.value)


def test_time_limits_of_combined_probes() -> None:
    """The longest of their own, unless it is said."""
    slow, quick = tether.tcp(timeout=90), tether.http(timeout=3)
    assert tether.all_of(slow, quick).timeout == 90
    assert tether.any_of(quick, quick).timeout == 3
    assert tether.any_of(slow, timeout=5).timeout == 5


def test_equal_probes_have_equal_fingerprints() -> None:
    """What is kept is known again, whatever its probe asks; another question makes another."""

    def spec(**more: Any) -> str:
        ready = tether.all_of(
            tether.http("/", status={200, 204}, headers={"A": "b"}, expects="x", **more), tether.tcp()
        )
        return Process(["x", "{port}"], ready=ready).fingerprint(b"key")

    assert spec() == spec()
    assert spec() != spec(body="y")
    assert spec(method="POST") != spec()
