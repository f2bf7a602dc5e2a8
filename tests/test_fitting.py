"""Whatever a field of a spec is given: it is taken, or refused as a `SpecError` that names the field, before anything is created."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck as Check
from hypothesis import given, settings
from hypothesis import strategies as st

import tether
from tether import Owner, Process, SpecError, http, tcp
from tether.base import CommandBase, SpecBase
from tether.drivers.cloud.spec import Machine, MachineRef
from tether.drivers.conda.spec import CondaEnv
from tether.drivers.container.network import Network
from tether.drivers.container.spec import Container, ContainerRef, HealthCheck, Mount
from tether.drivers.kubernetes.spec import Claim, FromKey, Pod, PodRef
from tether.drivers.serverless.spec import CloudContainer, CloudFunction
from tether.drivers.service import Service
from tether.drivers.ssh.spec import RemoteProcess
from tether.errors import UnknownField

SPECS: dict[type[Any], dict[str, Any]] = {
    Process: {"argv": ["true"]},
    RemoteProcess: {"host": "there", "argv": ["true"]},
    Container: {"image": "redis"},
    ContainerRef: {"ref": "web"},
    Network: {},
    CondaEnv: {"packages": ["python"]},
    Pod: {"image": "redis"},
    PodRef: {"ref": "web"},
    Machine: {},
    MachineRef: {"machine": "i-1"},
    CloudContainer: {"image": "redis"},
    CloudFunction: {"code": b"x"},
    Service: {"url": "http://127.0.0.1:1"},
    Mount: {},
    HealthCheck: {"command": ["true"]},
    Claim: {"size": "1Gi"},
    FromKey: {"key": "k", "secret": "s"},
}
"""Every spec, with the least that it needs."""

FIELDS = [(kind, each.name) for kind in SPECS for each in fields(kind) if each.init]


class Odd:
    """Has no repr, no truth and equals nothing."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equal")

    __hash__ = None  # type: ignore[assignment]


class BadPath(os.PathLike[str]):
    """A path that is none."""

    def __fspath__(self) -> str:
        return 5  # type: ignore[return-value]


ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 10**30, -(10**30), 10**400, 1 << 62, 3.5, -0.5, float("nan"), float("inf"), float("-inf"), 1e300,
    1j, "", "x", "a\0b", "\ud800", "é" * 300, "${x}", "{port}", b"", b"x", b"a\0b", bytearray(b"x"), Path("/nope"), Path("a\0b"),
    BadPath(), [], [1], [None], [[]], ["x", 1], ["a\0b"], ["\ud800"], (), (1, 2, 3), {1}, {"x"}, {}, {1: 2}, {"x": 1}, {None: None},
    {"x": "a\0b"}, {"x": {"x": []}}, {7: 5}, {7: (1, "x")}, {7: (5, 1)}, {99: (1, 1)}, {"/x": 5}, {"A=B": "x"}, {80: 10**9}, [("INT", "x")],
    [("INT", float("nan"))], [("INT", -1)], [("NOPE", 1)], range(3), object(), Odd(), [Odd()], {"x": Odd()}, int, Process, len,
    lambda: None, tcp(), http, Process(["true"]), types, io.BytesIO(), slice(1), ...,
]  # fmt: skip


make: Callable[..., Any] = lambda kind, *values, **more: kind(*values, **more)  # noqa: E731 - without types, on purpose


def refused(kind: type[Any], values: dict[str, Any]) -> SpecError | None:
    """Make a spec; anything but a SpecError goes up."""
    try:
        kind(**values)
    except SpecError as error:
        return error
    return None


def test_these_are_all_the_specs_that_there_are() -> None:
    """A new one is gone through as well."""

    def below(kind: type[Any]) -> Iterator[type[Any]]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    known = {kind for kind in below(SpecBase) if kind.__module__.startswith("tether.") and is_dataclass(kind)}
    # What tether makes itself of a command such as `docker run`.
    known = {kind for kind in known if kind.__name__ != "MadeByCommand"}
    mine: set[Any] = {kind for kind in SPECS if issubclass(kind, SpecBase)}
    assert mine == known
    assert {getattr(tether, kind.__name__, kind) for kind in known} == known


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=[f"{kind.__name__}.{name}" for kind, name in FIELDS])
def test_an_odd_value_is_taken_or_refused_by_name(kind: type[Any], name: str) -> None:
    """No TypeError, no OverflowError, no struct.error: of every field of every spec."""
    for odd in ODD:
        error = refused(kind, {**SPECS[kind], name: odd})
        assert error is None or (str(error) and len(str(error)) < 1500)
    error = refused(kind, {**SPECS[kind], name: Odd()})
    if (kind, name) != (Container, "network"):
        assert error is not None
        assert name in str(error) or name in ("image", "ref", "host", "provider", "machine", "url")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=list(Check))
