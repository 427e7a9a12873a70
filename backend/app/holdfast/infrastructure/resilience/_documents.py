"""Text from outside: JSON or TOML, bounded in size, depth and width, with every fault at its path."""

from __future__ import annotations

from math import isfinite

from holdfast.infrastructure.resilience._frozen import is_dict, is_list
from holdfast.infrastructure.resilience.config import Fault, _shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

_WHOLE = "configuration"
BYTES, FILE_BYTES, DEPTH, PROPERTIES, ITEMS, LENGTH = 4096, 65_536, 10, 50, 20, 200


class _Object(dict[str, object]):
    """An object of JSON, and the keys that it has twice."""

    twice: tuple[str, ...] = ()


def read_json(text: str | bytes, *, file: bool = False) -> tuple[Mapping[str, Any], list[Fault]]:
    """Return the object that a JSON text is, and what is wrong with it; a file may be longer."""
    decoded, faults = _decoded(text, FILE_BYTES if file else BYTES)
    if not faults and _depth(decoded) > DEPTH:
        faults = [_too_deep("")]
    return ({}, faults) if faults else _parsed(decoded)


def _parsed(text: str) -> tuple[Mapping[str, Any], list[Fault]]:
    import json

    try:
        found = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        place = f"is no JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        return {}, [_fault("", None, place, "one JSON object")]
    except (ValueError, RecursionError) as error:  # a whole number of more digits than Python reads
        return {}, [_fault("", None, f"is no JSON: {_shown(str(error))}", "one JSON object")]
    return read_fields(found)


def read_toml(data: bytes) -> tuple[Mapping[str, Any], list[Fault]]:
    """Return the fields of a TOML file, and what is wrong with it."""
    import tomllib

    text, faults = _decoded(data, FILE_BYTES)
    if faults:
        return {}, faults
    try:
        return read_fields(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValueError) as error:
        return {}, [_fault("", None, f"is no TOML: {_shown(str(error))}", "TOML")]
    except RecursionError:
        return {}, [_too_deep("")]


def is_readable(faults: list[Fault]) -> bool:
    """Return whether there are fields worth a closer look: it was an object, and not a huge one."""
    return not any(fault.path == _WHOLE for fault in faults)


def read_fields(found: Any) -> tuple[Mapping[str, Any], list[Fault]]:
    """Return the fields if they are a mapping, and what in them is too deep, too wide or too long."""
    if not is_dict(found):
        if not hasattr(found, "keys") or not hasattr(found, "items"):
            return {}, [_fault("", found, "is no object", 'an object such as {"retry_attempts": 3}')]
        found = dict(found)
    counted = [0]
    faults = list(_limits(found, "", 1, counted))
    if counted[0] > PROPERTIES:
        faults.append(_fault("", counted[0], "properties are too many", f"at most {PROPERTIES}"))
    return found, faults


def _decoded(text: str | bytes, most: int) -> tuple[str, list[Fault]]:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
    if len(data) > most:
        return "", [_fault("", len(data), "bytes are too many", f"at most {most} bytes")]
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        return "", [_fault("", None, f"is not UTF-8 at byte {error.start}", "text in UTF-8")]


def _depth(text: str) -> int:
    """Return how deep brackets are nested outside of strings; a parser would find out by running out of stack."""
    depth = deepest = 0
    inside = escaped = False
    for letter in text:
        if inside:
            inside = escaped or letter != '"'
            escaped = letter == "\\" and not escaped
        elif letter == '"':
            inside = True
        elif letter in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "]}":
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, object]]) -> _Object:
    found = _Object(pairs)
    if len(found) < len(pairs):
        left = dict.fromkeys(found, 1)
        twice: dict[str, None] = {}
        for key, _ in pairs:
            left[key] -= 1
            if left[key] < 0:
                twice[key] = None
        found.twice = tuple(twice)
    return found


def _limits(value: object, path: str, depth: int, counted: list[int]) -> Iterator[Fault]:
    """Yield what exceeds a limit; what lies deeper than allowed is not looked at."""
    if depth > DEPTH and (is_dict(value) or is_list(value)):
        yield _too_deep(path)
    elif is_dict(value):
        yield from _object_limits(value, path, depth, counted)
    elif is_list(value):
        if len(value) > ITEMS:
            yield _fault(path, len(value), "items are too many", f"at most {ITEMS}")
        for at, item in enumerate(value[:ITEMS]):
            yield from _limits(item, f"{path}[{at}]", depth + 1, counted)
    elif isinstance(value, str):
        yield from _text_limits(value, path)
    elif isinstance(value, float) and not isfinite(value):
        yield _fault(path, value, "is not finite", "a finite number")


def _object_limits(value: dict[Any, Any], path: str, depth: int, counted: list[int]) -> Iterator[Fault]:
    for key in getattr(value, "twice", ()):
        yield _fault(joined(path, key), None, "is there twice", "each name once")
    for key, item in value.items():
        counted[0] += 1
        if counted[0] > PROPERTIES:
            return
        if not isinstance(key, str):
            yield _fault(path, key, "is no name", "names that are text")
            continue
        yield from _text_limits(key, joined(path, key))
        yield from _limits(item, joined(path, key), depth + 1, counted)


def _text_limits(value: str, path: str) -> Iterator[Fault]:
    if len(value) > LENGTH:
        yield _fault(path, len(value), "characters are too many", f"at most {LENGTH} characters")
    elif any("\ud800" <= letter <= "\udfff" for letter in value):
        yield _fault(path, value, "is not text: half a character is missing", "text in UTF-8")


def _too_deep(path: str) -> Fault:
    return _fault(path, None, "is nested too deeply", f"at most {DEPTH} levels")


def _fault(path: str, value: object, problem: str, allowed: str) -> Fault:
    return Fault(path or _WHOLE, value, problem, allowed)


def joined(path: str, key: object) -> str:
    """Return the path of a field, cut where a name is long."""
    name = _shown(key) if not isinstance(key, str) or len(key) > _NAME else key
    name = name.encode("ascii", "backslashreplace").decode() if not name.isprintable() else name
    return f"{path}.{name}" if path else name


_NAME = 60
