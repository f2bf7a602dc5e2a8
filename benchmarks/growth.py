"""What start, status, ps, shutdown and a sweep take, by the number of resources and by how much has ended before.

    make bench PART=growth

Printed as a table; with ``--svg FILE`` also as a plot, for the documentation. Smaller: ``--resources 10,100 --rows 0``. Each figure
is of one run on this machine as it is; the smallest of three where that is quick.
"""

from __future__ import annotations

import argparse
import json
import os
import resource as limits
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import plot

from tether import Owner, Process
from tether.estate import settle
from tether.ledger import changes, place
from tether.ledger.store import Ledger
from tether.linux import identity
from tether.model import Handle, Identity, State

RESOURCES = (10, 100, 1000, 3000)
ROWS = (0, 100_000, 1_000_000)
DEAD_OWNERS = 10

OLD_ROWS = """
WITH RECURSIVE number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < :rows)
INSERT INTO {table} SELECT {values} FROM number
"""


@dataclass
class Column:
    """One thing that is measured: its name in the results, and what is printed above it."""

    name: str
    head: str


COLUMNS = (
    Column("owner_ms", "Owner() ms"),
    Column("start_ms", "a start ms"),
    Column("keep_ms", "a kept start ms"),
    Column("status_ms", "status() ms"),
    Column("ps_ms", "tether ps ms"),
    Column("logs_ms", "tether logs ms"),
    Column("shutdown_ms", "shutdown() ms"),
    Column("sweep_ms", "sweep ms"),
)


def timed(action: Callable[[], object]) -> float:
    """Return how many milliseconds ``action`` takes."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def fill(state: Path, rows: int) -> None:
    """Put so many resources on record that have ended, of a hundredth as many owners, each with an event."""
    ledger = Ledger(place.prepare(state))
    if not rows:
        ledger.close()
        return
    now = time.time()
    spec = json.dumps({"argv": ["sleep", "60"], "stop_grace": 10.0, "fingerprint": ""})
    values = {"rows": rows, "now": now, "spec": spec, "uid": os.getuid()}

    def change(db: sqlite3.Connection) -> None:
        db.execute(
            OLD_ROWS.format(
                table="owners (id, name, boot, pid, start, uid, began, ended)",
                values="'old-owner-' || n, 'bench', 'boot', 1, n, :uid, :now, :now",
            ),
            {**values, "rows": max(1, rows // 100)},
        )
        db.execute(
            OLD_ROWS.format(
                table="resources (id, owner, name, kind, state, reason, spec, on_death, keep_for, began, changed)",
                values="'old-' || n, 'old-owner-' || n / 100, 'kept', 'process', 'gone', 'ended by itself', :spec, 'keep', "
                "60, :now - :rows + n, :now - 3600",
            ),
            values,
        )
        db.execute(
            OLD_ROWS.format(
                table="events (at, owner, resource, name, what)",
                values=":now, 'old-owner-' || n / 100, 'old-' || n, 'kept', 'gone'",
            ),
            {**values, "rows": min(rows, 100_000)},
        )

    ledger.database.transact(change)
    ledger.close()


def add_dead(state: Path, count: int) -> None:
    """Put so many resources on record whose owners, and all guards with them, were killed in one instant."""
    boot, pid = identity.boot_id(), 2**22 - 1
    ledger = Ledger(state)
    owners = min(count, DEAD_OWNERS)
    for number in range(owners):
        ledger.add_owner(f"dead-{number}", "bench", Identity(boot, pid, number + 1), None)

    def change(db: sqlite3.Connection) -> None:
        for number in range(count):
            tag = f"{number:016x}"
            data = {"boot": boot, "shim": [pid, 1], "main": [pid, 1, 1], "port": None, "log": None, "cgroup": None}
            handle = Handle("process", tag, {**data, "tier": "shim", "uid": os.getuid(), "life": 1}, 2)
            spec = {"argv": ["sleep", "60"], "stop_grace": 10.0}
            row = changes.new_resource(
                tag, f"dead-{number % owners}", f"it-{number}", "process", spec, "kill", 60.0, None
            )
            changes.put_resource(db, row)
            changes.write(db, tag, 1, State.READY, [("started", "")], handle=handle)

    ledger.database.transact(change)
    ledger.close()


def tether(state: Path, *arguments: str) -> None:
    """Run a command."""
    subprocess.run(
        [sys.executable, "-m", "tether", *arguments],
        env={**os.environ, "TETHER_STATE_DIR": str(state)},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def measure(state: Path, resources: int) -> dict[str, float]:
    """Measure everything with so many resources, in a state directory with what has ended before."""
    took: dict[str, float] = {}
    owners: list[Owner] = []
    took["owner_ms"] = timed(lambda: owners.append(Owner("bench", state_dir=state)))
    (owner,) = owners
    started = timed(lambda: [owner.start(Process(["sleep", "600"])) for _ in range(resources)])
    took["start_ms"] = started / resources
    kept = Process(["sleep", "600"], name="kept", on_death="keep", keep_for=60)
    took["keep_ms"] = timed(lambda: owner.start(kept))
    took["status_ms"] = min(timed(owner.status) for _ in range(3))
    took["ps_ms"] = min(timed(lambda: tether(state, "ps")) for _ in range(3))
    took["logs_ms"] = min(timed(lambda: tether(state, "logs", "kept", "-n", "10")) for _ in range(3))
    owner.resource("kept").kill()
    took["shutdown_ms"] = timed(owner.shutdown)
    add_dead(state, resources)
    ledger = Ledger(state)
    outcomes: list[object] = []
    took["sweep_ms"] = timed(lambda: outcomes.extend(settle.sweep(ledger, state)))
    assert len(outcomes) == resources

    def change(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM resources WHERE owner LIKE 'dead-%'")
        db.execute("DELETE FROM owners WHERE id LIKE 'dead-%'")

    ledger.database.transact(change)
    ledger.close()
    return took


def numbers(text: str) -> tuple[int, ...]:
    """Read numbers with commas between them."""
    return tuple(int(each) for each in text.split(","))


def main() -> None:
    """Measure, print, and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", type=numbers, default=RESOURCES)
    parser.add_argument("--rows", type=numbers, default=ROWS)
    parser.add_argument("--svg", type=Path)
    given = parser.parse_args()
    _, most = limits.getrlimit(limits.RLIMIT_NOFILE)
    limits.setrlimit(limits.RLIMIT_NOFILE, (most, most))
    print(f"{'old rows':>9} {'resources':>9} " + " ".join(f"{column.head:>15}" for column in COLUMNS))
    found: list[dict[str, float]] = []
    for rows in given.rows:
        state = Path(tempfile.mkdtemp(prefix="tether-growth-"))
        try:
            fill(state, rows)
            for resources in given.resources:
                took = measure(state, resources)
                found.append({"rows": rows, "resources": resources, **took})
                print(
                    f"{rows:9d} {resources:9d} " + " ".join(f"{took[column.name]:15.1f}" for column in COLUMNS),
                    flush=True,
                )
        finally:
            shutil.rmtree(state)
    if given.svg is not None:
        given.svg.write_text(plot.svg(found, [(column.name, column.head) for column in COLUMNS]))


if __name__ == "__main__":
    main()
