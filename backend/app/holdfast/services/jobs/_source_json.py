"""JSON lines: one object a line, numbers exact, and where each member stands."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.infrastructure.resilience._frozen import is_dict

if TYPE_CHECKING:
    from typing import NoReturn


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the member {twice!r} twice")
    return members


def _constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, which is no JSON")


_decoder = json.JSONDecoder(parse_float=Decimal, parse_constant=_constant, object_pairs_hook=_members)


def parse(line: str) -> dict[str, Any]:
    """Return the object of a line. Raises ValueError, which says what is wrong."""
    try:
        value: Any = _decoder.decode(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error.msg}, at character {error.pos + 1})") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if not is_dict(value):
        raise ValueError(f"is {_kind(value)}, no object")
    return value


def _kind(value: object) -> str:
    names: dict[type[object], str] = {
        list: "an array",
        str: "text",
        bool: "a truth value",
        type(None): "null",
    }
    return names.get(type(value), "a number")


class Span(NamedTuple):
    """Where the value of a member stands in its line."""

    start: int
    end: int


class Spans(NamedTuple):
    """Where members stand: values by name, the end of the last value, and what stands between two, and before a value.

    The end is that of the opening brace where there is no member.
    """

    values: dict[str, Span]
    end: int
    between: str
    colon: str


def spans(line: str) -> Spans:
    """Return where the members of the object of a line stand, which `parse` has accepted."""
    found: dict[str, Span] = {}
    at = end = line.index("{") + 1
    between, colon = ", ", ": "
    while True:
        start = _skip(line, at)
        if line[start] == "}":
            return Spans(found, end, between, colon)
        if line[start] == ",":
            start = _skip(line, start + 1)
            between = line[end:start]
        name, after = _decoder.raw_decode(line, start)
        value = _skip(line, _skip(line, after) + 1)
        colon = line[after:value]
        _, end = _decoder.raw_decode(line, value)
        found[name] = Span(value, end)
        at = end


def _skip(line: str, at: int) -> int:
    while line[at] in " \t\r\n":
        at += 1
    return at
