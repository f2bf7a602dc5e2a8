"""``tether costs``: what rented machines have cost, by owner, kind and day."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from tether.cli.records import Records, print_json, print_table
from tether.ledger import costs as costing

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("costs")(costs)


def costs(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what was rented has cost so far: an estimate by time and the price of an hour, not the provider's bill."""
    ledger = Records().ledger
    names = {owner.id: owner.name for owner in ledger.owners(ended=True)}
    found = costing.by_day(ledger.resources(ended=True), names, ledger.events(), time.time())
    if as_json:
        print_json([asdict(each) for each in found])
        return
    rows = [
        [each.day, each.owner, each.kind, f"{each.hours:.2f}", "not known" if each.usd is None else f"{each.usd:.4f}"]
        for each in found
    ]
    print_table(["DAY", "OWNER", "KIND", "HOURS", "USD"], rows)
