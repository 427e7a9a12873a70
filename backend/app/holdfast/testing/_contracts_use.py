"""The use check: tests and examples type-check, strict, against the contracts alone."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.testing._contracts_mypy import PROBES, run_mypy
from holdfast.testing._contracts_stage import no_answer, no_contracts, real_file, staged, unread
from holdfast.testing._contracts_tree import PACKAGE, Drift, Tree, is_private, trees

USERS = (Path("backend", "tests"), Path("examples"))
# Tests of what no contract shows: to them a private module is a module of unknown types.
INSIDERS = (Path("backend", "tests", "unit"), Path("backend", "tests", "properties"))
_IMPORT = re.compile(rf"^\s*(?:from|import) {PACKAGE}\b", re.MULTILINE)
_BLOCKED = 2


def check_use(root: Path) -> list[Drift]:
    """Return the type errors of tests and examples, and every contract that mypy did not read."""
    contracts, code = trees(root)
    if not contracts.paths:
        return [no_contracts("use", contracts)]
    top = contracts.root
    users = [path for folder in USERS for path in sorted((top / folder).rglob("*.py"))]
    used = any(_IMPORT.search(path.read_text(encoding="utf-8")) for path in users)
    outsiders = [path for path in users if not any(path.is_relative_to(top / folder) for folder in INSIDERS)]
    with staged(contracts, export=True) as stage:
        done = run_mypy(contracts, code, stage, [path.relative_to(top).as_posix() for path in users])
        return [
            *_findings(done, contracts, stage),
            *(drift for path in (*contracts.paths.values(), *outsiders) for drift in _intrusions(path, code)),
            *([] if used else [_unused()]),
        ]


def _findings(done: subprocess.CompletedProcess[str], contracts: Tree, stage: Path) -> Iterator[Drift]:
    messages: list[dict[str, Any]] = [
        json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")
    ]
    errors = [_error(one, stage, contracts) for one in messages if one["severity"] == "error"]
    yield from errors
    if done.returncode < _BLOCKED:
        yield from (unread("use", "mypy", contracts, name) for name in _unread(messages, contracts))
    elif not errors:
        yield no_answer("use", "mypy", done)


def _unread(messages: list[dict[str, Any]], contracts: Tree) -> list[str]:
    revealed = {
        one["line"] // 2 - 1
        for one in messages
        if Path(one["file"]).name == PROBES and one["message"].endswith('type is "int"')
    }
    return [name for n, name in enumerate(contracts.paths) if n not in revealed]


def _error(message: dict[str, Any], stage: Path, contracts: Tree) -> Drift:
    file, line = real_file(message["file"], contracts.root, stage, contracts), message["line"]
    said = " ".join(f"{message['message']} {message['hint'] or ''}".split())
    return Drift(
        check="use",
        file=file,
        line=line,
        name=message["code"] or "mypy",
        contract=said,
        code=_source(contracts.root / file, line),
        remedy="use what the contract offers, or have the contract offer it",
    )


def _source(path: Path, line: int) -> str:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return lines[line - 1].strip() if 0 < line <= len(lines) else "not shown"


def _unused() -> Drift:
    return Drift(
        check="use",
        file=" ".join(folder.as_posix() for folder in USERS),
        name=PACKAGE,
        contract="is there to be used",
        code=f"no test and no example imports {PACKAGE}",
        remedy="write tests and examples, or correct the root",
    )


def _intrusions(path: Path, code: Tree) -> Iterator[Drift]:
    """Yield the imports of private modules in a file that must do without; mypy reports what cannot be parsed."""
    text = path.read_text(encoding="utf-8")
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        for name in _imported(node):
            if name in code.paths and is_private(name):
                yield Drift(
                    check="use",
                    file=path.relative_to(code.root).as_posix(),
                    line=node.lineno if isinstance(node, ast.stmt) else 0,
                    name=name,
                    contract="there is none for a private module",
                    code=ast.unparse(node),
                    remedy=f"use what contracts offer, or move a test of internals to {INSIDERS[0].as_posix()}",
                )


def _imported(node: ast.AST) -> set[str]:
    match node:
        case ast.Import(names=names):
            return {alias.name for alias in names}
        case ast.ImportFrom(module=str(module), names=names, level=0):
            return {module, *(f"{module}.{alias.name}" for alias in names)}
        case _:
            return set()
