"""``tether ps``, ``tree``, ``logs`` and ``events``: what there is, and what happened."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tether.cli.records import Records, Seen, print_json, print_table
from tether.drivers import HasLog, HasOutput
from tether.errors import NotFound
from tether.estate.standing import Standing
from tether.ledger.logs import read_last
from tether.ledger.store import EventRow
from tether.linux import proc, tree
from tether.model import Handle, State

__all__ = ["add_to"]

_FOLLOW_PAUSE_S = 0.2
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_All = Annotated[bool, typer.Option("--all", "-a", help="Also what has ended.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("ps")(ps)
    app.command("tree")(show_tree)
    app.command("logs")(logs)
    app.command("events")(events)


def _age(began: float) -> str:
    seconds = int(max(0.0, time.time() - began))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _state(seen: Seen) -> str:
    if seen.standing is Standing.ELSEWHERE and not seen.row.state.is_final:
        return "elsewhere"
    if seen.row.state.is_final or seen.owner_alive:
        return seen.row.state.value
    if seen.status.state is State.LOST:
        return "lost"
    if seen.status.state is State.GONE:
        return "gone, not settled"
    return "kept" if seen.row.on_death == "keep" else "orphaned"


def ps(everything: _All = False, as_json: _Json = False) -> None:
    """List the resources on record, as they are now."""
    seen = Records().resources(ended=everything)
    if as_json:
        print_json([each.info() for each in seen])
        return
    rows = [
        [
            each.owner.name,
            each.row.name,
            each.row.kind,
            _state(each),
            str(each.status.pids[0]) if each.status.pids else "-",
            str(len(each.status.pids)),
            each.row.url or "-",
            _age(each.row.began),
            each.row.id,
        ]
        for each in seen
    ]
    print_table(["OWNER", "NAME", "KIND", "STATE", "PID", "PROCS", "URL", "AGE", "ID"], rows)


def _command(pid: int) -> str:
    try:
        words = proc.read(f"/proc/{pid}/cmdline").rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        words = ""
    stat = proc.read_stat(pid)
    return words or (f"[{stat.name.decode(errors='replace')}]" if stat else "(ended)")


def _below(pid: int) -> dict[str, Any]:
    return {
        "pid": pid,
        "command": _command(pid),
        "children": [_below(child) for child in tree.children(pid) if tree.is_running(child)],
    }


def _roots(seen: Seen) -> list[dict[str, Any]]:
    """The processes of a resource that are nobody's child within it, each with what is below it."""
    pids = set(seen.status.pids)
    parents = {pid: stat.ppid for pid in pids if (stat := proc.read_stat(pid)) is not None}
    return [_below(pid) for pid in seen.status.pids if parents.get(pid) not in pids]


def show_tree(as_json: _Json = False) -> None:
    """Show owners, their resources, and the processes of each."""
    seen = Records().resources()
    if as_json:
        print_json([{**each.info(), "processes": _roots(each)} for each in seen])
        return
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    console = Console() if sys.stdout.isatty() else Console(width=1000)
    owners: dict[str, Tree] = {}
    for each in seen:
        life = {Standing.DEAD: ", dead", Standing.ELSEWHERE: ", elsewhere"}.get(each.standing, "")
        owner = owners.setdefault(each.owner.id, Tree(Text(f"{each.owner.name} (pid {each.owner.identity.pid}{life})")))
        url = f"  {each.row.url}" if each.row.url else ""
        branch = owner.add(Text(f"{each.row.name}  {each.row.kind}  {_state(each)}{url}"))
        for root in _roots(each):
            _add(branch, root, Text)
    for owner in owners.values():
        console.print(owner)


def _add(branch: Any, process: dict[str, Any], text: Any) -> None:
    twig = branch.add(text(f"{process['pid']} {process['command']}"))
    for child in process["children"]:
        _add(twig, child, text)


def logs(
    name: Annotated[str, typer.Argument(help="A resource: its name, OWNER/NAME, or the beginning of its id.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    lines: Annotated[int | None, typer.Option("--tail", "-n", min=0, help="Only the last lines.")] = None,
) -> None:
    """Print what a resource wrote; also of one that has ended."""
    records = Records()
    seen = records.matching(name, ended=True)[-1]
    row = seen.row
    driver = records.drivers.of(row.kind)
    if row.handle is not None and isinstance(driver, HasOutput):
        _print_output(driver, row.handle, lines, follow=follow)
        return
    path = driver.log_path(row.handle) if row.handle is not None and isinstance(driver, HasLog) else None
    if path is None or not path.exists():
        raise NotFound(f"resource {row.name} has no log here: its output goes elsewhere")
    _print_file(records, row.id, path, lines, follow=follow)


def _print_output(driver: HasOutput, handle: Handle, lines: int | None, *, follow: bool) -> None:
    """Print what an engine or a host keeps."""
    out = sys.stdout.buffer
    out.write(driver.read_log(handle, lines))
    out.flush()
    for data in driver.follow_log(handle) if follow else ():
        out.write(data)
        out.flush()


def _print_file(records: Records, tag: str, path: Path, lines: int | None, *, follow: bool) -> None:
    out = sys.stdout.buffer
    with path.open("rb") as file:
        for data in read_last(file, lines):
            out.write(data)
        out.flush()
        while follow:
            row = records.look.resource(tag)
            ended = row is None or row.state.is_final
            data = file.read()
            out.write(data)
            out.flush()
            if ended and not data:
                return
            if not data:
                time.sleep(_FOLLOW_PAUSE_S)


def _event(row: EventRow) -> dict[str, Any]:
    return {
        "seq": row.seq,
        "at": row.at,
        "owner": row.owner,
        "resource": row.resource,
        "name": row.name,
        "what": row.what,
        "detail": row.detail,
    }


def _print_events(rows: list[EventRow], as_json: bool) -> None:
    for row in rows:
        if as_json:
            import json

            sys.stdout.write(json.dumps(_event(row)) + "\n")
        else:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.at))
            sys.stdout.write(f"{when}  {row.name:<16}  {row.what:<12}  {row.detail}".rstrip() + "\n")
    sys.stdout.flush()


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    last: Annotated[int, typer.Option("--tail", "-n", min=0, help="How many to begin with.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one event a line.")] = False,
) -> None:
    """Show what happened: who ended what, why, and how that is known."""
    look = Records().look
    rows = look.events(last=last)
    _print_events(rows, as_json)
    seq = max((row.seq for row in rows), default=0)
    try:
        while follow:
            time.sleep(_FOLLOW_PAUSE_S)
            rows = look.events(after=seq)
            _print_events(rows, as_json)
            seq = max((row.seq for row in rows), default=seq)
    except KeyboardInterrupt:
        os._exit(130)
