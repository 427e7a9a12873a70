"""Fixtures of the lab's suite."""

import subprocess
import sys
from collections.abc import Iterator
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


@pytest.fixture
def port() -> Iterator[int]:
    """Give the port of a server in a process of its own."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("_server.py"))], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    try:
        yield int(server.stdout.readline())
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
