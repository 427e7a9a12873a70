"""The stubtest check: what contracts say is so at run time, by mypy's stubtest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from holdfast.testing._contracts_classes import Classes
from holdfast.testing._contracts_stage import (
    PROBE,
    no_answer,
    no_contracts,
    real_file,
    run_python,
    staged,
    unread,
)
from holdfast.testing._contracts_surface import Class
from holdfast.testing._contracts_tree import PACKAGE, Drift, Tree, is_private, trees

_TOOL = "mypy.stubtest"
_BUILD = re.compile(
    r"^(?P<file>.+?\.pyi?):(?P<line>\d+): error: (?P<message>.*?)(?:  \[(?P<code>[\w-]+)\])?$", re.MULTILINE
)
_FOUND = re.compile(
    rf"^error: (?P<dotted>{PACKAGE}[\w.]*) (?P<message>.*?)\n"
    r"Stub:[^\n]*?(?::(?P<line>\d+))?\n(?P<contract>.*?)\nRuntime:[^\n]*\n(?P<code>.*?)$",
    re.MULTILINE | re.DOTALL,
)


def check_stubtest(root: Path) -> list[Drift]:
    """Return what stubtest reports, and every contract that it did not read."""
    contracts, code = trees(root)
    if not contracts.paths:
        return [no_contracts("stubtest", contracts)]
    with staged(contracts, export=False) as stage:
        # Disjoint bases follow from `__slots__`, which contracts do not show.
        command = ["-m", _TOOL, "--ignore-disjoint-bases", PACKAGE]
        done = run_python(command, stage.parent, MYPYPATH=str(stage), PYTHONPATH=str(code.folder.parent))
        drifts = [*_refused(done.stdout, stage, contracts)] or [*_findings(done.stdout, contracts)]
    return drifts or ([no_answer("stubtest", _TOOL, done)] if PROBE not in done.stdout else [])


def _refused(output: str, stage: Path, contracts: Tree) -> Iterator[Drift]:
    for found in _BUILD.finditer(output) if "not checking stubs due to" in output else ():
        yield Drift(
            check="stubtest",
            file=real_file(found["file"], stage.parent, stage, contracts),
            line=int(found["line"]),
            name=found["code"] or "contract",
            contract=found["message"],
            code="not compared",
            remedy="correct the contract; stubtest checks nothing before",
        )


def _findings(output: str, contracts: Tree) -> Iterator[Drift]:
    found = [*_FOUND.finditer(output)]
    read = {one["dotted"].removesuffix(f".{PROBE}") for one in found if _is_proof(one)}
    if read:
        yield from (
            unread("stubtest", _TOOL, contracts, name) for name in contracts.paths if name not in read
        )
    for one in found:
        module = _module(one["dotted"], contracts)
        if not _is_expected(one["dotted"], module, contracts):
            yield _finding(one, module, contracts)


def _is_proof(found: re.Match[str]) -> bool:
    """Tell whether a finding shows that stubtest read a contract: it missed the probe, or found no code."""
    return found["dotted"].endswith(f".{PROBE}") or found["message"].startswith("failed to import")


def _module(dotted: str, contracts: Tree) -> str:
    while dotted not in contracts.paths and "." in dotted:
        dotted = dotted.rpartition(".")[0]
    return dotted


def _is_expected(dotted: str, module: str, contracts: Tree) -> bool:
    """Tell whether a finding says nothing about the contract.

    Slots are an implementation detail, private modules need no contract, and `enum` adds a `__new__` of its
    own (a written one is compared by the text check).
    """
    owner, _, name = dotted.removeprefix(module).lstrip(".").rpartition(".")
    if name == "__new__":
        item = Classes(contracts).find(f"{module}.{owner}")
        return isinstance(item, Class) and name not in Classes(contracts).members(item)
    if dotted not in contracts.paths and is_private(dotted.replace("__main__", "_")):
        return module == PACKAGE or is_private(owner)
    return name in (PROBE, "TYPE_CHECKING", "__slots__")


def _finding(found: re.Match[str], module: str, contracts: Tree) -> Drift:
    return Drift(
        check="stubtest",
        file=contracts.label(module) if module in contracts.paths else found["dotted"],
        line=int(found["line"] or 0),
        name=found["dotted"].removeprefix(module).lstrip(".") or module,
        contract=f"{_side(found['contract'])}: {_line(found['message'])}",
        code=_side(found["code"]),
        remedy="change whichever is wrong; the contract comes first",
    )


def _side(text: str) -> str:
    """Return what stubtest shows of one side, without its own words for a module and for nothing."""
    return "a module" if text.startswith("MypyFile:") else _line(text).replace("MISSING", "nothing")


def _line(text: str) -> str:
    return " ".join(text.split())
