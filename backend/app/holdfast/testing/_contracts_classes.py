"""What a class has: its own members, those from private bases, and those that it inherits."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

from holdfast.testing._contracts_names import Canonical, qualified
from holdfast.testing._contracts_surface import Class, FunctionNode, Item, Variable, declared, scope
from holdfast.testing._contracts_tree import Module, Tree, head, is_private, live


class Classes:
    """The members of the classes of one tree, with those of their bases in the package."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def find(self, dotted: str) -> Item | None:
        """Return what `dotted` names in the package, re-exports followed."""
        found = self._tree.locate(dotted)
        return found and scope(found[0]).get(found[1])

    def members(self, item: Class) -> dict[str, Item]:
        """Return what the class declares, itself and through private bases."""
        own = declared(item.node.body, item.home)
        for name, variable in _instance_attributes(item).items():
            known = own.setdefault(name, variable)
            if isinstance(known, Variable):
                known.annotation = known.annotation or variable.annotation
                known.slot = known.slot or variable.slot
        for base in self.package_bases(item):
            if is_hidden(base.node.name, base.home):
                own = self.members(base) | own
        return own

    def inherited(self, item: Class) -> dict[str, Item]:
        """Return what the class has from its public bases in the package."""
        found: dict[str, Item] = {}
        for base in self.package_bases(item):
            found = self.inherited(base) | self.members(base) | found
        return found

    def package_bases(self, item: Class) -> Iterator[Class]:
        """Yield the direct bases that are classes of the package."""
        for base in item.node.bases:
            found = self.find(qualified(head(base), item.home))
            if isinstance(found, Class) and found.node is not item.node:
                yield found

    def builtin_bases(self, item: Class) -> list[object]:
        """Return the builtin classes that the class has as bases, through those in the package too."""
        names = [qualified(head(base), item.home) for base in item.node.bases]
        own = [getattr(builtins, name) for name in names if hasattr(builtins, name)]
        return [*own, *(far for base in self.package_bases(item) for far in self.builtin_bases(base))]

    def bases(self, item: Class) -> list[str]:
        """Return the public bases in order; a private one stands for its own bases."""
        found: list[str] = []
        for base in item.node.bases:
            name = qualified(head(base), item.home)
            target = self.find(name)
            if isinstance(target, Class) and is_hidden(target.node.name, target.home):
                found += self.bases(target)
            elif not is_private(name.rpartition(".")[2]):
                found.append(Canonical(self._tree, item.home).text(base))
        return [name for name in dict.fromkeys(found) if name != "object"]


def is_hidden(name: str, home: Module) -> bool:
    """Tell whether a class is an implementation detail: a private name, or at home in a private module."""
    return is_private(name) or is_private(home.name)


def _instance_attributes(item: Class) -> dict[str, Variable]:
    found: dict[str, Variable] = {}
    for statement in live(item.node.body):
        match statement:
            case ast.Assign(targets=[ast.Name(id="__slots__")], value=value):
                for constant in ast.walk(value):
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                        found[constant.value] = Variable(item.home, statement.lineno, slot=True)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for name, line, annotation in _assigned_to_self(statement):
                    known = found.setdefault(name, Variable(item.home, line))
                    known.annotation = known.annotation or annotation
            case _:
                pass
    return found


def _assigned_to_self(method: FunctionNode) -> Iterator[tuple[str, int, ast.expr | None]]:
    parameters = [*method.args.posonlyargs, *method.args.args]
    own = parameters[0].arg if parameters else ""
    for node in ast.walk(method):
        match node:
            case ast.AnnAssign(target=ast.Attribute(value=ast.Name(id=owner), attr=name)) if owner == own:
                yield name, node.lineno, node.annotation
            case ast.Assign(targets=targets, value=value):
                names = [
                    target.attr
                    for target in targets
                    if isinstance(target, ast.Attribute) and head(target.value) == own
                ]
                yield from ((name, node.lineno, _type_of_first(method, value)) for name in names)
            case ast.Attribute(value=ast.Name(id=owner), attr=name, ctx=ast.Store()) if owner == own:
                yield name, node.lineno, None
            case _:
                pass


def _type_of_first(method: FunctionNode, value: ast.expr) -> ast.expr | None:
    """Return the type of what a constructor assigns: a plain literal, or a parameter that keeps its value."""
    if method.name != "__init__":
        return None
    match value:
        case ast.Constant(value=int() | float() | str() | bytes() as plain):
            return ast.Name(type(plain).__name__)
        case ast.Name(id=name) if name not in _stored(method):
            given = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]
            return next((parameter.annotation for parameter in given if parameter.arg == name), None)
        case _:
            return None


def _stored(method: FunctionNode) -> set[str]:
    names = [node for node in ast.walk(method) if isinstance(node, ast.Name)]
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}
