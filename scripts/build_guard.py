"""Build ``tether-guard`` for this machine, or with ziglang for others: the commands that the build hook and the Makefile share.

python scripts/build_guard.py              for this machine, with cc; with ziglang where there is none
python scripts/build_guard.py --all        static programs for every machine that a wheel serves, with ziglang
python scripts/build_guard.py --faults     with fault points, for tests: bin/faults/tether-guard
python scripts/build_guard.py --sanitize   with the address and undefined behaviour sanitizers: bin/sanitized/tether-guard
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "src/tether/guard/native"
BIN = ROOT / "src/tether/guard/bin"
FLAGS = [
    "-std=c11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wconversion",
    "-fno-strict-aliasing",
    "-ffunction-sections",
    "-Wl,--gc-sections",
]
TARGETS = {
    "x86_64": "x86_64-linux-musl",
    "aarch64": "aarch64-linux-musl",
    "riscv64": "riscv64-linux-musl",
    "ppc64le": "powerpc64le-linux-musl",
    "s390x": "s390x-linux-musl",
    "armv7l": "arm-linux-musleabihf",
}
"""From the machine type, as uname -m names it, to zig's name of it."""
ALIASES = {"amd64": "x86_64", "arm64": "aarch64"}


def sources() -> list[str]:
    """Return the C files."""
    return sorted(map(str, SOURCES.glob("*.c")))


def build_id() -> str:
    """Return a short hash of the sources: two programs with the same one behave alike."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def machine() -> str:
    """Return the type of this machine."""
    name = platform.machine().lower()
    return ALIASES.get(name, name)


def compiler() -> list[str]:
    """Return the command of a C compiler: the system's, or ziglang's. Raises SystemExit if there is neither."""
    found = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if found:
        return [found]
    return zig()


def zig() -> list[str]:
    """Return the command of ziglang's C compiler, installed if it is not there. Raises SystemExit if it can't be."""
    there = [sys.executable, "-m", "ziglang", "version"]
    if subprocess.run(there, capture_output=True, check=False).returncode:
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "ziglang"], check=False)
    if subprocess.run(there, capture_output=True, check=False).returncode:
        sys.exit("there is no C compiler here (cc, gcc, clang), nor ziglang: pip install ziglang, or install gcc")
    return [sys.executable, "-m", "ziglang", "cc"]


def for_musl(name: str) -> list[str]:
    """Return what makes ziglang build a static program for a machine."""
    # Inlined into the shim's loop, buffers that are hardly ever used would be part of its stack, which each held tree pays for.
    return ["-target", TARGETS[name], "-static", "-fno-inline-functions"]


def check() -> None:
    """Have the style checked and every file analysed by gcc. Raises SystemExit, with 0 if there is nothing to say."""
    style = Path(sys.executable).with_name("clang-format")
    failed = subprocess.run([style, "--dry-run", "-Werror", *sorted(SOURCES.glob("*.[ch]"))], check=False).returncode
    gcc = shutil.which("gcc")
    if gcc is None:
        print("no gcc here: the guard is not analysed", file=sys.stderr)
    for path in sources() if gcc else ():
        analysis = [gcc, *FLAGS[:-1], "-fanalyzer", "-c", "-o", os.devnull, path]
        failed |= subprocess.run(analysis, check=False).returncode
    sys.exit(failed)


def compile_into(target: Path, command: list[str], extra: list[str]) -> None:
    """Compile everything into one program, in one step; an interrupted build leaves the old one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(target.name + ".new")
    defines = [f'-DTETHER_GUARD_BUILD="{build_id()}"']
    subprocess.run([*command, *FLAGS, *defines, *extra, "-o", str(fresh), *sources()], check=True)
    fresh.replace(target)


def is_fresh(target: Path) -> bool:
    """Whether a program was built from these very sources."""
    return target.exists() and build_id().encode() in target.read_bytes()


def build_here() -> Path:
    """Build for this machine: static, so that it can be sent to hosts like it; where that can't be, as it can be linked."""
    target = BIN / f"tether-guard-{machine()}"
    if is_fresh(target):
        return target
    command = compiler()
    if "ziglang" in command:
        compile_into(target, [*command, *for_musl(machine())], ["-s"])
        return target
    try:
        compile_into(target, command, ["-static", "-s"])
    except subprocess.CalledProcessError:
        compile_into(target, command, ["-s"])
    return target


def build_all() -> list[Path]:
    """Build static programs for all machines, with ziglang."""
    built = []
    for name in TARGETS:
        target = BIN / f"tether-guard-{name}"
        if not (is_fresh(target) and target.stat().st_size < 200_000):
            compile_into(target, [*zig(), *for_musl(name)], ["-s"])
        built.append(target)
    return built


def build_for_tests(kind: str) -> None:
    """Build with fault points, or with sanitizers, which ziglang has not: what needs them is skipped without gcc."""
    target = BIN / kind / "tether-guard"
    extra = {
        "faults": ["-DTETHER_FAULTS"],
        "sanitized": ["-DTETHER_FAULTS", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    }[kind]
    if is_fresh(target):
        return
    command = compiler()
    if "ziglang" not in command:
        compile_into(target, command, extra)
    elif kind == "faults":
        compile_into(target, [*command, *for_musl(machine())], extra)
    else:
        print("no gcc here: the guard is not built with sanitizers", file=sys.stderr)


def main() -> None:
    """Build what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="for every machine, with ziglang")
    parser.add_argument("--faults", action="store_true", help="with fault points")
    parser.add_argument("--sanitize", action="store_true", help="with sanitizers")
    parser.add_argument("--check", action="store_true", help="check style and sources, and build nothing")
    asked = parser.parse_args()
    if asked.check:
        check()
    if asked.all:
        build_all()
    if asked.faults:
        build_for_tests("faults")
    if asked.sanitize:
        build_for_tests("sanitized")
    if not (asked.all or asked.faults or asked.sanitize):
        build_here()


if __name__ == "__main__":
    main()
