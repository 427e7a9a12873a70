"""Benchmarks × stores: each can be run by anybody, says what it says it says, and leaves nothing behind."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.infrastructure.store.sql import tenants

ROOT = Path(__file__).resolve().parents[4]

engine: Any = importlib.import_module("benchmarks.jobs_engine")

both = pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])


def run(module: str, *arguments: str) -> list[list[str]]:
    """Run a benchmark and return the words of its lines."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--quick", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


@both
def test_the_engine_has_a_line_for_each_way(kind: str, stores_database: str) -> None:
    """Each way has rows a second of the engine and of the bare loop, and a share; PostgreSQL has fleets besides."""
    before = tenants(stores_database)
    said = run("jobs_engine", "--only", kind, "--postgres", stores_database)
    lines = [" ".join(line) for line in said if line[:1] == [kind]]
    assert [way.name for way in engine.WAYS if not any(way.name in line for line in lines)] == []
    fleets = [line for line in said if " ".join(line[:4]) in {way.name for way in engine.FLEETS}]
    assert len(fleets) == (len(engine.FLEETS) if kind == "PostgreSQL" else 0)
    assert tenants(stores_database) == before


@both
def test_a_file_is_submitted_and_executed(kind: str, stores_database: str) -> None:
    """A line for a thousand rows, what a row of each tenth cost, and nothing that is read whole."""
    before = tenants(stores_database)
    said = run("jobs_million", "--store", kind.lower(), "--postgres", stores_database)
    assert [line[0] for line in said if len(line) == 8 and line[0].isdigit()] == ["1000"]
    assert [len(line) for line in said if line[:4] == ["µs", "a", "row,", "by"]] == [15]
    (plans,) = (line for line in said if line[:2] == ["plans", "of"])
    assert plans[5:7] == ["statements,", "0"]
    assert tenants(stores_database) == before


def test_peers_are_measured_beside_each_other(postgres_server: str) -> None:
    """Our own lines, which need no other product, have rows a second, executed and submitted, and what they cost."""
    said = run("jobs_peers", "--only", "holdfast", "--postgres", postgres_server)
    lines = [line for line in said if line[:1] == ["holdfast"] and line[1:2] != ["0.1.0,"]]
    assert [float(line[3]) > 0 and float(line[4]) > 0 for line in lines if line[2] in {"each", "group"}] == [
        True
    ] * 3


def test_two_processes_are_measured_beside_one(stores_database: str) -> None:
    """A line for the engine, with steps a second of one process and of two, and nothing that is left of the jobs."""
    before = tenants(stores_database)
    said = run("jobs_fleet", "--only", "procrastinate", "--postgres", stores_database)
    [line] = [line for line in said if line[:1] == ["procrastinate"]]
    assert all(float(figure.rstrip("*")) > 0 for figure in line[1:])
    assert len(line) == 4
    assert tenants(stores_database) == before
