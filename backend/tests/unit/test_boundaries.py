"""A process is killed at the boundary that its environment names, and nowhere else."""

import os
import signal
import subprocess
import sys

import pytest

from holdfast.infrastructure.store import _boundaries

PROGRAM = """
from holdfast.infrastructure.store import _boundaries
for name in ("one", "two", "one", "three"):
    _boundaries.reach(name)
    print(name, flush=True)
"""


def run(said: str | None) -> tuple[int, str]:
    environ = {name: value for name, value in os.environ.items() if name != _boundaries.VARIABLE}
    if said is not None:
        environ[_boundaries.VARIABLE] = said
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("said", "printed"),
    [("one", ""), ("one:1", ""), ("two", "one\n"), ("one:2", "one\ntwo\n")],
)
def test_the_named_boundary_kills(said: str, printed: str) -> None:
    """SIGKILL comes when the point is reached for the n-th time, the first unless said."""
    assert run(said) == (-signal.SIGKILL, printed)


@pytest.mark.parametrize("said", [None, "", "four", "one:3", "thr"])
def test_other_boundaries_do_not_kill(said: str | None) -> None:
    """Without the variable, or with a point that is not reached so often, the process lives."""
    assert run(said) == (0, "one\ntwo\none\nthree\n")


@pytest.mark.parametrize(
    "said", [":1", "one:", "one:0", "one:-1", "one:x", "one:1:2", "one:\N{SUPERSCRIPT TWO}"]
)
def test_a_boundary_that_is_named_wrongly_is_an_error(said: str) -> None:
    """A suite that kills nothing by mistake would prove nothing."""
    with pytest.raises(ValueError, match="names no boundary"):
        _boundaries.chosen({_boundaries.VARIABLE: said})
