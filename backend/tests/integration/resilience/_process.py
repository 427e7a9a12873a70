"""Python processes of their own, with an environment that says nothing about resilience but what it is told."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import holdfast
from backend.tests._environment import configures

_LIBRARY = str(Path(holdfast.__file__).parents[1])


def environment(**given: str) -> dict[str, str]:
    """Return this process's environment without what configures resilience, and with what is given."""
    kept = {name: value for name, value in os.environ.items() if not configures(name)}
    return {**kept, "PYTHONPATH": _LIBRARY, **given}


def run(program: str, *arguments: str, environ: Mapping[str, str] | None = None) -> Any:
    """Run a program in a process of its own; return what its last line says, which is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment(**(environ or {})),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
