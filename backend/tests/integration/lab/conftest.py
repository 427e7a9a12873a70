"""Fixtures of the lab's suite."""

from pathlib import Path

import pytest

SHORT = """
[[scenario]]
name = "outage"
says = "everything fails at once for 20 s"
duration = 70
clients = 4
load = 20
[[scenario.trouble]]
kind = "errors"
start = 15
end = 35
"""


@pytest.fixture
def short_file(tmp_path: Path) -> Path:
    """Give a file with one short scenario."""
    path = tmp_path / "short.toml"
    path.write_text(SHORT, encoding="utf-8")
    return path
