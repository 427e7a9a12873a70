"""Comparison of functions between a contract and its code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.testing._contracts_surface import Function, FunctionNode
from holdfast.testing._contracts_values import (
    Difference,
    Side,
    compare_annotations,
    compare_decorators,
    compare_values,
    is_ellipsis,
)

ONLY, ANY, STAR, KEYWORD, STARS = "positional-only", "positional", "*", "keyword-only", "**"
_OVERLOADS = "write the same overloads in the code; they may stand under `if TYPE_CHECKING:`"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a function."""

    name: str
    kind: str
    annotation: ast.expr | None
    default: ast.expr | None


def parameters(node: FunctionNode) -> list[Parameter]:
    """Return the parameters of a function in order."""
    a = node.args
    positional = [*((p, ONLY) for p in a.posonlyargs), *((p, ANY) for p in a.args)]
    defaults = [*[None] * (len(positional) - len(a.defaults)), *a.defaults]
    found = [
        Parameter(p.arg, kind, p.annotation, default)
        for (p, kind), default in zip(positional, defaults, strict=True)
    ]
    if a.vararg:
        found.append(Parameter(a.vararg.arg, STAR, a.vararg.annotation, None))
    for p, value in zip(a.kwonlyargs, a.kw_defaults, strict=True):
        found.append(Parameter(p.arg, KEYWORD, p.annotation, value))
    if a.kwarg:
        found.append(Parameter(a.kwarg.arg, STARS, a.kwarg.annotation, None))
    return found


def compare_functions(ours: Side, contract: Function, theirs: Side, code: Function) -> Iterator[Difference]:
    """Yield what differs between a function's contract and its code, overloads included."""
    if contract.overloads and not code.overloads and code.body:
        for overload in contract.overloads:
            yield from _kinds(overload, code.body)
            yield from compare_decorators(ours, overload.decorator_list, theirs, code.body.decorator_list)
            yield from _covered(ours, overload, theirs, code.body)
    elif len(contract.overloads) != len(code.overloads):
        yield _missing_overloads(contract, code)
    elif contract.overloads:
        for left, right in zip(contract.overloads, code.overloads, strict=True):
            yield from _compare(ours, left, theirs, right, code.body)
    else:
        yield from _compare(ours, contract.first(), theirs, code.first(), None)


def _missing_overloads(contract: Function, code: Function) -> Difference:
    left = [signature(node) for node in contract.overloads or [contract.first()]]
    right = [signature(node) for node in code.overloads or [code.first()]]
    contract_only = [text for text in left if text not in right]
    code_only = [text for text in right if text not in left]
    said = f"{len(contract.overloads)} overloads; alone: {'; '.join(contract_only) or 'none'}"
    done = f"{len(code.overloads)} overloads; alone: {'; '.join(code_only) or 'none'}"
    return Difference("overloads", said, done, _OVERLOADS)


def _compare(
    ours: Side, contract: FunctionNode, theirs: Side, code: FunctionNode, implementation: FunctionNode | None
) -> Iterator[Difference]:
    yield from _kinds(contract, code)
    yield from compare_decorators(ours, contract.decorator_list, theirs, code.decorator_list)
    yield from compare_annotations("return type", ours, _returns(contract), theirs, _returns(code))
    left, right = parameters(contract), parameters(code)
    if [(p.name, p.kind) for p in left] != [(p.name, p.kind) for p in right]:
        yield Difference("parameters", f"({ast.unparse(contract.args)})", f"({ast.unparse(code.args)})")
        return
    called = {p.name: p.default for p in parameters(implementation)} if implementation else {}
    for mine, its in zip(left, right, strict=True):
        what = f"parameter `{mine.name}`"
        default = called.get(its.name, its.default) if is_ellipsis(its.default) else its.default
        yield from compare_annotations(f"type of {what}", ours, mine.annotation, theirs, its.annotation)
        yield from compare_values(f"default of {what}", ours, mine.default, theirs, default)


def _kinds(contract: FunctionNode, code: FunctionNode) -> Iterator[Difference]:
    if _is_coroutine(contract) != _is_coroutine(code):
        yield Difference("kind", signature(contract), signature(code))


def _is_coroutine(node: FunctionNode) -> bool:
    """Tell async functions from the rest; an async generator is called like a plain function."""
    return isinstance(node, ast.AsyncFunctionDef) and not any(_own_yields(node.body))


def _own_yields(statements: list[ast.stmt]) -> Iterator[bool]:
    waiting: list[ast.AST] = list(statements)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Yield):
            yield True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            waiting.extend(ast.iter_child_nodes(node))


def _returns(node: FunctionNode) -> ast.expr | None:
    return node.returns or (ast.Constant(None) if node.name == "__init__" else None)


def signature(node: FunctionNode) -> str:
    """Return the first line of a function without its decorators."""
    prefix = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{prefix} {node.name}({ast.unparse(node.args)}){returns}"


def _covered(ours: Side, overload: FunctionNode, theirs: Side, code: FunctionNode) -> Iterator[Difference]:
    """Yield what an overload accepts and the code's one signature does not name, or gives another default."""
    accepted = parameters(code)
    taken: set[str] = set()
    for index, parameter in enumerate(parameters(overload)):
        match = _counterpart(parameter, index, accepted)
        what = f"overload parameter `{parameter.name}`"
        if match is None:
            yield Difference(what, signature(overload), signature(code), _OVERLOADS)
            continue
        taken.add(match.name)
        if parameter.default is not None:
            yield from compare_values(f"default of {what}", ours, parameter.default, theirs, match.default)
    for parameter in accepted:
        if (
            parameter.default is None
            and parameter.kind in (ONLY, ANY, KEYWORD)
            and parameter.name not in taken
        ):
            what = f"overload without `{parameter.name}`, which the code requires"
            yield Difference(what, signature(overload), signature(code), _OVERLOADS)


def _counterpart(parameter: Parameter, index: int, accepted: list[Parameter]) -> Parameter | None:
    named = next((p for p in accepted if p.name == parameter.name and p.kind in (ANY, KEYWORD)), None)
    positional = [p for p in accepted if p.kind in (ONLY, ANY)]
    at_index = positional[index] if index < len(positional) else None
    by_kind = {p.kind: p for p in accepted}
    match parameter.kind:
        case "positional-only":
            return at_index or by_kind.get(STAR)
        case "positional":
            return named if named is at_index else None
        case "keyword-only":
            return named or by_kind.get(STARS)
        case kind:
            return by_kind.get(kind)
