"""What stands on a thing of its owner: whether that is dead, and on no record, can be told without a ledger; else it may live."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tether.ledger import orphans
from tether.linux import whereabouts


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"uid": 12345}, "another user"),
        ({"namespace": 1}, "another pid namespace"),
        ({"boot": "another", "machine": ""}, "another machine"),
        ({"boot": "another", "machine": "0123456789abcdef"}, "another machine"),
        ({"boot": "another", "host": "elsewhere"}, "another machine"),
        ({"pid": "nonsense"}, "does not say who its owner is"),
        ({"state": "here"}, "for its ledger to say"),
    ],
    ids=str,
)
def test_who_may_live_keeps_what_it_has(changed: dict[str, Any], why: str, tmp_path: Path) -> None:
    """Another user, namespace, machine, or nothing that can be read: left alone; so is what a ledger settles."""
    mine = orphans.owner_mark(tmp_path / "gone")
    assert "lives" in orphans.why_it_may_live(mine)
    mark = {**json.loads(mine), "pid": 4_000_000}
    assert orphans.why_it_may_live(json.dumps(mark)) == ""
    (tmp_path / "ledger.db").touch()
    changed = {**changed, **({"state": str(tmp_path)} if "state" in changed else {})}
    assert why in orphans.why_it_may_live(json.dumps({**mark, **changed}))
    assert orphans.why_it_may_live(None)


def test_a_reboot_of_this_machine_is_a_death(tmp_path: Path) -> None:
    """Known by the machine's own id and name."""
    mark = {**json.loads(orphans.owner_mark(tmp_path)), "boot": "earlier", "machine": "m"}
    assert "another machine" in orphans.why_it_may_live(json.dumps(mark))
    machine = whereabouts.here().machine
    if machine:
        assert orphans.why_it_may_live(json.dumps({**mark, "machine": machine})) == ""
