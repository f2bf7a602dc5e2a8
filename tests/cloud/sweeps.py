"""A sweep, as `tether reap` makes one."""

from __future__ import annotations

from pathlib import Path

from tether.estate import settle
from tether.ledger.store import Ledger


def reap(state: Path) -> list[settle.Outcome]:
    """One sweep."""
    ledger = Ledger(state)
    try:
        return settle.sweep(ledger, state, patient=True)
    finally:
        ledger.close()
