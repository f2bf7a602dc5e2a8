"""``tether envs`` and ``tether envs prune``: the conda environments that were made for everybody.

Plain functions of what was given, which return what they found and the text that shows it, and the command on top of them.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import asdict
from importlib import import_module
from typing import Any

from tether.cli import text
from tether.cli.arguments import Parser, seconds
from tether.cli.records import state_dir as state_dir_in_force
from tether.ledger import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["command", "envs", "prune", "show_envs", "show_pruned"]

_SHOWN_PACKAGES = 4


def command(argv: Sequence[str]) -> int:
    """List the environments, or with ``prune`` remove those that nobody uses."""
    if argv[:1] == ["prune"]:
        return _prune(argv[1:])
    parser = Parser(
        "envs",
        "List the conda environments that were made in the state directory for everybody who asks for the same, with the room that "
        "they take.",
        "'tether envs prune' removes those that nobody uses; see its --help.",
    )
    parser.json()
    given = parser.read(argv)
    found = envs(str(state_dir_in_force()))
    if given.as_json:
        text.print_json(found)
    else:
        text.say(text.lines(show_envs(found)))
    return 0


def _prune(argv: Sequence[str]) -> int:
    parser = Parser(
        "envs prune",
        "Remove the environments that nobody uses: no owner holds them, and no process runs in them. What is asked for "
        "again is made again.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="only these; by default all, and the cache of packages"
    )
    parser.add_argument(
        "--unused-for", type=seconds, default=0.0, metavar="S", help="only what was not used for so long: 30d, 12h"
    )
    parser.flag("--keep-packages", does="keep the cache of packages, from which environments are made faster")
    parser.flag("-n", "--dry-run", does="only say what would be removed")
    parser.json()
    given = parser.read(argv)
    done = prune(
        str(state_dir_in_force()),
        unused_for=given.unused_for,
        names=given.names,
        packages=not given.keep_packages,
        dry_run=given.dry_run,
    )
    if given.as_json:
        text.print_json(done)
    else:
        text.say(text.lines(show_pruned(done, dry_run=given.dry_run)))
    # One that was named and is still there, or never was, is not what was asked for.
    return 1 if given.names and any(each["kept_because"] for each in done) else 0


def _cache() -> Any:
    # By its name: faces know drivers by what they are called only, and this one may not be installed.
    return import_module("tether.drivers.conda.cache")


def envs(state_dir: str | None = None) -> dict[str, Any]:
    """Return the cached environments and the size of the cache of packages, ready for JSON. Creates and changes nothing."""
    folder = place.state_dir(state_dir)
    cache = _cache()
    return {
        "environments": [asdict(env) for env in cache.cached(folder)],
        "packages_bytes": cache.packages_size(folder),
    }


def prune(
    state_dir: str | None = None,
    *,
    unused_for: float = 0.0,
    names: Collection[str] = (),
    packages: bool = True,
    dry_run: bool = False,
) -> list[dict[str, Any]]:
    """Remove cached environments that nobody uses, and return what became of each, ready for JSON.

    See `tether.drivers.conda.cache.prune` for the arguments.
    """
    folder = place.state_dir(state_dir)
    done = _cache().prune(folder, unused_for=unused_for, names=names, packages=packages, dry_run=dry_run)
    return [asdict(each) for each in done]


def show_envs(found: dict[str, Any], *, now: float | None = None) -> str:
    """Return a table of what `envs` found."""
    moment = time.time() if now is None else now
    rows = [("NAME", "STATE", "SIZE", "LAST USE", "PACKAGES")]
    for env in found["environments"]:
        state = "in use" if env["in_use"] and env["state"] == "whole" else env["state"]
        more = len(env["packages"]) - _SHOWN_PACKAGES
        packages = [*env["packages"][:_SHOWN_PACKAGES], *([f"and {more} more"] if more > 0 else [])]
        rows.append((env["name"], state, _size(env["size_bytes"]), _age(moment - env["used"]), ", ".join(packages)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*(row[n].ljust(widths[n]) for n in range(4)), row[4]]).rstrip() for row in rows]
    total = sum(env["size_bytes"] for env in found["environments"])
    lines.append(f"{_size(total)} in environments, {_size(found['packages_bytes'])} in the cache of packages")
    return "\n".join(lines)


def show_pruned(done: list[dict[str, Any]], *, dry_run: bool = False) -> str:
    """Return in words what `prune` did."""
    verb = "would be removed" if dry_run else "removed"
    lines = [
        f"{each['name']}: {f'kept: {why}' if (why := each['kept_because']) else verb} ({_size(each['size_bytes'])})"
        for each in done
    ]
    freed = sum(each["size_bytes"] for each in done if not each["kept_because"])
    lines.append(f"{_size(freed)} {verb}; files that environments share with what is kept go on to take their room")
    return "\n".join(lines)


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit} ago"
    return f"{max(0.0, seconds):.0f}s ago"
