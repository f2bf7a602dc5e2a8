"""What came of each thing of an estate, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["NOT_ENDED", "UNSETTLED", "Outcome", "What"]

What = Literal[
    "ended", "already gone", "let go", "failed", "kept", "ending", "later", "elsewhere", "adopted", "would end"
]

NOT_ENDED = ("kept", "ending", "later", "elsewhere", "adopted")
"""What leaves the record of the resource as it is."""

UNSETTLED = ("failed", "ending", "later", "elsewhere")
"""What leaves something of the estate to be settled."""


@dataclass(frozen=True)
class Outcome:
    """What came of one resource of an estate.

    Attributes:
        owner: the owner's name.
        resource: the resource's id; None for what plugins left without being on record.
        name, kind: the resource's.
        what: "ended" now, "already gone", "let go" (it stays), "failed" (it stays on record), "kept" for the next
            owner, "ending" (its shim is at it), "later" (left to a sweep that waits), "elsewhere" (its owner is not dead, as far as
            can be told from here), "adopted" meanwhile, or "would end" in a dry run.
        detail: how that is known, or why it failed.
    """

    owner: str
    resource: str | None
    name: str
    kind: str
    what: What
    detail: str = ""
