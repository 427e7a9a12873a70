"""The project around the library: the workflow, the gates, the cost of an import, what files must not say."""

import ast
import copy
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import holdfast

ROOT = Path(__file__).resolve().parents[3]
TESTS = "backend/tests"

Workflow = dict[str, Any]


def read_workflow() -> Workflow:
    workflow: Workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    return workflow


def files_of_tests() -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / TESTS).rglob("test_*.py")}


def commands(job: Workflow) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def referenced(command: str) -> list[str]:
    return [word for word in command.split() if word.startswith(f"{TESTS}/")]


def chain(jobs: Workflow) -> dict[str, list[str]]:
    folders = sorted(name for name in jobs if name.startswith("integration-"))
    return {
        "lint-and-types": [],
        "contracts": ["lint-and-types"],
        "unit": ["contracts"],
        **{name: ["unit"] for name in folders},
        "coverage": folders or ["unit"],
        "wheel": ["coverage"],
    }


def home(path: str) -> str:
    parts = Path(path).relative_to(TESTS).parts
    return f"integration-{parts[1]}" if parts[0] == "integration" and len(parts) > 2 else "unit"


def faults(workflow: Workflow, files: set[str]) -> Iterator[str]:
    jobs: Workflow = workflow["jobs"]
    needs = {name: sorted(job.get("needs", [])) for name, job in jobs.items()}
    if needs != chain(jobs):
        yield f"the phases form no chain: {needs}"
    calls = [(name, referenced(command)) for name, job in jobs.items() for command in commands(job)]
    seen = {(name, path) for name, paths in calls for path in paths}
    yield from (f"{path} is not run by {home(path)}" for path in files if (home(path), path) not in seen)
    yield from (f"{path} does not exist" for _, path in seen if path not in files)
    yield from (f"{name}: one call for several files" for name, paths in calls if len(paths) > 1)
    for what, said in (("Python versions", versions), ("install commands", installs)):
        if len({json.dumps(said(job)) for job in jobs.values()}) != 1 or not all(map(said, jobs.values())):
            yield f"{what} differ between phases"


def versions(job: Workflow) -> list[str]:
    setups = [step.get("with", {}) for step in job["steps"] if "setup-python" in step.get("uses", "")]
    taken = [setup.get("python-version") for setup in setups] == ["${{ matrix.python }}"]
    return list(job["strategy"]["matrix"]["python"]) if taken else []


def installs(job: Workflow) -> list[str]:
    return [command for command in commands(job) if re.search(r"\b(pip|uv|poetry)\b.*\binstall\b", command)]


def test_the_workflow_runs_every_test_file() -> None:
    """Every test file is run by its phase, the phases form a chain, and all are set up alike."""
    assert sorted(faults(read_workflow(), files_of_tests())) == [], "run `make workflow`"


def forget_a_file(jobs: Workflow) -> None:
    steps = jobs["unit"]["steps"]
    steps.remove(next(step for step in steps if "test_project.py" in step.get("run", "")))


def name_a_missing_file(jobs: Workflow) -> None:
    jobs["unit"]["steps"].append({"run": f"python -m pytest {TESTS}/unit/test_gone.py"})


def call_two_files_at_once(jobs: Workflow) -> None:
    step = next(step for step in jobs["unit"]["steps"] if "test_project.py" in step.get("run", ""))
    step["run"] += f" {TESTS}/unit/test_project.py"


def change_a_version(jobs: Workflow) -> None:
    jobs["wheel"]["strategy"]["matrix"]["python"][0] = "3.10"


def ignore_the_matrix(jobs: Workflow) -> None:
    setup = next(step for step in jobs["unit"]["steps"] if "setup-python" in step.get("uses", ""))
    setup["with"]["python-version"] = "3.12"


def change_an_install_command(jobs: Workflow) -> None:
    step = next(step for step in jobs["contracts"]["steps"] if "install" in step.get("run", ""))
    step["run"] = "python -m pip install -e '.[test]'"


def drop_an_install_command(jobs: Workflow) -> None:
    jobs["contracts"]["steps"] = [s for s in jobs["contracts"]["steps"] if "install" not in s.get("run", "")]


def drop_a_need(jobs: Workflow) -> None:
    del jobs["contracts"]["needs"]


def drop_a_phase(jobs: Workflow) -> None:
    del jobs["coverage"]


