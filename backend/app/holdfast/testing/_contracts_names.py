"""The one spelling in which names and types of a contract and its code are compared."""

from __future__ import annotations

import ast
import collections.abc
import contextlib
import copy
from collections.abc import Iterator
from functools import reduce

from holdfast.testing._contracts_surface import Item, Variable, scope
from holdfast.testing._contracts_tree import PACKAGE, Module, Tree, head

_BUILTIN = {name: name.lower() for name in ("List", "Dict", "Set", "FrozenSet", "Tuple", "Type")} | {
    "Text": "str"
}
_MANAGERS = {"ContextManager": "AbstractContextManager", "AsyncContextManager": "AbstractAsyncContextManager"}
_TYPE_VARIABLES = ("typing.ParamSpec", "typing.TypeVar", "typing.TypeVarTuple")
_DEEPEST = 9


def qualified(dotted: str, home: Module) -> str:
    """Return where a name written in `home` comes from, in the one spelling of the standard library."""
    first, _, rest = dotted.partition(".")
    if first in home.imports:
        first = home.imports[first]
    elif first in scope(home):
        first = f"{home.name}.{first}"
    return _standard(f"{first}.{rest}" if rest else first)


def _standard(dotted: str) -> str:
    module, _, name = dotted.rpartition(".")
    if module not in ("typing", "typing_extensions", "builtins"):
        return dotted
    if module == "builtins" or name in _BUILTIN:
        return _BUILTIN.get(name, name)
    if name in _MANAGERS or name in _MANAGERS.values():
        return f"contextlib.{_MANAGERS.get(name, name)}"
    return f"collections.abc.{name}" if hasattr(collections.abc, name) else f"typing.{name}"


class Canonical(ast.NodeTransformer):
    """Rewrite expressions of one module so that equal meaning gives equal text.

    Names become qualified (those of the package by their last part), private aliases are expanded, quotes go,
    `Optional` and `Union` become `|` with sorted members, and type variables lose their underscore.
    """

    def __init__(self, tree: Tree, home: Module, *, annotation: bool = False, depth: int = 0) -> None:
        self._tree = tree
        self._home = home
        self._annotation = annotation
        self._depth = depth

    def text(self, expression: ast.expr) -> str:
        """Return the canonical text of an expression."""
        return ast.unparse(self.node(expression))

    def node(self, expression: ast.expr) -> ast.expr:
        """Return the canonical form of an expression, which is left as it is."""
        rewritten: ast.expr = self.visit(copy.deepcopy(expression))
        return rewritten

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Qualify, or expand a private alias."""
        return self._named(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """Qualify the name of a module's member as a whole, or else what the attribute belongs to."""
        dotted = head(node)
        if dotted.partition(".")[0] in self._home.imports:
            owner = qualified(dotted, self._home).rpartition(".")[0]
            if owner.partition(".")[0] != PACKAGE or self._tree.module(owner):
                return self._named(dotted)
        node.value = self.visit(node.value)
        return node

    def _named(self, dotted: str) -> ast.expr:
        name = qualified(dotted, self._home)
        if name.partition(".")[0] != PACKAGE:
            return ast.Name(name)
        last = name.rpartition(".")[2]
        found = self._tree.locate(name)
        item = found and scope(found[0]).get(found[1])
        if isinstance(item, Variable) and item.value:
            if is_type_variable(item):
                return ast.Name("~" + last.lstrip("_"))
            if last.startswith("_") and self._depth < _DEEPEST:
                deeper = Canonical(self._tree, item.home, annotation=self._annotation, depth=self._depth + 1)
                return deeper.node(item.value)
        return ast.Name(f"{PACKAGE}.{last}")

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        """Read quoted annotations."""
        if self._annotation and isinstance(node.value, str):
            with contextlib.suppress(SyntaxError):
                inner: ast.expr = self.visit(ast.parse(node.value, mode="eval").body)
                return inner
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """Write `Optional` and `Union` as `|`; leave the values of `Literal` alone."""
        name = qualified(head(node.value), self._home)
        node.value = self.visit(node.value)
        if name == "typing.Literal":
            return node
        if name == "typing.Annotated" and isinstance(node.slice, ast.Tuple):
            node.slice.elts[0] = self.visit(node.slice.elts[0])
            return node
        node.slice = self.visit(node.slice)
        if name == "typing.Optional":
            return _union([node.slice, ast.Constant(None)])
        if name == "typing.Union":
            return _union(node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice])
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """Sort the members of a union."""
        node.left, node.right = self.visit(node.left), self.visit(node.right)
        return _union([node]) if self._annotation and isinstance(node.op, ast.BitOr) else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Sort keywords; their order means nothing."""
        self.generic_visit(node)
        node.keywords.sort(key=lambda keyword: keyword.arg or "")
        return node


def is_type_variable(item: Item) -> bool:
    """Tell whether a name is a TypeVar, ParamSpec or TypeVarTuple."""
    if not isinstance(item, Variable) or not isinstance(item.value, ast.Call):
        return False
    return qualified(head(item.value), item.home) in _TYPE_VARIABLES


def _union(members: list[ast.expr]) -> ast.expr:
    distinct = {ast.unparse(one): one for member in members for one in _flat(member)}
    ordered = [distinct[text] for text in sorted(distinct)]
    return reduce(lambda left, right: ast.BinOp(left, ast.BitOr(), right), ordered)


def _flat(member: ast.expr) -> Iterator[ast.expr]:
    match member:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            yield from _flat(left)
            yield from _flat(right)
        case _:
            yield member
