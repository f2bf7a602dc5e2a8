"""The build hook: ``tether-guard`` is built where tether is built, so that nothing is compiled on a user's machine.

A wheel built here serves this machine; with ``TETHER_GUARDS=all`` it has static programs for every machine, and serves them all.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GuardHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds the guard before the wheel is packed, and for an editable installation too."""

    def _wants_all(self) -> bool:
        return os.environ.get("TETHER_GUARDS") == "all"

    def dependencies(self) -> list[str]:
        """Ask for a compiler only where there is none, or where others than this machine are built for."""
        has_compiler = any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))
        return ["ziglang>=0.13"] if self._wants_all() or not has_compiler else []

    def _make_manual_page(self, build_data: dict[str, Any]) -> None:
        """Have ``man tether`` show what ``tether --help`` says."""
        page = Path(self.root) / "build/tether.1"
        page.parent.mkdir(exist_ok=True)
        # In a process of its own: tether is not to be imported into the builder's.
        subprocess.run([sys.executable, str(Path(self.root) / "scripts/manpage"), str(page)], check=True)
        build_data["shared_data"][str(page)] = "share/man/man1/tether.1"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and say which machines the wheel is for."""
        if self.target_name != "wheel":
            return
        if version != "editable":
            self._make_manual_page(build_data)
        script = runpy.run_path(str(Path(self.root) / "scripts/build_guard.py"))
        if self._wants_all():
            script["build_all"]()
            build_data["tag"] = "py3-none-any"
            return
        script["build_here"]()
        machine = script["machine"]()
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{machine}"
