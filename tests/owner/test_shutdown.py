"""In which order resources end."""

from __future__ import annotations

import pytest

from tether.errors import SpecError
from tether.owner.shutdown import Wait, order


def test_later_ones_end_first_unless_they_say_what_they_need() -> None:
    """Without needs= the reverse of the start; with needs= only what is said."""
    assert order({"db": (), "api": ("db",), "job": None}) == {
        "db": Wait(frozenset({"api"}), frozenset({"job"})),
        "api": Wait(frozenset(), frozenset({"job"})),
        "job": Wait(frozenset(), frozenset()),
    }


def test_a_circle_is_refused() -> None:
    """Two that need each other could never end."""
    with pytest.raises(SpecError, match="circle: a, b"):
        order({"a": ("b",), "b": ("a",), "c": None})
