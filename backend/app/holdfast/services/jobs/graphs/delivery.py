"""How a request to run orders arrives: as an object, as JSON, as JSON in base64, from a webhook, or from SNS."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.services.jobs.graphs._json import is_list, is_object
from holdfast.services.jobs.graphs.request import RequestRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ID_HEADERS = ("x-github-delivery", "idempotency-key", "x-amz-sns-message-id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One delivery: the document, and the sender's id of it, None where it has none; a repeated one has the same."""

    document: Any
    id: str | None = None


def read_delivery(body: object, *, delivery_id: str | None = None) -> Delivery:
    """Return what a delivery says, whichever form it has; `delivery_id` is what the caller knows it by.

    Forms: an object; JSON, or base64 of JSON, as text or bytes; an HTTP event (`httpMethod` or `requestContext.http`,
    `body`, `isBase64Encoded`), whose method must be POST; an SNS message, over HTTP or as a Lambda event.
    RequestRefusedError: 400 if it cannot be read, 405 for another method.
    """
    for _ in range(4):
        if isinstance(body, bytes | bytearray | str):
            body = _decoded(body)
        if not is_object(body):
            break
        inner = _opened(body)
        if inner is None:
            return Delivery(document=dict(body), id=delivery_id)
        body, known = inner
        delivery_id = delivery_id or known
    raise _refused(f"the delivery holds no object but {type(body).__name__}; give a request as JSON")


def _opened(message: Mapping[str, Any]) -> tuple[Any, str | None] | None:
    """Return what an envelope holds and the id on it; None if it is none."""
    records: Any = message.get("Records")
    if is_list(records):
        return _record(records)
    if message.get("Type") == "Notification" and "Message" in message:
        return message["Message"], _text(message.get("MessageId"))
    method = _method(message)
    if method is None:
        return None
    if method.upper() != "POST":
        raise RequestRefusedError(405, [f"method {method} is not allowed; use POST"])
    body = message.get("body")
    if message.get("isBase64Encoded") and isinstance(body, str):
        body = _unpacked(body.encode())
    return body, _id_of(message.get("headers"))


def _record(records: Sequence[Any]) -> tuple[Any, str | None]:
    if len(records) != 1:
        raise _refused(f"the delivery holds {len(records)} records; give one")
    sns = records[0].get("Sns") if is_object(records[0]) else None
    if not is_object(sns):
        raise _refused("the record is no message of SNS; give one with 'Sns'")
    return sns.get("Message"), _text(sns.get("MessageId"))


def _method(message: Mapping[str, Any]) -> str | None:
    method = message.get("httpMethod")
    context: Any = message.get("requestContext")
    if method is None and is_object(context):
        http = context.get("http")
        method = http.get("method") if is_object(http) else None
    return _text(method)


def _id_of(headers: Any) -> str | None:
    if not is_object(headers):
        return None
    lower = {str(name).lower(): value for name, value in headers.items()}
    return next((found for name in _ID_HEADERS if (found := _text(lower.get(name)))), None)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _decoded(body: bytes | bytearray | str) -> Any:
    """Return what JSON says, or base64 of JSON."""
    data = body.encode(errors="replace") if isinstance(body, str) else bytes(body)
    try:
        return json.loads(data)
    except ValueError:
        pass
    except RecursionError:
        raise _refused("the delivery is nested too deeply") from None
    try:
        return json.loads(_unpacked(data))
    except (ValueError, RecursionError):
        raise _refused("the delivery is neither JSON nor base64 of JSON") from None


def _unpacked(data: bytes) -> bytes:
    try:
        return b64decode(b"".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _refused("the delivery is neither JSON nor base64 of JSON") from None


def _refused(fault: str) -> RequestRefusedError:
    return RequestRefusedError(400, [fault])
