"""Who else than its owner asked for the end of a resource: commands put that on record before they ask."""

from __future__ import annotations

from contextlib import suppress

from tether.errors import LedgerError
from tether.ledger.writer import Writer
from tether.life.managed import Managed
from tether.model import State

__all__ = ["who_asked"]

_RECENT = 1000


def who_asked(ledger: Writer, managed: Managed) -> str:
    """Say who asked for the end of what just ended, by the record of this life; empty if nobody did, or its owner."""
    if managed.state is State.STOPPING or managed.life.asked or not hasattr(managed.driver, "plan"):
        # What is on this machine alone leaves a receipt, which says so.
        return ""
    with suppress(LedgerError):
        for event in reversed(ledger.events(last=_RECENT)):
            if event.resource == managed.tag and event.what in ("created", "again"):
                break
            if event.resource == managed.tag and event.what == "asked to end":
                return f"asked to end {event.detail}"
    return ""
