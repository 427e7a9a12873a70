"""The two trees that the contract gate compares: package and contracts, parsed once."""

from __future__ import annotations

import ast
import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACKAGE = "holdfast"
CODE = Path("backend", "app", PACKAGE)
CONTRACTS = Path("backend", "contracts")
_DEEPEST = 9
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One place where a contract and what it describes differ, with the way out."""

    check: str
    file: str
    line: int = 0
    name: str
    contract: str
    code: str
    remedy: str

    def __str__(self) -> str:
        """Show the place, both sides and the remedy, one a line."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        sides = f"  contract: {self.contract}\n  code:     {self.code}\n  remedy:   {self.remedy}"
        return f"{self.check}: {place}: {self.name}\n{sides}"


class TreeNotFoundError(Exception):
    """There is no package with contracts at the given place."""


def require_tree(root: Path) -> None:
    """Raise TreeNotFoundError unless `root` holds the package and a folder for its contracts."""
    missing = [str(part) for part in (CODE, CONTRACTS) if not (root / part).is_dir()]
    if missing:
        raise TreeNotFoundError(
            f"no {' and no '.join(missing)} in {root}: give the project's root with --root"
        )


def find_root(start: Path) -> Path:
    """Return `start` or the nearest folder above it that holds the package and its contracts."""
    for folder in (start, *start.parents):
        if (folder / CODE).is_dir() and (folder / CONTRACTS).is_dir():
            return folder
    raise TreeNotFoundError(
        f"no {CODE} with {CONTRACTS} in {start} or above: give the project's root with --root"
    )


def is_private(dotted: str) -> bool:
    """Tell whether any part of a dotted name starts with an underscore; dunders count as public."""
    return any(part.startswith("_") and not is_dunder(part) for part in dotted.split("."))


def is_dunder(name: str) -> bool:
    """Tell whether `name` is a special name of the language."""
    return name.startswith("__") and name.endswith("__") and name.strip("_") != ""


def head(expression: ast.expr) -> str:
    """Return the dotted name that an expression starts with: `a.B` of `a.B[T]`; empty when there is none."""
    match expression:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            return f"{head(value)}.{attr}" if head(value) else ""
        case ast.Subscript(value=value) | ast.Call(func=value):
            return head(value)
        case _:
            return ""