@pytest.mark.parametrize(
    ("drift", "said"),
    [
        (forget_a_file, "test_project.py is not run by unit"),
        (name_a_missing_file, "test_gone.py does not exist"),
        (call_two_files_at_once, "one call for several files"),
        (change_a_version, "Python versions differ"),
        (ignore_the_matrix, "Python versions differ"),
        (change_an_install_command, "install commands differ"),
        (drop_an_install_command, "install commands differ"),
        (drop_a_need, "the phases form no chain"),
        (drop_a_phase, "the phases form no chain"),
    ],
)
def test_a_drift_of_the_workflow_is_found(drift: Callable[[Workflow], None], said: str) -> None:
    """Each way in which the workflow can fall behind is reported as just that."""
    drifted = copy.deepcopy(read_workflow())
    drift(drifted["jobs"])
    found = list(faults(drifted, files_of_tests()))
    assert len(found) == 1
    assert said in found[0]


def test_the_workflow_is_as_the_generator_writes_it() -> None:
    """The workflow is changed through its generator, so that neither undoes the other."""
    main = runpy.run_path(str(ROOT / ".ci/workflow.py"))["main"]
    assert main(["--check"]) is None


def test_the_pythons_are_the_same_everywhere() -> None:
    """The workflow and .ci/pythons test the Pythons that the package says it supports."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = re.findall(r"Python :: (3[.]\d+)", " ".join(project["classifiers"]))
    assert project["requires-python"] == f">={told[0]}"
    assert all(versions(job) == told for job in read_workflow()["jobs"].values())
    assert f"in {' '.join(told)};" in (ROOT / ".ci/pythons").read_text(encoding="utf-8")


def gate(folder: Path, *, taken: int, total: int, path: str = "policy.py") -> str | None:
    summary = {"num_branches": total, "covered_branches": taken, "missing_branches": total - taken}
    script = runpy.run_path(str(ROOT / ".ci/branches.py"))
    other = {"num_branches": 1000, "covered_branches": 1000, "missing_branches": 0}
    files = {script["GATED"] + path: {"summary": summary}, "backend/app/holdfast/x.py": {"summary": other}}
    report = folder / "coverage.json"
    report.write_text(json.dumps({"files": files}), encoding="utf-8")
    verdict: str | None = script["main"](report)
    return verdict


def test_the_gate_counts_the_branches_of_the_policies(tmp_path: Path) -> None:
    """95 of 100 branches of the policies pass, 94 do not, whatever other files have."""
    assert gate(tmp_path, taken=95, total=100) is None
    assert "policy.py: 6 not taken" in str(gate(tmp_path, taken=94, total=100))


def test_the_gate_fails_when_nothing_was_measured(tmp_path: Path) -> None:
    """A report without a branch of the policies is a failure, not 100 %."""
    assert "no branch was measured" in str(gate(tmp_path, taken=0, total=0))


COSTLY = {
    *("asyncio", "dataclasses", "inspect", "logging", "random", "re", "typing"),
    *("httpx", "pybreaker", "redis", "tenacity"),
}


@pytest.mark.parametrize(
    "statement", ["import holdfast", "from holdfast import retry, circuit_breaker, timeout"]
)
def test_an_import_is_cheap(statement: str) -> None:
    """The three decorators load no costly module of the standard library and no other package."""
    path = str(Path(holdfast.__file__).parents[1])
    program = f"import sys; sys.path.insert(0, {path!r}); {statement}; print(*sys.modules)"
    bare = [sys.executable, "-I", "-S", "-c", program]
    loaded = subprocess.run(bare, check=True, capture_output=True, text=True).stdout.split()
    assert "holdfast" in loaded
    assert COSTLY & set(loaded) == set()


def project_files() -> Iterator[Path]:
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name in {".ci", ".github"}
            or not (name.startswith(".") or name in {"__pycache__", "build", "dist", "htmlcov"})
        ]
        yield from (Path(folder, name) for name in names if not name.startswith(".coverage"))


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("a path of one machine", r"(?<![\w}])/(?:root|work)/|/(?:home|Users)/\w|[.]pyenv/"),
        ("a package registry", r"\bpypi[.]org|pythonhosted[.]|npmjs[.]|debian[.]org|index[-]url"),
        ("a mock instead of a fake", r"unittest[.]mock|(?:Magic|Async)Mock"),
    ],
)
def test_no_file_says(what: str, pattern: str) -> None:
    """The files of the project name no machine, no registry and no mock."""
    said = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in project_files()
        for match in re.finditer(pattern, path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert said == [], what


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_every_test_states_its_rule() -> None:
    """The docstring of a test says in a sentence which rule it is about."""
    silent = [
        f"{path}: {function.name}"
        for path in sorted(files_of_tests())
        for function in functions(ROOT / path)
        if function.name.startswith("test_") and not (ast.get_docstring(function) or "").endswith(".")
    ]
    assert silent == []


def test_randomly_is_accepted() -> None:
    """`--randomly` reads as it means: random order, which is the default."""
    command = [sys.executable, "-m", "pytest", "--randomly", "--collect-only", "-q", __file__]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
