"""Payloads and results as JSON bytes that come back exactly: `Decimal`, dates, bytes and UUIDs too."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from hashlib import sha256
from math import isfinite
from types import NoneType
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

from holdfast.infrastructure.resilience.errors import HoldfastError

if TYPE_CHECKING:
    from collections.abc import Callable

_SIMPLE = frozenset({NoneType, bool, str})
# Deeper ones are refused: most are lists that contain themselves.
_DEEPEST = 100
# Python refuses to read and write decimal integers of many digits, at least 640 of them.
_LONG = 2000
_KNOWN = (
    "None, bool, int, float, str, list, tuple, dict, Decimal, date, datetime, time, timedelta, bytes or UUID"
)
# JSON objects with one such key stand for what JSON has no form for; keys that begin so themselves get another sign.
_SIGN = "$"
_PAIR = (",", ":")
_compact = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=_PAIR).encode
_ascii = json.JSONEncoder(check_circular=False, separators=_PAIR).encode
_canonical = json.JSONEncoder(check_circular=False, sort_keys=True, separators=_PAIR).encode


class PayloadError(HoldfastError, ValueError):
    """A value cannot be stored so that it comes back equal, or stored bytes cannot be read."""

    def __init__(self, path: str, problem: str, remedy: str) -> None:
        super().__init__(path, problem, remedy)

    @property
    def path(self) -> str:
        """Where it stands, for example `payload.lines[2].price`."""
        return str(self.args[0])

    @property
    def problem(self) -> str:
        """What is wrong."""
        return str(self.args[1])

    @property
    def remedy(self) -> str:
        """What to do."""
        return str(self.args[2])

    def __str__(self) -> str:
        """Say where, what is wrong and what to do."""
        return "{}: {}; {}".format(*self.args)


class _Refused(Exception):
    """What is wrong with a part; whoever holds the part puts its own place in front of the path."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.path: list[str] = []


def encode(value: Any, *, name: str = "payload") -> bytes:
    """Return `value` as compact JSON in UTF-8, from which `decode` makes an equal value of the same types.

    Takes None, bool, int, float, str, list, tuple, dict with keys of text, Decimal, date, datetime (naive, with an
    offset or a ZoneInfo), time, timedelta, bytes and UUID; no subclasses. All else raises PayloadError, whose path
    begins with `name`.
    """
    plain = _checked(value, name)
    try:
        return _compact(plain).encode()
    except UnicodeEncodeError:  # a lone surrogate
        return _ascii(plain).encode()


def decode(data: bytes | str) -> Any:
    """Return the value that `encode` was given. Raises PayloadError if `data` is not its work."""
    try:
        # Given bytes, `json` would guess their encoding.
        text = data if isinstance(data, str) else data.decode()
        return json.loads(text, object_hook=_object) if '"$' in text else json.loads(text)
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        raise PayloadError("payload", f"cannot be read ({error})", "give what encode() returned") from error


def digest(value: Any, *, name: str = "payload") -> str:
    """Return the SHA-256 of the canonical form, in hex: the same for equal dicts in whatever order of keys.

    1, 1.0 and Decimal("1"), and Decimal("1.0") and Decimal("1.00"), differ. Raises PayloadError as `encode` does.
    """
    return sha256(_canonical(_checked(value, name)).encode()).hexdigest()


def _checked(value: Any, name: str) -> Any:
    try:
        return _plain(value, 0)
    except _Refused as refused:
        problem, remedy = refused.args
        raise PayloadError(name + _shown(refused.path[::-1]), problem, remedy) from None


def _shown(path: list[str]) -> str:
    return "".join(path) if len(path) < _DEEPEST else "".join([*path[:5], "…"])


def _plain(value: object, depth: int) -> Any:
    kind = type(value)
    if kind in _SIMPLE:
        return value
    holder = _HOLDERS.get(kind)
    if holder is not None:
        return holder(value, depth + 1)
    maker = _MAKERS.get(kind)
    if maker is None:
        raise _unknown(value)
    return maker(value)


