"""JSON as its standard has it, in and out: no NaN, no infinity."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import NoReturn


def dump(what: str, value: object) -> str:
    """Return `value` as JSON, in ASCII. TypeError or ValueError that names `what`."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{what} is no JSON ({error}): give dicts, lists, text, numbers, booleans, None"
        ) from error


def load(text: str | bytes | bytearray) -> Any:
    """Return what JSON says. ValueError if it is none, or too deep."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is too deep") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