def live(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that type checkers see, from inside `if`, `try` and `with` too."""
    for statement in statements:
        match statement:
            case ast.If():
                yield from live(_branches(statement))
            case ast.Try():
                handlers = [inner for handler in statement.handlers for inner in handler.body]
                yield from live([*statement.body, *statement.orelse, *handlers, *statement.finalbody])
            case ast.With():
                yield from live(statement.body)
            case _:
                yield statement


def _branches(statement: ast.If) -> list[ast.stmt]:
    match statement.test:
        case ast.Compare(left=ast.Attribute(attr="version_info"), ops=[op], comparators=[version]):
            holds = _ORDER[type(op)](sys.version_info, ast.literal_eval(version))
            return statement.body if holds else statement.orelse
        case ast.UnaryOp(op=ast.Not(), operand=ast.Name(id="TYPE_CHECKING")):
            return [*statement.orelse, *statement.body]
        case _:
            return [*statement.body, *statement.orelse]


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """One parsed file: its dotted name, its path below the root, and what its names are imported from."""

    name: str
    label: str
    tree: ast.Module
    is_package: bool
    imports: dict[str, str] = field(init=False, default_factory=dict[str, str])
    exports: dict[str, str] = field(init=False, default_factory=dict[str, str])

    def __post_init__(self) -> None:
        """Collect the imports, and what a lazy `_EXPORTS` mapping of names to modules promises."""
        for statement in live(self.tree.body):
            match statement:
                case ast.Import():
                    self.imports.update(_plain_imports(statement))
                case ast.ImportFrom():
                    source = self._source(statement)
                    self.imports.update({a.asname or a.name: f"{source}.{a.name}" for a in statement.names})
                case (
                    ast.Assign(targets=[ast.Name(id="_EXPORTS")])
                    | ast.AnnAssign(target=ast.Name(id="_EXPORTS"))
                ):
                    self.exports.update(_mapping(statement.value))
                case _:
                    pass

    def _source(self, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        up = statement.level - self.is_package
        base = self.name.split(".")[: -up or None]
        return ".".join([*base, *filter(None, [statement.module])])

    def names_of_all(self) -> list[str] | None:
        """Return the names in `__all__`, or None when there is none. ValueError when it cannot be read."""
        values = [*_values_of_all(self.tree.body)]
        if len(values) > 1:
            raise ValueError(" + ".join(map(ast.unparse, values)))
        return self._names(values[0]) if values else None

    def _names(self, value: ast.expr) -> list[str]:
        match value:
            case ast.Call(func=ast.Name(id="sorted"), args=[inner]):
                return sorted(self._names(inner))
            case ast.Call(func=ast.Name(id="list" | "tuple"), args=[inner]) | ast.Starred(value=inner):
                return self._names(inner)
            case ast.Name(id="_EXPORTS"):
                return list(self.exports)
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return [name for part in parts for name in self._names(part)]
            case ast.Constant(value=str(name)):
                return [name]
            case _:
                raise ValueError(ast.unparse(value))


def _values_of_all(statements: list[ast.stmt]) -> Iterator[ast.expr]:
    for statement in live(statements):
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=value)
                | ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value)
                | ast.AugAssign(target=ast.Name(id="__all__"), value=value)
            ):
                yield value
            case _:
                pass


def _plain_imports(statement: ast.Import) -> dict[str, str]:
    whole = {a.asname: a.name for a in statement.names if a.asname}
    heads = [a.name.partition(".")[0] for a in statement.names if not a.asname]
    return whole | {head: head for head in heads}


def _mapping(value: ast.expr | None) -> dict[str, str]:
    try:
        pairs: dict[str, str] = ast.literal_eval(value) if value else {}
    except ValueError:
        return {}
    return {name: f"{module}.{name}" for name, module in pairs.items()}


class Tree:
    """The package or its contracts: modules by dotted name."""

    def __init__(self, root: Path, folder: Path, suffix: str) -> None:
        self.root = root
        self.folder = root / folder
        self.paths = {
            _dotted(path.relative_to(self.folder)): path
            for path in sorted(self.folder.rglob(f"*{suffix}"))
            if path.stem != "__main__"
        }
        self._modules: dict[str, Module | None] = {}

    def label(self, name: str) -> str:
        """Return the path of a module's file, relative to the root."""
        return self.paths[name].relative_to(self.root).as_posix()

    def parse(self, name: str) -> Module:
        """Return the module called `name`. SyntaxError as `ast.parse` raises it."""
        path = self.paths[name]
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=self.label(name))
        return Module(name, self.label(name), tree, path.stem == "__init__")

    def module(self, name: str) -> Module | None:
        """Return the module called `name`, or None when there is none or it cannot be parsed."""
        if name not in self._modules:
            try:
                self._modules[name] = self.parse(name) if name in self.paths else None
            except SyntaxError:
                self._modules[name] = None
        return self._modules[name]

    def locate(self, dotted: str, depth: int = 0) -> tuple[Module, str] | None:
        """Follow re-exports of the package to the module that defines `dotted`, and the name there."""
        home, _, name = dotted.rpartition(".")
        module = self.module(home)
        if module is None:
            return None
        onward = module.exports.get(name) or module.imports.get(name)
        if onward and depth < _DEEPEST and (found := self.locate(onward, depth + 1)):
            return found
        return module, name


def _dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join([PACKAGE, *(parts[:-1] if parts[-1] == "__init__" else parts)])


def trees(root: Path) -> tuple[Tree, Tree]:
    """Return the contracts and the code of the project at `root`."""
    require_tree(root)
    return Tree(root.resolve(), CONTRACTS, ".pyi"), Tree(root.resolve(), CODE, ".py")
