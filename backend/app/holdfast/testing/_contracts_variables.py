"""Comparison of constants, attributes, fields and aliases between a contract and its code."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from holdfast.testing._contracts_names import is_type_variable, qualified
from holdfast.testing._contracts_surface import Variable
from holdfast.testing._contracts_tree import head
from holdfast.testing._contracts_values import (
    EITHER,
    WRITE_OUT,
    Difference,
    Side,
    compare_annotations,
    compare_values,
    is_literal,
    show,
)

_ANNOTATE = "annotate it in the code, which costs nothing under `if TYPE_CHECKING:`"
_FIELD_OPTIONS = ("init", "kw_only")


def compare_variables(
    ours: Side, contract: Variable, theirs: Side, code: Variable, *, is_field: bool
) -> Iterator[Difference]:
    """Yield what differs; of a field it matters too whether it has a default."""
    if is_type_variable(contract) or is_type_variable(code):
        yield from compare_annotations("type variable", ours, contract.value, theirs, code.value)
    elif _is_alias(ours, contract) or _is_alias(theirs, code):
        yield from compare_annotations("alias", ours, contract.value, theirs, code.value)
    else:
        yield from compare_types(ours, contract, theirs, code)
        yield from _values(ours, contract, theirs, code, is_field=is_field)


def _is_alias(side: Side, item: Variable) -> bool:
    return item.annotation is not None and qualified(head(item.annotation), side.home) == "typing.TypeAlias"


def compare_types(ours: Side, contract: Variable, theirs: Side, code: Variable) -> Iterator[Difference]:
    """Yield a difference unless both sides have the same type; what the code does not annotate must be plain."""
    if contract.annotation is None and code.annotation is None:
        return
    qualifier, declared = _type_of(ours, contract)
    its_qualifier, written = _type_of(theirs, code)
    same = declared == written or (written is None and _is_literal_of(code.value, declared or ""))
    if same and (qualifier == its_qualifier or code.annotation is None):
        return
    sides = [_shown(contract), _shown(code)]
    if sides[0] == sides[1]:
        sides = [f"{qualifier} {declared}".strip(), f"{its_qualifier} {written}".strip()]
    yield Difference("type", sides[0], sides[1], EITHER if written else _ANNOTATE)


def _shown(item: Variable) -> str:
    value = f" = {show(item.value)}" if item.value else ""
    return f"{show(item.annotation)}{value}"


def _type_of(side: Side, item: Variable) -> tuple[str, str | None]:
    """Return `Final` or `ClassVar`, and the canonical type: as annotated, or as the value tells."""
    text = side.canonical(item.annotation, annotation=True) if item.annotation else ""
    qualifier, _, inner = text.removeprefix("typing.").partition("[")
    if qualifier in ("Final", "ClassVar"):
        return qualifier, inner.removesuffix("]") or _told(side, item.value)
    return "", text or _told(side, item.value)


def _told(side: Side, value: ast.expr | None) -> str | None:
    """Return the type that a plain literal, a new instance or a member of an enum shows."""
    match value:
        case ast.Constant(value=int() | float() | str() | bytes() as plain):
            return type(plain).__name__
        case ast.Call(func=made) if side.find_class(made):
            return side.canonical(made)
        case ast.Attribute(value=owner) if (found := side.find_class(owner)) and found.is_enum():
            return side.canonical(owner)
        case _:
            return None


def _is_literal_of(value: ast.expr | None, declared: str) -> bool:
    """Tell whether a value that both sides write out in full is of the declared kind of container."""
    return is_literal(value) and type(ast.literal_eval(value)).__name__ == declared.partition("[")[0]


def _values(
    ours: Side, contract: Variable, theirs: Side, code: Variable, *, is_field: bool
) -> Iterator[Difference]:
    left, left_options = _field(ours, contract.value)
    right, right_options = _field(theirs, code.value)
    if left_options != right_options:
        yield Difference("field options", str(left_options), str(right_options))
    if is_field or left is not None:
        yield from compare_values("value", ours, left, theirs, right)
    elif is_literal(right):
        yield Difference("value", "nothing", show(right), WRITE_OUT)


def _field(side: Side, value: ast.expr | None) -> tuple[ast.expr | None, dict[str, str]]:
    """Return the default in a dataclass's `field(...)` and the options that change its constructor."""
    if not isinstance(value, ast.Call) or qualified(head(value), side.home) != "dataclasses.field":
        return value, {}
    given = {keyword.arg: keyword.value for keyword in value.keywords}
    options = {name: ast.unparse(given[name]) for name in _FIELD_OPTIONS if name in given}
    factory = given.get("default_factory")
    made = ast.Call(factory, [], []) if factory else None
    return given.get("default", made), options
