"""In which order resources end."""

from __future__ import annotations

import pytest

from tether.errors import SpecError
from tether.owner.shutdown import Order


def test_later_ones_end_first_unless_they_say_what_they_need() -> None:
    """Without needs= the reverse of the start; with needs= only what is said."""
    order = Order({"first": None, "second": None, "third": None})
    assert order.take(patient=True) == ["third"]
    assert order.take(patient=True) == []
    order.end("third")
    assert order.take(patient=True) == ["second"]
    order.end("second")
    assert order.take(patient=True) == ["first"]
    assert not order.is_over
    order.end("first")
    assert order.is_over


def test_without_patience_nobody_waits_but_for_who_needs_it() -> None:
    """One that hangs holds up only what it needs."""
    order = Order({"db": (), "hangs": None, "api": ("db",), "job": None, "free": None})
    assert order.take(patient=True) == ["free"]
    assert order.take(patient=False) == ["job", "api", "hangs"]
    order.end("hangs")
    assert order.take(patient=False) == []
    order.end("api")
    order.end("api")
    assert order.take(patient=False) == ["db"]


def test_who_said_what_it_needs_is_waited_for_by_that_alone() -> None:
    """Those that did not say are waited for by all that were started before."""
    order = Order({"db": (), "api": ("db",), "job": None})
    assert order.take(patient=True) == ["job"]
    order.end("job")
    assert order.take(patient=True) == ["api"]
    order.end("api")
    assert order.take(patient=True) == ["db"]


def test_an_environment_waits_for_what_runs_in_it() -> None:
    """As if that had said that it needs it; what has ended already is needed by nobody."""
    order = Order({"env": (), "tool": ()}, {"tool": "env", "env": "gone"})
    assert order.take(patient=True) == ["tool"]
    order.end("tool")
    assert order.take(patient=True) == ["env"]


def test_a_circle_is_refused() -> None:
    """Two that need each other could never end."""
    with pytest.raises(SpecError, match="circle: a, b"):
        Order({"a": ("b",), "b": ("a",), "c": None})
