"""The docstrings of contracts: every public name has one, of at most six lines."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

from holdfast.testing._contracts_classes import Classes
from holdfast.testing._contracts_surface import Class, Function, Item, scope
from holdfast.testing._contracts_tree import Drift, Module, is_dunder, is_private

MOST_LINES = 6
_ENTRY = re.compile(r"`?\*?(\w+)`?\*?(?: \(.*?\))?(?::| -| –)")


def docstring_drifts(contract: Module, classes: Classes) -> Iterator[Drift]:
    """Yield what is wrong with the docstrings of a contract."""
    yield from _judge(contract, contract.name, 1, ast.get_docstring(contract.tree))
    yield from _items(contract, "", scope(contract), {}, classes)


def _items(
    contract: Module, prefix: str, items: dict[str, Item], documented: dict[str, Item], classes: Classes
) -> Iterator[Drift]:
    for name, item in items.items():
        if is_private(name) or is_dunder(name) or "." in name:
            continue
        if isinstance(item, Function) and not (
            _document(item) is None and _has_docstring(documented.get(name))
        ):
            yield from _judge(contract, prefix + name, item.line, _document(item))
        if isinstance(item, Class):
            members = classes.members(item)
            yield from _judge(contract, prefix + name, item.line, ast.get_docstring(item.node), names=members)
            yield from _items(contract, f"{prefix}{name}.", members, classes.inherited(item), classes)


def _document(item: Function) -> str | None:
    nodes = item.overloads + ([item.body] if item.body else [])
    return next((text for text in (ast.get_docstring(node) for node in nodes) if text), None)


def _has_docstring(item: Item | None) -> bool:
    return isinstance(item, Function) and _document(item) is not None


def _judge(
    contract: Module, name: str, line: int, text: str | None, names: dict[str, Item] | None = None
) -> Iterator[Drift]:
    length = len(_counted(text or "", names or {}))
    if text and length <= MOST_LINES:
        return
    yield Drift(
        check="text",
        file=contract.label,
        line=line,
        name=name,
        contract=f"docstring: {length} lines" if text else "docstring: there is none",
        code=f"every public name has a docstring of one to {MOST_LINES} lines",
        remedy="shorten it to what callers must know" if text else "say in one sentence what it promises",
    )


def _counted(text: str, names: dict[str, Item]) -> list[str]:
    """Return the lines that count: not the blank ones, and not those that list a class's attributes."""
    counted: list[str] = []
    depth: int | None = None
    for line in inspect.cleandoc(text).splitlines():
        indent = len(line) - len(line.lstrip())
        entry = _ENTRY.match(line.lstrip())
        if depth is not None and indent > depth:
            continue
        depth = indent if entry and entry[1] in names else None
        if line.strip() and depth is None and line.strip() not in ("Attributes:", "Fields:"):
            counted.append(line)
    return counted
