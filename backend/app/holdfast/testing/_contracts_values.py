"""Comparison of annotations, values and decorators between a contract and its code."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TypeGuard

from holdfast.testing._contracts_names import Canonical, qualified
from holdfast.testing._contracts_surface import Class, Variable, scope
from holdfast.testing._contracts_tree import Module, Tree, head, is_private

EITHER = "change whichever is wrong; the contract comes first"
WRITE_OUT = "write the literal out in the contract"
_NOTHING = object()
_DEEPEST = 9


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing on which a contract and its code disagree."""

    what: str
    contract: str
    code: str
    remedy: str = EITHER


@dataclass(frozen=True, slots=True)
class Side:
    """An expression's surroundings: the tree and the module that it is written in."""

    tree: Tree
    home: Module

    def canonical(self, expression: ast.expr, *, annotation: bool = False) -> str:
        """Return the text in which equal meaning is equal."""
        return Canonical(self.tree, self.home, annotation=annotation).text(expression)

    def literal(self, expression: ast.expr, depth: int = 0) -> object:
        """Return the value of a literal, or of a constant that names one; `_NOTHING` for anything else."""
        try:
            return ast.literal_eval(expression)
        except ValueError:
            item = self._constant(expression)
            return self.literal(item, depth + 1) if item is not None and depth < _DEEPEST else _NOTHING

    def find_class(self, expression: ast.expr) -> Class | None:
        """Return the class of the package that an expression names."""
        found = self.tree.locate(qualified(head(expression), self.home))
        item = found and scope(found[0]).get(found[1])
        return item if isinstance(item, Class) else None

    def _constant(self, expression: ast.expr) -> ast.expr | None:
        name = (
            qualified(head(expression), self.home) if isinstance(expression, ast.Name | ast.Attribute) else ""
        )
        found = self.tree.locate(name)
        item = found and scope(found[0]).get(found[1])
        return item.value if isinstance(item, Variable) else None


def show(expression: ast.expr | None) -> str:
    """Return an expression as people read it."""
    return "nothing" if expression is None else ast.unparse(expression)


def compare_annotations(
    what: str, ours: Side, contract: ast.expr | None, theirs: Side, code: ast.expr | None
) -> list[Difference]:
    """Compare two annotations; both or none must be there."""
    left = contract and ours.canonical(contract, annotation=True)
    right = code and theirs.canonical(code, annotation=True)
    if left == right:
        return []
    shown = show(contract), show(code)
    return [Difference(what, *(shown if shown[0] != shown[1] else (str(left), str(right))))]


def compare_values(
    what: str, ours: Side, contract: ast.expr | None, theirs: Side, code: ast.expr | None
) -> list[Difference]:
    """Compare two defaults: a literal must be written out in the contract, all else may be `...` there."""
    remedy = _value_remedy(ours, contract, theirs, code)
    return [Difference(what, show(contract), show(code), remedy)] if remedy else []


def _value_remedy(ours: Side, contract: ast.expr | None, theirs: Side, code: ast.expr | None) -> str:
    if contract is None or code is None:
        return "" if contract is code else EITHER
    if is_ellipsis(contract):
        return WRITE_OUT if is_literal(code) else ""
    left, right = ours.literal(contract), theirs.literal(code)
    if left is not _NOTHING and right is not _NOTHING:
        return "" if repr(left) == repr(right) else EITHER
    same = ours.canonical(contract) == theirs.canonical(code)
    return "" if same else EITHER


def is_ellipsis(expression: ast.expr | None) -> bool:
    """Tell whether an expression is `...`."""
    return isinstance(expression, ast.Constant) and expression.value is ...


def is_literal(expression: ast.expr | None) -> TypeGuard[ast.expr]:
    """Tell whether a contract must write a value out: a literal that is not a text of several lines."""
    if expression is None or is_ellipsis(expression):
        return False
    try:
        value = ast.literal_eval(expression)
    except ValueError:
        return False
    return not (isinstance(value, str) and "\n" in value)


def compare_decorators(
    ours: Side, contract: list[ast.expr], theirs: Side, code: list[ast.expr]
) -> list[Difference]:
    """Compare decorators in any order; `overload` and private ones are left to other rules."""
    return compare_texts("decorators", _decorators(ours, contract), _decorators(theirs, code))


def compare_texts(what: str, contract: list[str], code: list[str]) -> list[Difference]:
    """Compare two lists of canonical texts."""
    if contract == code:
        return []
    return [Difference(what, ", ".join(contract) or "none", ", ".join(code) or "none")]


def _decorators(side: Side, expressions: list[ast.expr]) -> list[str]:
    texts = [side.canonical(expression).removesuffix("()") for expression in expressions]
    names = [qualified(head(expression), side.home) for expression in expressions]
    ignored = [is_private(name) or name in ("typing.overload", "typing.type_check_only") for name in names]
    return sorted(text for text, ignore in zip(texts, ignored, strict=True) if not ignore)