@given(data=st.data())
def test_any_values_are_taken_or_refused(data: st.DataObject) -> None:
    """Several fields at once, of any spec, with whatever can be made of plain values."""
    kind = data.draw(st.sampled_from(list(SPECS)))
    names = data.draw(
        st.lists(st.sampled_from([name for each, name in FIELDS if each is kind]), max_size=3, unique=True)
    )
    refused(kind, {**SPECS[kind], **{name: data.draw(JSON, label=name) for name in names}})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"nice": "x"}, "nice='x' must be a whole number, or None, not a str"),
        ({"needs": [1]}, "needs has 1 in it"),
        ({"env_in": 5}, "env_in=5 must be"),
        ({"rlimits": 5}, "rlimits=5 must be a mapping"),
        ({"umask": 3.5}, "umask=3.5"),
        ({"keep_for": 10**30}, "keep_for="),
        ({"stop_grace": float("nan")}, "stop_grace=nan"),
        ({"stop_grace": float("inf")}, "stop_grace=inf must be a number up to"),
        ({"stop_grace": -1}, "stop_grace=-1 must be 0 or more seconds"),
        ({"port": "8000"}, "Process job: port='8000' must be a whole number"),
        ({"port": True}, "port=True"),
        ({"log_max": "x"}, "log_max='x'"),
        ({"env": "A=1"}, "env must be a mapping, like"),
        ({"env": {"KEY": 5}}, "the value of variable KEY must be text, not int"),
        ({"ready": "/health"}, r"made by http\('/health'\)"),
        ({"ready": http}, r"made by http\('/health'\)"),
        ({"stop_to": "everybody"}, "use one of 'group', 'main'"),
        ({"affinity": [1 << 40]}, "affinity"),
        ({"rlimits": {7: (10, 5)}}, "soft and hard limit"),
    ],
)
def test_it_says_the_field_what_was_given_and_what_is_wanted(values: dict[str, Any], said: str) -> None:
    """The mistakes that people make."""
    with pytest.raises(SpecError, match=said):
        make(Process, ["true"], **{"name": "job", **values})


def test_values_that_may_be_secrets_are_not_shown() -> None:
    """A variable, a file's content, a label."""
    for kind, name in (
        (Process, "env"),
        (Container, "env"),
        (Container, "files"),
        (Container, "labels"),
        (Machine, "user_data"),
    ):
        for value in (["s3cret-value"], {"x": ["s3cret-value"]}, {"x": Path}):
            error = refused(kind, {**SPECS[kind], name: value})
            assert error is not None
            assert "s3cret" not in str(error)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shell", "'sh', '-c'"),
        ("timeout", "ready=http"),
        ("reday", "did you mean ready="),
        ("stop_gracee", "did you mean stop_grace="),
        ("cmd", "argv="),
        ("nonsense_of_mine", "it has argv, name"),
    ],
)
def test_a_field_that_it_has_not_is_refused_with_what_may_be_meant(name: str, said: str) -> None:
    """Also a TypeError, as from any call."""
    with pytest.raises(UnknownField, match=said):
        make(Process, ["true"], **{name: 1})
    with pytest.raises(TypeError):
        make(Process, ["true"], **{name: 1})


def test_an_iterator_is_taken_as_a_list() -> None:
    """It is gone through once."""
    spec = Process((word for word in ("echo", "x")), needs=(each for each in ("a", "b")), pass_fds=iter([5, 6]))  # type: ignore[arg-type]
    assert (spec.argv, spec.needs, spec.pass_fds) == (("echo", "x"), ("a", "b"), (5, 6))


def test_a_copy_of_a_spec_is_equal() -> None:
    """Pickled, too."""
    spec = Process(["true"], name="x", needs=["y"], ready=None, env={"A": "1"})
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_spec_of_somebody_elses_is_gone_through_too() -> None:
    """By its annotations, whether it has checks of its own or not."""
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Mine(CommandBase):
        argv: list[str]
        colour: int = 5
        unknown: NotThere | None = None  # type: ignore[name-defined]  # noqa: F821

    assert Mine(["x"]).colour == 5
    with pytest.raises(SpecError, match="Mine: colour='red'"):
        Mine(["x"], "red")  # type: ignore[arg-type]


STARTED: list[tuple[Callable[[], Any], str]] = [
    (lambda: ["sleep", "1"], r"write start\(Process\(\['sleep', '1'\]\)\)"),
    (lambda: "sleep 1", "write start"),
    (lambda: Process, "the class: write Process"),
    (lambda: types.SimpleNamespace(poll=len, pid=1), r"owner.watch\(popen\)"),
    (lambda: types.SimpleNamespace(force_cleanup=len), r"owner.register\(plugin\)"),
    (lambda: None, "is no spec"),
]


@pytest.mark.parametrize(("make", "said"), STARTED)
def test_what_is_no_spec_is_not_started(owner: Owner, make: Callable[[], Any], said: str) -> None:
    """A list of words, a Popen, a plugin."""
    with pytest.raises(SpecError, match=said):
        owner.start(make())
    with pytest.raises(SpecError, match=said):
        owner.start_all([make()])
    assert owner.resources == []


def test_what_is_taken_can_be_started_or_is_refused_in_tethers_words(owner: Owner) -> None:
    """What no type tells is said by the kernel: each odd value of each field of a Process, started."""
    for name in (name for kind, name in FIELDS if kind is Process):
        for odd in ODD:
            values = {**SPECS[Process], name: odd}
            if refused(Process, values) is not None or name in ("stdin", "stdout", "stderr", "terminal"):
                continue
            with suppress(tether.TetherError):
                owner.start(Process(**values)).stop()


def test_importing_tether_makes_no_spec() -> None:
    """`import tether` stays light: what is derived from annotations is derived when a spec is made."""
    code = "import sys, tether; print('tether.fitting' in sys.modules, 'difflib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]
