"""Write .github/workflows/test.yml, a chain of phases that runs every test file; `--check` only compares."""

import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = ROOT / ".github/workflows/test.yml"
TESTS = "backend/tests"
PYTHONS = ("3.11", "3.12", "3.13")
INSTALL = "python -m pip install -e '.[dev]'"

HEAD = """\
# Written by `make workflow`; change .ci/workflow.py instead.
name: test

on:
  push:
  pull_request:

permissions:
  contents: read

jobs:
"""
JOB = """\
  {name}:
    needs: [{needs}]
    runs-on: ubuntu-latest
{env}    strategy:
      fail-fast: false
      matrix:
        python: [{pythons}]
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: ${{{{ matrix.python }}}}
      - run: {install}
{steps}
"""
SERVICES = "sudo bash .ci/services"
REQUIRED = """\
    env:
      HOLDFAST_REQUIRE_SERVICES: '1'
"""
SEPARATE = "\n        if: ${{ !cancelled() }}"


def tests() -> dict[str, list[str]]:
    """Return the test files by phase: one phase for each integration folder, `unit` for all others."""
    phases: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / TESTS).rglob("test_*.py")):
        parts = path.relative_to(ROOT / TESTS).parts
        phase = f"integration-{parts[1]}" if parts[0] == "integration" and len(parts) > 2 else "unit"
        phases[phase].append(path.relative_to(ROOT).as_posix())
    return phases


def job(
    name: str, needs: list[str], commands: list[str], *, services: bool = False, separate: bool = False
) -> str:
    """Return the text of one job; `separate` commands run though one before them failed."""
    steps = [f"      - run: {SERVICES}"] if services else []
    steps += [f"      - run: {command}{SEPARATE if separate else ''}" for command in commands]
    text = JOB.format(
        name=name,
        needs=", ".join(needs),
        env=REQUIRED if services else "",
        pythons=", ".join(f"'{version}'" for version in PYTHONS),
        install=INSTALL,
        steps="\n".join(steps),
    )
    return text if needs else text.replace("    needs: []\n", "")


def workflow() -> str:
    """Return the text of the workflow for the test files there are now."""
    phases = tests()
    folders = sorted(phases.keys() - {"unit"})

    def calls(phase: str) -> list[str]:
        return [f"python -m pytest {path} -v --tb=short" for path in phases[phase]]

    checks = ["ruff check", "ruff format --check", "mypy", "pyright", "lint-imports --no-logo"]
    gate = [
        "python -m pytest --cov=holdfast --cov-report=term-missing:skip-covered",
        "python -m coverage json --quiet -o build/coverage.json",
        "python .ci/branches.py build/coverage.json",
    ]
    wheel = ["python -m build --wheel --outdir build/wheel", "python .ci/wheel.py build/wheel"]
    return HEAD + "\n".join(
        [
            job("lint-and-types", [], checks),
            job("contracts", ["lint-and-types"], ["python -m holdfast.testing.contracts"]),
            job("unit", ["contracts"], calls("unit"), separate=True),
            *(job(name, ["unit"], calls(name), services=True, separate=True) for name in folders),
            job("coverage", folders or ["unit"], gate, services=True),
            job("wheel", ["coverage"], wheel),
        ]
    )


def main(arguments: list[str]) -> str | None:
    """Write the workflow, or say that it is out of date."""
    text = workflow()
    if "--check" not in arguments:
        WORKFLOW.write_text(text, encoding="utf-8")
        return None
    same = WORKFLOW.exists() and WORKFLOW.read_text(encoding="utf-8") == text
    return None if same else f"{WORKFLOW.relative_to(ROOT)} is out of date: run `make workflow`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
