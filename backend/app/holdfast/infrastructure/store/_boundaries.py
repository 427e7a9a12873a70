"""Named points at which a test kills the process: what survives a crash there is what the suite checks.

`HOLDFAST_KILL_AT=name` or `name:n`, set when the process starts or is forked, makes it send itself SIGKILL when it
reaches that point for the n-th time. A boundary is a name in dotted form, `writeback.before_rename`.
"""

from __future__ import annotations

import os
import signal
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VARIABLE = "HOLDFAST_KILL_AT"


def _nothing(name: str) -> None:
    """Go on."""


def _armed(name: str, at: int) -> Callable[[str], None]:
    times = count(1)

    def reach_or_die(reached: str) -> None:
        if reached == name and next(times) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return reach_or_die


def chosen(environ: Mapping[str, str]) -> Callable[[str], None]:
    """Return what `reach` does under these variables. Raises ValueError if they say it wrongly."""
    said = environ.get(VARIABLE)
    if not said:
        return _nothing
    name, colon, times = said.partition(":")
    if not name or (colon and not (times.isascii() and times.isdecimal() and int(times))):
        raise ValueError(f"{VARIABLE} = {said!r} names no boundary; give name or name:n, n from 1")
    return _armed(name, int(times or 1))


# Call it through the module, `_boundaries.reach("store.after_commit")`: the name stands in the source as it is given.
reach = chosen(os.environ)


def _forked() -> None:
    """In a forked process: begin to count anew, by the variable as it is now."""
    global reach  # noqa: PLW0603  # it is looked up in the module each time
    reach = chosen(os.environ)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
