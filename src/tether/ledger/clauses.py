"""Clauses of queries, for who reads and who writes."""

from __future__ import annotations

import json
from collections.abc import Sequence

__all__ = ["FINAL", "HAS_ENDED", "IS_LIVE", "ids"]

# Word for word as the indices have it, or SQLite looks at each row; a test compares it with State.
FINAL = "('gone', 'failed')"
IS_LIVE = f"state NOT IN {FINAL}"
HAS_ENDED = f"state IN {FINAL}"


def ids(values: Sequence[str]) -> tuple[str, str]:
    """Return a clause that any number of ids fits in, and its one parameter."""
    return "IN (SELECT value FROM json_each(?))", json.dumps(list(values))