def _unknown(value: object) -> _Refused:
    kind = type(value)
    base = next((known for known in kind.__mro__[1:] if known in _MAKERS or known in _HOLDERS), None)
    if base is None and isinstance(value, str):
        base = str
    remedy = f"give {_KNOWN}" if base is None else f"give a plain {base.__name__}"
    return _Refused(f"{_short(value)} ({kind.__qualname__}) would not come back as it is", remedy)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # a class of the user's, or an integer of very many digits
        text = object.__repr__(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004  # about half a line


def _limit(depth: int) -> None:
    if depth > _DEEPEST:
        raise _Refused(f"is nested deeper than {_DEEPEST}, or contains itself", "give a flatter value")


def _dict(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    _limit(depth)
    made: dict[str, Any] = {}
    for key, item in value.items():
        if type(key) is not str:
            raise _Refused(f"has the key {_short(key)}, which is no text", "give a dict with keys of text")
        try:
            made[_SIGN + key if key[:1] == _SIGN else key] = _plain(item, depth)
        except _Refused as refused:
            refused.path.append(f".{key}" if key.isidentifier() else f"[{key!r}]")
            raise
    return made


def _list(value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
    _limit(depth)
    made: list[Any] = []
    for index, item in enumerate(value):
        try:
            made.append(_plain(item, depth))
        except _Refused as refused:
            refused.path.append(f"[{index}]")
            raise
    return made


def _tuple(value: tuple[Any, ...], depth: int) -> dict[str, Any]:
    return {"$tuple": _list(value, depth)}


def _int(value: int) -> Any:
    return value if value.bit_length() <= _LONG else {"$int": hex(value)}


def _float(value: float) -> Any:
    return value if isfinite(value) else {"$float": repr(value)}


def _datetime(value: datetime) -> dict[str, Any]:
    return _moment("$datetime", value)


def _time(value: time) -> dict[str, Any]:
    return _moment("$time", value)


def _moment(tag: str, value: datetime | time) -> dict[str, Any]:
    text = value.replace(tzinfo=None).isoformat()
    zone = _zone(value.tzinfo)
    said = [text, value.fold, zone] if value.fold else [text, zone] if zone is not None else text
    return {tag: said}


def _zone(zone: tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is ZoneInfo and zone.key and ZoneInfo(zone.key) == zone:
        return zone.key
    if type(zone) is timezone and timezone(zone.utcoffset(None)).tzname(None) == zone.tzname(None):
        return _span(zone.utcoffset(None))
    remedy = "give a ZoneInfo made from a key, or a timezone without a name"
    raise _Refused(f"has the time zone {zone!r}, which would not come back as it is", remedy)


def _span(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


_HOLDERS: dict[type, Callable[[Any, int], Any]] = {dict: _dict, list: _list, tuple: _tuple}
_MAKERS: dict[type, Callable[[Any], Any]] = {
    int: _int,
    float: _float,
    Decimal: lambda value: {"$decimal": str(value)},
    datetime: _datetime,
    date: lambda value: {"$date": value.isoformat()},
    time: _time,
    timedelta: lambda value: {"$timedelta": _span(value)},
    bytes: lambda value: {"$bytes": b64encode(value).decode()},
    UUID: lambda value: {"$uuid": str(value)},
}


def _object(pairs: dict[str, Any]) -> Any:
    if not any(key[:1] == _SIGN for key in pairs):
        return pairs
    if len(pairs) == 1:
        ((key, said),) = pairs.items()
        reader = _READERS.get(key)
        if reader is not None:
            return reader(said)
    return {_unsigned(key): item for key, item in pairs.items()}


def _unsigned(key: str) -> str:
    if key[:2] == _SIGN * 2:
        return key[1:]
    if key[:1] == _SIGN:
        raise ValueError(f"{key} is unknown to this version")
    return key


def _read_moment(kind: type[datetime | time], said: Any) -> Any:
    if isinstance(said, str):
        return kind.fromisoformat(said)
    text, *fold, zone = said
    made = kind.fromisoformat(text).replace(tzinfo=_read_zone(zone))
    return made.replace(fold=1) if fold else made


def _read_zone(zone: Any) -> tzinfo | None:
    if zone is None:
        return None
    return ZoneInfo(zone) if isinstance(zone, str) else timezone(timedelta(*zone))


_READERS: dict[str, Callable[[Any], Any]] = {
    "$tuple": tuple,
    "$int": lambda said: int(said, 16),
    "$float": float,
    "$decimal": Decimal,
    "$datetime": lambda said: _read_moment(datetime, said),
    "$date": date.fromisoformat,
    "$time": lambda said: _read_moment(time, said),
    "$timedelta": lambda said: timedelta(*said),
    "$bytes": lambda said: b64decode(said, validate=True),
    "$uuid": UUID,
}
