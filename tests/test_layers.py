"""The architecture, enforced: imports go downwards, the guard stays small, importing tether stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tether
from support import Runner

SOURCE = Path(tether.__file__).parent

LAYERS = [
    {"errors", "refusal", "fitting", "base", "model", "redaction", "spec", "port", "threads", "protocol", "calls"},
    {"linux", "ledger", "listeners", "notices"},
    {"guard"},
    {"life"},
    {"drivers"},
    {"estate"},
    {"owner"},
    {"aio", "subprocess"},
    {"plugins", "integrations", "cli", "testing", "__main__"},
]
"""From the bottom to the top; a module imports from its own layer and from those below."""

EXCEPTIONS = {
    ("protocol", "linux"),  # get_all_managed_pids, when it is called: the founding document has it there
}


def _modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in SOURCE.rglob("*.py")
    }


def _imported(path: Path) -> set[str]:
    """Modules of tether that a file imports, anywhere in it but under TYPE_CHECKING."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tether":
            base = node.module.removeprefix("tether").removeprefix(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".removeprefix(".")
                found.add(name if name in _modules() else base)
    return found - {""}


def _layer(module: str) -> int:
    top = module.split(".", maxsplit=1)[0]
    return next(index for index, names in enumerate(LAYERS) if top in names)


@pytest.mark.parametrize("module", sorted(name for name in _modules() if name not in ("__init__", "")))
def test_imports_go_downwards(module: str) -> None:
    """Nothing below knows what is above it, but for one exception that says why."""
    upwards = {
        other
        for other in _imported(_modules()[module])
        if _layer(other) > _layer(module) and (module.split(".", maxsplit=1)[0], other.split(".")[0]) not in EXCEPTIONS
    }
    assert upwards == set()


def test_the_core_names_no_driver() -> None:
    """Drivers are found by entry point; only their contract is imported by name. Ready-made plugins name the specs they are for."""
    for module, path in _modules().items():
        if not module.startswith(("drivers", "plugins")):
            named = {name for name in _imported(path) if name.startswith("drivers.")}
            assert named == set(), module


def test_importing_tether_loads_no_client_and_nothing_heavy() -> None:
    """Names are handed out when they are asked for."""
    code = "import sys; before = set(sys.modules); import tether; print(*(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) <= {"tether", "__future__"}
    assert {"Owner", "Process", "http"} <= set(dir(tether))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tether.nonsense  # noqa: B018


def test_every_public_name_is_there() -> None:
    """The lazy names and __all__ are the same."""
    assert sorted(tether._HOME) == sorted(tether.__all__)
    for name in tether.__all__:
        assert getattr(tether, name) is not None


def test_modules_have_one_subject() -> None:
    """As a rule under 400 lines."""
    assert {
        name: lines for name, path in _modules().items() if (lines := len(path.read_text().splitlines())) > 450
    } == {}


def test_both_ends_of_the_wire_have_the_same_words() -> None:
    """Kinds and keys of messages stand in C and in Python."""
    from tether.guard import wire

    header = (SOURCE / "guard/native/wire.h").read_text()
    for prefix, ours in (
        ("KIND", {kind.name: int(kind) for kind in wire.Kind}),
        ("KEY", {name.upper(): key for name, (key, _) in wire.FIELDS.items()}),
        ("AT", {("FOLDER" if name == "cwd" else name.upper()): number for name, number in wire.REFUSED_AT.items()}),
    ):
        theirs = {name: int(number) for name, number in re.findall(rf"\b{prefix}_(\w+) = (\d+)", header)}
        assert ours == theirs
    assert re.search(r"WIRE_VERSION = (\d+)", header)[1] == str(wire.VERSION)  # type: ignore[index]


def test_the_guard_is_small(runner: Runner) -> None:
    """At most 64 kB of its own for a shim, at most 512 kB for the hub."""
    code = (
        "import sys, time; from tether import Owner, Process\n"
        "o = Owner('small', state_dir=sys.argv[1]); rs = [o.start(Process(['sleep', '60'])) for _ in range(5)]\n"
        "print(o.status()['hub'], *[r._managed.handle.data['shim'][0] for r in rs], flush=True); time.sleep(60)"
    )
    with runner.popen(code, runner.new_folder()) as process:
        assert process.stdout is not None
        hub, *shims = process.stdout.readline().split()

        def kilobytes(pid: str, *fields: str) -> int:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            table = {line.split(":")[0]: int(line.split()[1]) for line in lines}
            return sum(table[field] for field in fields)

        try:
            own = [kilobytes(pid, "Private_Clean", "Private_Dirty") for pid in shims]
            assert max(own) <= 64, own
            assert kilobytes(hub, "Private_Clean", "Private_Dirty") <= 512
        finally:
            process.kill()
