"""CPython's own test_subprocess, unchanged, with `tether.subprocess` in the place of subprocess; its verdicts as JSON, last line.

usage: cpython_subprocess.py
"""

from __future__ import annotations

import json
import sys
import unittest
from test import support as _support  # before the exchange: what supports the tests uses subprocess itself
from test.support import script_helper as _script_helper

import tether.subprocess

sys.modules["subprocess"] = tether.subprocess
from test import test_subprocess  # noqa: E402


class Verdicts(unittest.TestResult):
    """What became of each test."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[str] = []

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        """Note one that passed."""
        self.passed.append(_name(test))


def _name(test: object) -> str:
    return str(getattr(test, "test_case", test).id()).removeprefix("test.test_subprocess.")  # type: ignore[attr-defined]


verdicts = Verdicts()
unittest.defaultTestLoader.loadTestsFromModule(test_subprocess).run(verdicts)
failed = {_name(test): said for test, said in [*verdicts.failures, *verdicts.errors]}
print(json.dumps({"run": verdicts.testsRun, "passed": len(verdicts.passed), "failed": failed}))
