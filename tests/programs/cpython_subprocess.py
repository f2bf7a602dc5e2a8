"""CPython's own tests, unchanged, with `tether.subprocess` in the place of subprocess; their verdicts as JSON, last line.

usage: cpython_subprocess.py test.test_subprocess | test.test_asyncio.test_subprocess
"""

from __future__ import annotations

import asyncio.subprocess
import importlib
import json
import sys
import unittest
from test import support as _support  # before the exchange: what supports the tests uses subprocess itself
from test.support import script_helper as _script_helper

import tether.subprocess


class Verdicts(unittest.TestResult):
    """What became of each test."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[str] = []

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        """Note one that passed."""
        self.passed.append(_name(test))


def _name(test: object) -> str:
    """The name of the test alone: its class is another one from version to version."""
    return str(getattr(test, "test_case", test).id()).rpartition(".")[2]  # type: ignore[attr-defined]


sys.modules["subprocess"] = tether.subprocess
for name in ("create_subprocess_exec", "create_subprocess_shell"):
    for module in (asyncio, asyncio.subprocess):
        setattr(module, name, getattr(tether.subprocess, name))
verdicts = Verdicts()
unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(sys.argv[1])).run(verdicts)
failed = {_name(test): said for test, said in [*verdicts.failures, *verdicts.errors]}
print(json.dumps({"run": verdicts.testsRun, "passed": verdicts.passed, "failed": failed}))
