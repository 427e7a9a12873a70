"""The text check: contract and code say the same, by comparison of their syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from holdfast.testing._contracts_classes import Classes
from holdfast.testing._contracts_docstrings import docstring_drifts
from holdfast.testing._contracts_exports import compare_exports
from holdfast.testing._contracts_names import qualified
from holdfast.testing._contracts_signature import compare_functions, signature
from holdfast.testing._contracts_stage import no_contracts
from holdfast.testing._contracts_surface import (
    Class,
    Function,
    Item,
    ReExport,
    Variable,
    aliased,
    module_items,
)
from holdfast.testing._contracts_tree import Drift, Module, Tree, head, is_dunder, is_private, trees
from holdfast.testing._contracts_values import (
    Difference,
    Side,
    compare_decorators,
    compare_texts,
    show,
)
from holdfast.testing._contracts_variables import compare_types, compare_variables

_UNDECLARED = "declare it in the contract, or give it a leading underscore"
_UNWRITTEN = "write it, or remove it from the contract"
# What every object has, or the language itself asks for: a contract may declare it.
_OPTIONAL = frozenset(dir(object)) - {"__init__", "__new__"} | {
    "__annotations__",
    "__copy__",
    "__deepcopy__",
    "__del__",
    "__dict__",
    "__getnewargs__",
    "__getnewargs_ex__",
    "__match_args__",
    "__module__",
    "__post_init__",
    "__set_name__",
    "__setstate__",
    "__slots__",
    "__weakref__",
}


def check_text(root: Path) -> list[Drift]:
    """Return what the texts of contracts and code differ on, and which docstrings contracts lack."""
    contracts, code = trees(root)
    found = [*_unreadable(contracts), *_unreadable(code)]
    if not contracts.paths:
        found.append(no_contracts("text", contracts))
    for name in contracts.paths:
        mine, its = contracts.module(name), code.module(name)
        if mine and its:
            found += _Comparison(contracts, code, mine, its).drifts()
        if mine:
            found += docstring_drifts(mine, Classes(contracts))
    return found


def _unreadable(tree: Tree) -> Iterator[Drift]:
    for name in tree.paths:
        try:
            tree.parse(name)
        except SyntaxError as error:
            is_contract = tree.paths[name].suffix == ".pyi"
            sides = [f"cannot be parsed: {error.msg}", "not compared"]
            contract, code = sides if is_contract else reversed(sides)
            yield Drift(
                check="text",
                file=tree.label(name),
                line=error.lineno or 0,
                name=name,
                contract=contract,
                code=code,
                remedy="correct the syntax",
            )


class _Comparison:
    """A contract beside the module that it describes."""

    def __init__(self, contracts: Tree, code: Tree, mine: Module, its: Module) -> None:
        self._contracts = contracts
        self._code = code
        self._mine = mine
        self._its = its
        self._our_classes = Classes(contracts)
        self._their_classes = Classes(code)

    def drifts(self) -> Iterator[Drift]:
        """Yield the drifts of the whole module."""
        for module, difference in compare_exports(self._mine, self._its):
            yield self._drift("__all__", difference, file=module.label)
        contract, code = module_items(self._mine), module_items(self._its)
        for name, item in contract.items():
            yield from self._declared(name, item, self._in_module(name, item, code))
        for name, item in code.items():
            if name not in contract and self._is_offered(name, item):
                yield self._undeclared(name, item)

    def _is_offered(self, name: str, code: Item) -> bool:
        """Tell whether a module means others to use a name; a substitute for a failed import is an import."""
        imported = name in self._its.imports and not isinstance(code, ReExport)
        return not (imported or name == "TYPE_CHECKING" or is_private(name) or is_dunder(name))

    def _in_module(self, name: str, contract: Item, code: dict[str, Item]) -> Item | None:
        """Return the code's counterpart of a name; an import counts, and leads to a definition if need be."""
        found = code.get(name)
        if found is None and name in self._its.imports:
            found = ReExport(self._its, 1, self._its.imports[name])
        if isinstance(found, ReExport) and not isinstance(contract, ReExport):
            return self._their_classes.find(found.target) or found
        return found if isinstance(contract, Variable) else aliased(found, code)

    def _declared(
        self, name: str, contract: Item, code: Item | None, owner: Class | None = None
    ) -> Iterator[Drift]:
        """Compare one name of the contract; its private helpers need not be in the code."""
        last = name.rpartition(".")[2]
        if last in ("__all__", "__slots__"):
            return
        if code is None and not is_private(last):
            difference = Difference("declared", _describe(contract), "nothing", _UNWRITTEN)
            yield self._drift(name, difference, of=contract)
        elif code and (type(contract) is type(code) or not is_private(last)):
            yield from self._item(name, contract, code, owner)

    def _undeclared(self, name: str, code: Item) -> Drift:
        remedy = "declare it in the contract" if is_dunder(name.rpartition(".")[2]) else _UNDECLARED
        difference = Difference("declared", f"nothing (in {self._mine.label})", _describe(code), remedy)
        return self._drift(name, difference, of=code, at=code)

    def _item(self, name: str, contract: Item, code: Item, owner: Class | None) -> Iterator[Drift]:
        if isinstance(contract, Class) and isinstance(code, Class):
            yield from self._members(name, contract, code)
        for difference in self._differences(name, contract, code, owner):
            yield self._drift(name, difference, of=contract, at=code)

    def _differences(
        self, name: str, contract: Item, code: Item, owner: Class | None
    ) -> Iterator[Difference]:
        ours, theirs = Side(self._contracts, contract.home), Side(self._code, code.home)
        match contract, code:
            case Function(), Function():
                yield from compare_functions(ours, contract, theirs, code)
            case Class(), Class():
                yield from self._classes(ours, contract, theirs, code)
            case Variable(), Variable():
                yield from compare_variables(ours, contract, theirs, code, is_field=_has_fields(owner))
            case ReExport(), _:
                yield from self._origins(name, contract, code)
            case Function(), Variable(slot=True) if _is_plain_property(contract):
                promised = Variable(contract.home, contract.line, contract.first().returns)
                yield from compare_types(ours, promised, theirs, code)
            case _:
                yield Difference("kind", _describe(contract), _describe(code))

    def _members(self, prefix: str, contract: Class, code: Class) -> Iterator[Drift]:
        mine, its = self._our_classes.members(contract), self._their_classes.members(code)
        our_bases, their_bases = self._our_classes.inherited(contract), self._their_classes.inherited(code)
        for name, item in mine.items():
            found = its.get(name) or their_bases.get(name)
            counterpart = found if isinstance(item, Variable) else aliased(found, its)
            yield from self._declared(f"{prefix}.{name}", item, counterpart, contract)
        for name, item in its.items():
            if name in mine or is_private(name) or name in _OPTIONAL or self._is_given(name, item, code):
                continue
            if name in our_bases:
                yield from self._item(f"{prefix}.{name}", our_bases[name], item, contract)
            else:
                yield self._undeclared(f"{prefix}.{name}", item)

    def _is_given(self, name: str, item: Item, owner: Class) -> bool:
        """Tell whether an item only assigns what a base has: one of the package, or a builtin one."""
        if not isinstance(item, Variable) or item.annotation or item.value:
            return False
        builtins = self._their_classes.builtin_bases(owner)
        return name in self._their_classes.inherited(owner) or any(hasattr(base, name) for base in builtins)

    def _classes(self, ours: Side, contract: Class, theirs: Side, code: Class) -> Iterator[Difference]:
        yield from compare_texts("bases", self._our_classes.bases(contract), self._their_classes.bases(code))
        yield from compare_texts("class keywords", _keywords(ours, contract), _keywords(theirs, code))
        yield from compare_decorators(ours, contract.node.decorator_list, theirs, code.node.decorator_list)

    def _origins(self, name: str, contract: ReExport, code: Item) -> Iterator[Difference]:
        target = code.target if isinstance(code, ReExport) else f"{code.home.name}.{name}"
        ends = [self._code.locate(dotted) or dotted for dotted in (contract.target, target)]
        if ends[0] != ends[1]:
            yield Difference("origin", contract.target, target)

    def _drift(
        self,
        name: str,
        difference: Difference,
        *,
        file: str = "",
        of: Item | None = None,
        at: Item | None = None,
    ) -> Drift:
        place = f"{at.home.label}:{at.line}" if at else self._its.label
        return Drift(
            check="text",
            file=of.home.label if of else file,
            line=of.line if of else 0,
            name=name,
            contract=f"{difference.what}: {difference.contract}",
            code=f"{difference.what}: {difference.code} (in {place})",
            remedy=difference.remedy,
        )


