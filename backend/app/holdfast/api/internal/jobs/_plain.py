"""Payloads and results as JSON that anybody can read: amounts and dates as text."""

from __future__ import annotations

from base64 import b64encode
from math import isfinite
from typing import Any

from holdfast.api.internal.resilience._text import sendable
from holdfast.infrastructure.resilience._frozen import is_dict, is_list
from holdfast.infrastructure.store.payload import PayloadError, decode


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it; what JSON has no form for is text, bytes in base 64."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else repr(value)
    if is_dict(value):
        return {sendable(key): plain(one) for key, one in value.items()}
    if is_list(value):
        return [plain(one) for one in value]
    return sendable(_text(value))


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    iso = getattr(value, "isoformat", None)
    return str(value) if iso is None else str(iso())


def stored(data: bytes | None) -> Any:
    """Return what is stored as JSON can hold it; what cannot be read as what is wrong with it."""
    if data is None:
        return None
    try:
        return plain(decode(data))
    except PayloadError as error:
        return {"unreadable": sendable(str(error))}
