"""What an import costs, and what it drags in, each in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import holdfast
from benchmarks.rows import OURS, Case, Effort, Row, Section, Target
from benchmarks.timing import middle

_FORBIDDEN = ("asyncio", "tenacity", "pybreaker", "httpx", "redis")
_DOOR = "from holdfast import retry, circuit_breaker, timeout"
# As the door imports them: each from its own module.
_EVERY = "\n".join(
    f"import holdfast.infrastructure.resilience.{name}"
    for name in (
        *("retry", "circuit_breaker", "timeout", "bulkhead", "rate_limit", "concurrency_limit"),
        *("throttle", "hedge", "fallback", "cache", "chaos", "pipeline", "registry"),
    )
)
_DECORATED = f"{_DOOR}\n@retry\n@circuit_breaker\ndef fetch(order_id): ..."

_PROGRAM = """\
import os, sys
sys.path[:0] = {paths!r}
from time import process_time
begin = process_time()
{statement}
took = process_time() - begin
print(took, *(name for name in {forbidden!r} if name in sys.modules))
"""


@dataclass(frozen=True, kw_only=True)
class Import(Case):
    """Statements to run first thing; `milliseconds`, or the forbidden modules that they load."""

    statement: str
    milliseconds: bool = True


def _paths() -> list[str]:
    assert holdfast.__file__ is not None
    return [str(Path(holdfast.__file__).parents[1]), sysconfig.get_path("purelib")]


def _run(statement: str) -> tuple[float, list[str]]:
    """Return the CPU seconds that `statement` took in a bare interpreter, and the forbidden modules it loaded."""
    program = _PROGRAM.format(paths=_paths(), statement=statement, forbidden=_FORBIDDEN)
    # -I: nothing of the environment's. -S: no .pth file that imports first what is to be measured. Of what `site`
    # brings to every interpreter only `os` costs anything: the program has it before the clock starts.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ImportError(done.stderr.strip().rpartition("\n")[2])
    seconds, *loaded = done.stdout.split()
    return float(seconds), loaded


def _measure(cases: Sequence[Import], effort: Effort) -> list[Row]:
    samples: dict[Import, list[tuple[float, list[str]]]] = {case: [] for case in cases}
    errors: dict[Import, str] = {}
    for _ in range(effort.processes + 1):
        for case in cases:
            if case not in errors:
                try:
                    samples[case].append(_run(case.statement))
                except ImportError as error:
                    errors[case] = str(error)
    return [_row(case, samples[case][1:], errors.get(case, "")) for case in cases]


def _row(case: Import, samples: Sequence[tuple[float, list[str]]], note: str) -> Row:
    value, spread, unit = None, None, "ms"
    if samples and case.milliseconds:
        value, spread = middle([1000 * seconds for seconds, _ in samples])
    elif samples:
        loaded = sorted({name for _, names in samples for name in names})
        value, unit, note = float(len(loaded)), "modules", ", ".join(loaded)
    return Row(
        section="import",
        library=case.library,
        what=case.what,
        unit=unit,
        value=value,
        spread=spread,
        target=case.target,
        note=note,
    )


def _cases() -> list[Import]:
    own = [
        Import(library=OURS, what="import holdfast", statement="import holdfast", target=Target(8)),
        Import(library=OURS, what="retry, circuit_breaker, timeout", statement=_DOOR, target=Target(8)),
        Import(library=OURS, what="the same, one function decorated", statement=_DECORATED),
        Import(
            library=OURS,
            what="forbidden modules loaded",
            statement=_DOOR,
            target=Target(0),
            milliseconds=False,
        ),
        Import(library=OURS, what="every policy", statement=_EVERY),
        Import(
            library=OURS,
            what="forbidden modules, every policy",
            statement=_EVERY,
            target=Target(0),
            milliseconds=False,
        ),
    ]
    names = (
        "tenacity",
        "stamina",
        "backoff",
        "pybreaker",
        "circuitbreaker",
        "aiobreaker",
        "purgatory",
        "redress",
        "aiolimiter",
        "limits",
    )
    peers = [Import(library=name, what=f"import {name}", statement=f"import {name}") for name in names]
    hyx = "import hyx.retry, hyx.circuitbreaker"
    return [
        *own,
        *peers,
        Import(library="hyx", what="import hyx.retry, .circuitbreaker", statement=hyx),
        Import(library="pyrate-limiter", what="import pyrate_limiter", statement="import pyrate_limiter"),
    ]


SECTION = Section("import", "Import, beyond a bare interpreter", _cases, _measure)
