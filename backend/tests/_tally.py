"""A plugin for pytest: `-p backend.tests._tally --tally FILE` writes how each test ended, when it has.

Each line is JSON: the test or file, "passed", "failed" or "skipped", and why it was skipped. The last one is `null`; it
is missing when pytest did not come to its end. A test that was interrupted has not ended, and has no line.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the file's name."""
    parser.addoption("--tally", type=Path)


def pytest_configure(config: pytest.Config) -> None:
    """Begin to listen."""
    config.pluginmanager.register(_Writer(config.option.tally))


class _Writer:
    def __init__(self, path: Path) -> None:
        self._path = path

    def _write(self, line: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Files matter that cannot be collected, or do not want to."""
        if not report.passed:
            self._write([report.nodeid, report.outcome, _reason(report)])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The call matters, and what goes wrong before and after it; a failure that is expected is well."""
        if hasattr(report, "wasxfail") and report.skipped:
            self._write([report.nodeid, "passed", ""])
        elif report.when == "call" or not report.passed:
            self._write([report.nodeid, report.outcome, _reason(report)])

    def pytest_sessionfinish(self) -> None:
        """Tell that it came to the end."""
        self._write(None)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""


class Tally:
    """How many tests passed, failed and were skipped, how often for which reason, and whether that was all."""

    def __init__(self, text: str = "") -> None:
        # A process that is killed may leave half a line.
        lines: list[Any] = [json.loads(line) for line in text.split("\n")[:-1]]
        ends: dict[str, str] = {}
        self.reasons = Counter[str]()
        self.whole = None in lines
        for name, end, reason in filter(None, lines):
            ends[name] = end
            if end == "skipped":
                self.reasons[reason] += 1
        self.tests = Counter(ends.values())
