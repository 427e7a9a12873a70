"""How a request to run orders arrives: as an object, as JSON, as JSON in base64, from a webhook, or from SNS."""

from dataclasses import dataclass
from typing import Any

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
