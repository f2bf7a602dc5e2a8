"""``tether costs``: what rented machines have cost, by owner, kind and day."""

from __future__ import annotations

import time
from dataclasses import asdict

from tether.cli import text
from tether.cli.arguments import Parser
from tether.cli.records import Records
from tether.ledger import costs as costing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["costs"]


def costs(argv: Sequence[str]) -> int:
    """Show what was rented has cost so far: an estimate by time and the price of an hour, not the provider's bill."""
    parser = Parser(
        "costs", "What rented machines have cost so far: by time and the price of an hour, not the provider's bill."
    )
    parser.json()
    given = parser.read(argv)
    look = Records().reading
    names = {owner.id: owner.name for owner in look.owners(ended=True)}
    found = costing.by_day(look.resources(ended=True), names, look.events(), time.time())
    if given.as_json:
        text.print_json([asdict(each) for each in found])
        return 0
    rows = [
        [each.day, each.owner, each.kind, f"{each.hours:.2f}", "not known" if each.usd is None else f"{each.usd:.4f}"]
        for each in found
    ]
    text.print_table(["DAY", "OWNER", "KIND", "HOURS", "USD"], rows)
    return 0