def _is_property(item: Function) -> bool:
    return any(head(d).rpartition(".")[2].endswith("property") for d in item.first().decorator_list)


def _is_plain_property(item: Function) -> bool:
    """Tell whether a slot can keep what a property promises."""
    node = item.first()
    return [ast.unparse(d) for d in node.decorator_list] == ["property"] and ast.unparse(node.args) == "self"


def _has_fields(owner: Class | None) -> bool:
    """Tell whether a class makes its constructor from its annotated attributes."""
    if owner is None:
        return False
    names = map(head, chain(owner.node.decorator_list, owner.node.bases))
    return any(qualified(n, owner.home) in ("dataclasses.dataclass", "typing.NamedTuple") for n in names)


def _keywords(side: Side, item: Class) -> list[str]:
    public = [k for k in item.node.keywords if not is_private(head(k.value))]
    return sorted(f"{k.arg or '**'}={side.canonical(k.value)}" for k in public)


def _describe(item: Item) -> str:
    match item:
        case Function():
            return f"{'property ' if _is_property(item) else ''}{signature(item.first())}"
        case Class():
            return f"class {item.node.name}"
        case Variable(annotation=None):
            return "attribute" if item.value is None else f"value {show(item.value)}"
        case Variable():
            return f"attribute of type {show(item.annotation)}"
        case ReExport():
            return f"re-export of {item.target}"
