"""What a module declares."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from holdfast.testing._contracts_tree import Module, head, live

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(slots=True)
class Function:
    """A function or method: its overloads, and the definition that is called."""

    home: Module
    line: int
    overloads: list[FunctionNode] = field(default_factory=list[FunctionNode])
    body: FunctionNode | None = None

    def first(self) -> FunctionNode:
        """Return the definition that stands for all of them."""
        return self.body or self.overloads[0]


@dataclass(slots=True)
class Variable:
    """A constant, attribute, field, enum member or alias."""

    home: Module
    line: int
    annotation: ast.expr | None = None
    value: ast.expr | None = None
    slot: bool = False


@dataclass(slots=True)
class Class:
    """A class statement."""

    home: Module
    line: int
    node: ast.ClassDef

    def is_enum(self) -> bool:
        """Tell whether the members of the class are its instances."""
        return any(head(base).endswith(("Enum", "Flag")) for base in self.node.bases)


@dataclass(slots=True)
class ReExport:
    """A public name that comes from elsewhere."""

    home: Module
    line: int
    target: str


Item = Function | Variable | Class | ReExport


def module_items(module: Module) -> dict[str, Item]:
    """Return what a module offers by name: what it defines, and what it re-exports."""
    items = dict(scope(module))
    for name, target, line in _reexports(module):
        items[name] = ReExport(module, line, target)
    return items


def _reexports(module: Module) -> Iterator[tuple[str, str, int]]:
    listed = _listed(module)
    for statement in live(module.tree.body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                name = alias.asname or alias.name
                if alias.asname == alias.name or name in listed:
                    yield name, module.imports[name], statement.lineno
    for name, target in module.exports.items():
        yield name, target, 1


def _listed(module: Module) -> list[str]:
    with contextlib.suppress(ValueError):
        return module.names_of_all() or []
    return []


@lru_cache(maxsize=1000)
def scope(module: Module) -> dict[str, Item]:
    """Return what a module defines by name, imports aside."""
    return declared(module.tree.body, module)


def declared(statements: list[ast.stmt], home: Module) -> dict[str, Item]:
    """Return what the statements of a module or class define by name."""
    items: dict[str, Item] = {}
    for statement in live(statements):
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                _add_function(items, statement, home)
            case ast.ClassDef(name=name):
                items.setdefault(name, Class(home, statement.lineno, statement))
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                _add_variable(items, name, Variable(home, statement.lineno, annotation, value))
            case ast.Assign(targets=targets, value=value):
                for name, given in (pair for target in targets for pair in _unpacked(target, value)):
                    _add_variable(items, name, Variable(home, statement.lineno, None, given))
            case _:
                pass
    return items


def _unpacked(target: ast.expr, value: ast.expr | None) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield the names that an assignment gives a value, with the value if it can be told."""
    match target, value:
        case ast.Name(id=name), _:
            yield name, value
        case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
            for one, given in zip(targets, values, strict=True):
                yield from _unpacked(one, given)
        case ast.Tuple(elts=targets) | ast.List(elts=targets), _:
            for one in targets:
                yield from _unpacked(one, None)
        case _:
            pass


def _add_variable(items: dict[str, Item], name: str, variable: Variable) -> None:
    known = items.setdefault(name, variable)
    if isinstance(known, Variable):
        known.annotation = known.annotation or variable.annotation
        known.value = known.value or variable.value


def _add_function(items: dict[str, Item], node: FunctionNode, home: Module) -> None:
    suffix = next((head(d).removeprefix(node.name) for d in node.decorator_list if _is_accessor(d, node)), "")
    item = items.setdefault(node.name + suffix, Function(home, node.lineno))
    if not isinstance(item, Function):
        return
    if any(head(decorator).rpartition(".")[2] == "overload" for decorator in node.decorator_list):
        item.overloads.append(node)
    else:
        item.body = item.body or node


def _is_accessor(decorator: ast.expr, node: FunctionNode) -> bool:
    return head(decorator) in [f"{node.name}.{kind}" for kind in ("setter", "deleter", "getter")]


def aliased(item: Item | None, items: dict[str, Item]) -> Item | None:
    """Return what `name = other` stands for, if `other` is among `items`; anything else is itself."""
    if isinstance(item, Variable) and isinstance(item.value, ast.Name):
        return items.get(item.value.id, item)
    return item
