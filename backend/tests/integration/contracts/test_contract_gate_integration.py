"""The gate itself: this project passes it, and its command says what it found."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.tests.integration.contracts.conftest import Project
from holdfast.testing.contracts import (
    Drift,
    TreeNotFoundError,
    check_mirror,
    check_stubtest,
    check_text,
    check_use,
    drifts,
    find_root,
    main,
)

pytestmark = [pytest.mark.one_python, pytest.mark.no_cover]

ROOT = Path(__file__).resolve().parents[4]
RETRY, RETRY_CODE = "backend/contracts/policies/retry.pyi", "backend/app/holdfast/policies/retry.py"


@pytest.mark.parametrize("check", [check_mirror, check_text])
def test_this_project_agrees_with_its_contracts(check: Callable[[Path], list[Drift]]) -> None:
    """Every public module has its contract, and both say the same."""
    assert [str(drift) for drift in check(ROOT)] == []


@pytest.mark.usefixtures("mypy")
@pytest.mark.parametrize("check", [check_stubtest, check_use])
def test_this_project_agrees_with_its_contracts_under_mypy(check: Callable[[Path], list[Drift]]) -> None:
    """The code does what the contracts say, and tests and examples need nothing else."""
    assert [str(drift) for drift in check(ROOT)] == []


@pytest.mark.usefixtures("mypy")
def test_the_command_counts_what_it_compared(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """When all agree the command says so in one line and ends with 0."""
    assert main(["--root", str(project.root)]) == 0
    assert capsys.readouterr().out == "5 contracts, drifts: mirror 0, text 0, stubtest 0, use 0\n"


def test_the_command_shows_every_drift(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """Each drift is shown with its place, both sides and the remedy, and the command ends with 1."""
    project.replace(RETRY_CODE, "left(self, error:", "left(self, fault:")
    project.remove("backend/contracts/policies/errors.pyi")
    assert main(["--root", str(project.root), "--only", "mirror,text"]) == 1
    said = capsys.readouterr().out
    assert "mirror: backend/app/holdfast/policies/errors.py: holdfast.policies.errors\n" in said
    line = (project.root / RETRY).read_text(encoding="utf-8").splitlines().index(
        "    def left(self, error: Errors | None = None) -> Iterator[int]:"
    ) + 1  # fmt: skip
    assert f"text: {RETRY}:{line}: Retry.left\n  contract: parameters: (self, error: " in said
    assert f"\n  code:     parameters: (self, fault: states.Errors | None=None) (in {RETRY_CODE}:" in said
    assert said.count("\n  remedy:   ") == 2
    assert said.endswith("4 contracts, drifts: mirror 1, text 1\n")


def test_only_the_checks_asked_for_are_made(project: Project) -> None:
    """A drift that another check would find does not matter to the one that was asked for."""
    project.replace(RETRY_CODE, "left(self, error:", "left(self, fault:")
    assert drifts(project.root, ["mirror"]) == []
    assert [drift.check for drift in drifts(project.root, ["text", "mirror"])] == ["text"]


def test_the_root_is_the_nearest_folder_with_both_trees(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `--root` the command works from any folder of the project."""
    inside = project.root / "backend/contracts/policies"
    monkeypatch.chdir(inside)
    assert find_root(inside) == project.root
    assert main(["--only", "mirror"]) == 0


@pytest.mark.usefixtures("mypy")
def test_the_root_may_be_a_relative_path(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that run elsewhere find both trees all the same."""
    monkeypatch.chdir(project.root / "backend")
    assert drifts(Path("..")) == []


def test_the_command_refuses_a_folder_without_the_trees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is nothing to compare the command says what is missing and ends with 2."""
    assert main(["--root", str(tmp_path)]) == 2
    assert f"no backend/app/holdfast and no backend/contracts in {tmp_path}" in capsys.readouterr().err
    with pytest.raises(TreeNotFoundError, match="give the project's root with --root"):
        drifts(tmp_path)
    with pytest.raises(TreeNotFoundError, match="or above"):
        find_root(tmp_path)


def test_the_command_refuses_an_unknown_check(capsys: pytest.CaptureFixture[str]) -> None:
    """A check that there is not is a usage error, and the ones that there are are named."""
    with pytest.raises(SystemExit) as ended:
        main(["--only", "text,spelling"])
    assert ended.value.code == 2
    assert "no check is called spelling; there are mirror, text, stubtest, use" in capsys.readouterr().err


def test_the_command_says_when_mypy_is_missing(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without mypy two checks cannot be made: the command says how to get it and ends with 2."""
    monkeypatch.setitem(sys.modules, "mypy", None)
    assert main(["--root", str(project.root)]) == 2
    assert "mypy is missing: install holdfast[dev]" in capsys.readouterr().err
    assert main(["--root", str(project.root), "--only", "mirror,text"]) == 0


def test_the_module_is_a_command(project: Project) -> None:
    """`python -m holdfast.testing.contracts` passes the exit code on."""
    command = [sys.executable, "-m", "holdfast.testing.contracts", "--only", "text"]
    assert subprocess.run(command, cwd=project.root, check=False).returncode == 0
    project.replace(RETRY_CODE, "left(self, error:", "left(self, fault:")
    assert subprocess.run(command, cwd=project.root, check=False, capture_output=True).returncode == 1
